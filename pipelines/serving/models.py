"""What one replica computes: samples in batches, previews, files, and descriptions. Knows neither Ray nor HTTP.

Four kinds of work have threads of their own: tokens are decoded in batches (`decode`), previews are drawn in order while
the next scale is decoded (`previews`), finished samples become files and words (`exports`), and uploads are read in
limited processes (`reader`).
"""

import asyncio
import io
import logging
import tempfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipelines.caching.token_encoder import loaded_encoder
from pipelines.captioning.files import KINDS, encoded_files
from pipelines.render import RenderConfig
from pipelines.serving.batching import Batcher, Job, kept_of
from pipelines.serving.problems import ServiceError, problem_of
from pipelines.serving.settings import ModelSettings
from pipelines.serving.work import Asked, Begun, Described, Event, Failed, Made, Question, Scale, Upload
from sar3d.ar.generated import Kept
from sar3d.errors import ObjectError, UserError
from sar3d.generate.models import Sar3D
from sar3d.generate.partial import Partial, preview
from sar3d.generate.prompts import NoPrompt, Prompt, check_seed, check_text
from sar3d.generate.sample import EXPORTED, TOKENS, Sample
from sar3d.llm.prompt import CAPTION
from sar3d.pictures import picture_process, read_picture
from sar3d.render import pick_backend
from sar3d.vqvae.config import PLANES

_LOG = logging.getLogger(__name__)
_PUBLIC = {TOKENS, *EXPORTED.values()}


class AbandonedError(Exception):
    """Nobody waits for any job of the batch."""


class ModelService:
    """The models of one place, for many requests at once.

    Args:
        system: loaded models; all that it has are loaded by `warm`.
        settings: how they work.
    """

    def __init__(self, system: Sar3D, settings: ModelSettings = ModelSettings()) -> None:  # noqa: B008  frozen
        self.system, self.settings = system, settings
        self.scales = tuple(system.vqvae.config.quantizer.scales)
        self.length = PLANES * sum(side * side for side in self.scales)
        self._encoder = loaded_encoder(system.vqvae, system.vqvae_digest)
        self._rendering = RenderConfig(
            backend=pick_backend("auto"),
            object_seconds=settings.object_seconds,
            object_memory=settings.object_memory,
            file_bytes=1 << 30,
        )
        self._picture_process = picture_process()
        self._batcher = Batcher(self._decode, settings.batch)
        self._previews = ThreadPoolExecutor(1, thread_name_prefix="previews")
        self._exports = ThreadPoolExecutor(settings.exporters, thread_name_prefix="exports")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")

    def warm(self) -> None:
        """Load every model, and generate once with each generator, so that the first request waits for nothing."""
        for kind in self.system.kinds:
            list(self.system.sample([Prompt(NoPrompt(kind))]))
        if self.system.folders.captioner is not None:
            self.system.captioner()

    def close(self) -> None:
        """End the threads and the limited processes."""
        self._batcher.close()
        for pool in (self._previews, self._exports, self._reader):
            pool.shutdown(wait=True, cancel_futures=True)
        self._picture_process.close()

    async def about(self) -> dict[str, Any]:
        """What can be asked for."""
        return {
            "prompts": list(self.system.kinds),
            "decoders": ["nerf", *(["flexicubes"] if self.system.folders.flexicubes else [])],
            "captions": self.system.folders.captioner is not None,
            "scales": list(self.scales),
            "objects": list(KINDS),
        }

    async def generate(self, asked: Asked) -> AsyncIterator[Event]:
        """Progress and results of a request; the last event of one that cannot be met is `Failed`.

        Closing the iterator, or cancelling the task that reads it, gives up the request.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | Exception | None]()
        job: Job | None = None
        try:
            prompts, kept = await loop.run_in_executor(self._reader, self._read, asked)
            tell = _teller(loop, events)
            job = Job(prompts, asked.decoding, tell, asked, kept, asked.keep_scales, asked.decoder)
            self._batcher.submit(job)
            while (event := await events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        except Exception as error:
            yield _failed(error)
        finally:
            if job is not None:
                job.gone.set()

    async def caption(self, question: Question) -> Described | Failed:
        """An uploaded object in words."""
        loop = asyncio.get_running_loop()
        try:
            self._check_captioner()
            tokens = await loop.run_in_executor(self._reader, self._tokens_of, question.upload)
            words = await loop.run_in_executor(self._exports, self._words, tokens[None], question.question)
            return Described(words, tuple(tokens.tolist()))
        except Exception as error:
            return _failed(error)

    def _words(self, tokens: Tensor, question: str) -> str:
        return self.system.captioner().caption(tokens.to(self.system.device), question)[0]

    def _read(self, asked: Asked) -> tuple[list[Prompt], Tensor | None]:
        """Checked prompts and the tokens that are kept, in the reader's thread."""
        prompt = Prompt(self._content(asked))
        prompts = [replace(prompt, seed=check_seed(asked.seed + i)) for i in range(asked.n)]
        self._check(prompt.kind in self.system.kinds, "no_generator", "this service has no generator for such prompts")
        if asked.caption:
            self._check_captioner()
        has_meshes = asked.decoder == "nerf" or self.system.folders.flexicubes is not None
        self._check(has_meshes, "no_mesh_decoder", "this service has no mesh decoder: ask for decoder=nerf")
        if asked.source is None:
            return prompts, None
        if not 0 <= asked.keep_scales <= len(self.scales):
            raise UserError(f"keep_scales is a number from 0 to {len(self.scales)}, not {asked.keep_scales}")
        source = asked.source
        tokens = self._tokens_of(source) if isinstance(source, Upload) else torch.tensor(source, dtype=torch.long)
        codes = self.system.vqvae.config.quantizer.codebook_size
        if tokens.shape != (self.length,) or not 0 <= int(tokens.min()) <= int(tokens.max()) < codes:
            raise UserError("the earlier result was made by other models: generate it again")
        return prompts, tokens

    def _check_captioner(self) -> None:
        there = self.system.folders.captioner is not None
        self._check(there, "no_captioner", "this service describes no objects: it has no captioner")

    def _check(self, there: bool, kind: str, message: str) -> None:
        if not there:
            raise ServiceError(422, kind, message)

    def _content(self, asked: Asked) -> Any:
        if asked.text is not None and asked.picture is not None:
            raise UserError("give either a text or a picture to generate from, not both")
        if asked.text is not None:
            return check_text(asked.text)
        if asked.picture is not None:
            return read_picture(asked.picture, process=self._picture_process)
        return NoPrompt(self.system.kinds[0])

    def _tokens_of(self, upload: Upload) -> Tensor:
        """Tokens of an uploaded object, read and drawn in a limited process, in a folder of its own."""
        if upload.kind not in KINDS:
            raise ObjectError("unknown_format", f"the file is none of {', '.join(KINDS)}: export it as one of them")
        gpus = float(self.system.device.type == "cuda")
        with tempfile.TemporaryDirectory(prefix="sar3d-upload-") as folder:
            path = Path(folder, f"object{upload.kind}")
            path.write_bytes(upload.data)
            resolution = self.system.vqvae.config.resolution
            (made,) = encoded_files([path], self._encoder, resolution, self._rendering, gpus)
        if made.tokens is None:
            raise ObjectError(made.kind, made.error.replace(str(path), "the file").replace(folder, ""))
        return torch.tensor(made.tokens)

    def _decode(self, jobs: list[Job]) -> None:
        """One batch, in the batcher's thread."""
        prompts = [prompt for job in jobs for prompt in job.prompts]
        decodings = [job.decoding for job in jobs for _ in job.prompts]
        found = kept_of(jobs, self.length)
        kept = None if found is None else Kept(*found)
        for job in jobs:
            job.tell(Begun(len(prompts)))
        try:
            drawn = self.system.sample(
                prompts,
                decodings,
                kept=kept,
                batch=len(prompts),
                on_partial=lambda done: self._show(jobs, done),
                decoder=jobs[0].decoder,
            )
            samples = list(drawn)
        except AbandonedError:
            return
        for job in jobs:
            mine, samples = samples[: len(job.prompts)], samples[len(job.prompts) :]
            self._previews.submit(self._exports.submit, self._finish, job, mine)  # after the last preview

    def _show(self, jobs: Sequence[Job], done: Partial) -> None:
        if all(job.gone.is_set() for job in jobs):
            raise AbandonedError
        first = 0
        for job in jobs:
            last = first + len(job.prompts)
            if job.asked.previews and not job.gone.is_set():
                latent = done.done.f_hat[PLANES * first : PLANES * last].clone()
                self._previews.submit(self._draw, job, done.scale, latent)
            first = last

    @torch.no_grad()
    def _draw(self, job: Job, scale: int, latent: Tensor) -> None:
        """One scale's pictures, in the thread for previews."""
        if job.gone.is_set():
            return
        try:
            vqvae, pictures = self.system.vqvae, []
            for part in latent.split(PLANES):
                pictures.append(_webp(preview(vqvae.field(vqvae.decode(part)), self.settings.preview, vqvae)))
            job.tell(Scale(scale + 1, len(self.scales), self.scales[scale], tuple(pictures)))
        except Exception as error:
            job.tell(error)

    def _finish(self, job: Job, samples: Sequence[Sample]) -> None:
        """The files and words of a request, in a thread for exports."""
        try:
            for number, sample in enumerate(samples):
                if job.gone.is_set():
                    return
                job.tell(self._made(job.asked, number, sample))
            job.tell(None)
        except Exception as error:
            job.tell(error)

    def _made(self, asked: Asked, number: int, sample: Sample) -> Made:
        words = self._words(sample.tokens[None], CAPTION) if asked.caption else None
        export = replace(self.settings.export, formats=asked.formats)
        problem = None
        with tempfile.TemporaryDirectory(prefix="sar3d-export-") as folder:
            try:
                sample.save(folder, export)
            except ObjectError as error:
                problem = error.reason
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name in _PUBLIC}
        about = {name: sample.settings[name] for name in ("prompt", "decoding", "models", "versions", "precision")}
        tokens = tuple(sample.tokens.tolist())
        return Made(number, sample.settings["seed"], tokens, words, files, about, problem)


def _teller(loop: asyncio.AbstractEventLoop, events: "asyncio.Queue[Event | Exception | None]") -> Any:
    def tell(event: Event | Exception | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    return tell


def _failed(error: Exception) -> Failed:
    told: ServiceError = problem_of(error)
    if told.status == 500:
        _LOG.exception("a request failed", exc_info=error)
    return Failed(told.status, told.kind, told.message)


def _webp(pixels: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", quality=80, method=2)
    return out.getvalue()
