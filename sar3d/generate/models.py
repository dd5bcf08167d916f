"""From a sentence or a picture to a 3D object: the models of a folder, loaded, and what they make."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sar3d import hub
from sar3d.ar.decoding_config import Decoding
from sar3d.ar.decoding_config import decoding as named_decoding
from sar3d.ar.sampling import Decoder, Generated, Kept, OnScale, Precision
from sar3d.conditions.condition import Condition
from sar3d.conditions.kinds import CONDITION_KINDS, ConditionKind
from sar3d.errors import ObjectError, UserError
from sar3d.generate.folders import Folders, find_folders
from sar3d.generate.generators import Generator, check_generator, load_generator
from sar3d.generate.mesh_decoder import MeshDecoder, load_mesh_decoder
from sar3d.generate.partial import OnPartial, Partial
from sar3d.generate.prompts import NoPrompt, Prompt, check_seed, check_text
from sar3d.generate.sample import Sample, load_tokens, versions
from sar3d.llm.prompt import CAPTION
from sar3d.pictures import PUBLISHED, Preparation, load_picture, prepare_picture
from sar3d.vqvae.config import PLANES
from sar3d.vqvae.field import Field
from sar3d.vqvae.flexi_config import FIELD_DECODERS, FieldDecoder
from sar3d.working import working_on

if TYPE_CHECKING:
    from sar3d.generate.captioner import Captioner

_BATCH = {"cpu": 4, "cuda": 16}

AnyPicture = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class _Wish:
    """What `Sar3D.sample` is asked for."""

    prompts: Sequence[Prompt]
    decodings: Sequence[Decoding]
    kept: Kept | None
    precision: Precision
    compile: bool
    on_partial: OnPartial | None
    decoder: FieldDecoder


class Sar3D:
    """A VQVAE, its generators and its captioner: `Sar3D.from_pretrained(…).generate(text="a red apple")[0].save("apple")`.

    The VQVAE is loaded at once, a generator with its encoder when the first prompt of its kind comes; both are kept.
    """

    def __init__(self, folders: Folders, device: str | torch.device, weights: dict[ConditionKind, str]) -> None:
        self.folders = folders
        self.device = torch.device(device)
        working_on(f"loading the VQVAE of {folders.vqvae}")
        self.vqvae_digest = hub.digest(folders.vqvae)
        self.vqvae = hub.from_pretrained(folders.vqvae, self.device, kind="vqvae").requires_grad_(False)
        self._weights = weights
        self._generators: dict[ConditionKind, Generator] = {}
        self._decoders: dict[tuple[str, Precision, bool], Decoder] = {}
        self._captioner: Captioner | None = None
        self._mesh_decoder: MeshDecoder | None = None
        for kind in self.kinds:
            check_generator(folders, kind, self.vqvae_digest, self.vqvae.config.quantizer)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        vqvae: str | Path | None = None,
        text: str | Path | None = None,
        image: str | Path | None = None,
        captioner: str | Path | None = None,
        flexicubes: str | Path | None = None,
        device: str = "auto",
        text_weights: str = "",
        image_weights: str = "",
    ) -> "Sar3D":
        """Load the models of a place. Every place is a folder, a URL that fsspec reads (`s3://…`), or `owner/name` of the
        Hugging Face hub; what is not on this machine is fetched.

        Args:
            path: a bundle with `vqvae/`, `ar_text/` or `ar_image/` or both, and perhaps `llm/` and `flexicubes/`; a
                pipeline's root, of which the newest models that belong together are taken; or one generator's folder,
                with `vqvae` beside.
            vqvae: the VQVAE, if it is elsewhere.
            text: the generator for texts, if it is elsewhere.
            image: the generator for pictures, if it is elsewhere.
            captioner: what describes objects, if it is elsewhere.
            flexicubes: what decodes tokens to meshes, if it is elsewhere.
            device: `cpu`, `cuda`, `cuda:1` …; `auto`: a GPU if there is one.
            text_weights: folder, or repository of the Hugging Face hub, with the text encoder's weights; by default
                the place they were trained with.
            image_weights: the same for pictures.

        Raises:
            UserError: models are missing, cannot be fetched or do not belong together, or there is no such device.
        """
        folders = find_folders(path, vqvae=vqvae, text=text, image=image, captioner=captioner, flexicubes=flexicubes)
        return cls(folders, pick_device(device), {"text": text_weights, "image": image_weights})

    @property
    def kinds(self) -> tuple[ConditionKind, ...]:
        """Kinds of prompts that there is a generator for."""
        return tuple(kind for kind in CONDITION_KINDS if self.folders.generators.get(kind) is not None)

    def generate(
        self,
        *,
        text: str | None = None,
        image: AnyPicture | None = None,
        n: int = 1,
        seed: int = 0,
        decoding: Decoding | str = "released",
        preparation: Preparation = PUBLISHED,
        precision: Precision = "auto",
        decoder: FieldDecoder = "nerf",
    ) -> list[Sample]:
        """`n` objects for one text or one picture, with the seeds `seed`, `seed` + 1, …

        Args:
            text: what the object is.
            image: a file, a Pillow image, or an array (H, W, 3) of bytes that shows one object.
            n: number of samples.
            seed: of the first; the same seed gives the same tokens.
            decoding: how tokens are drawn, or the name of one of `sar3d.ar.decoding_config.DECODINGS`.
            preparation: what is done to the picture.
            precision: `auto`, `fp32` or `bf16`.
            decoder: what tokens become: `nerf`, a radiance field; `flexicubes`, a mesh.

        Raises:
            UserError: a prompt that cannot be used, in one sentence; or there is no mesh decoder.
        """
        prompts = self._prompts(text, image, n, seed, preparation)
        return list(self.sample(prompts, decoding, precision=precision, decoder=decoder))

    def _prompts(
        self, text: str | None, image: AnyPicture | None, n: int, seed: int, preparation: Preparation
    ) -> list[Prompt]:
        if n < 1:
            raise UserError(f"{n} samples cannot be generated: n is a number from 1 on")
        prompt = make_prompt(text, image, preparation)
        try:
            return [replace(prompt, seed=check_seed(seed + i)) for i in range(n)]
        except ObjectError as error:
            raise UserError(error.reason) from error

    def vary(
        self,
        source: Sample | Tensor | str | Path,
        *,
        keep_scales: int,
        text: str | None = None,
        image: AnyPicture | None = None,
        n: int = 1,
        seed: int = 0,
        decoding: Decoding | str = "released",
        preparation: Preparation = PUBLISHED,
        precision: Precision = "auto",
        decoder: FieldDecoder = "nerf",
    ) -> list[Sample]:
        """`n` objects that share their coarsest scales with another one; the finer ones follow the text or picture.

        Args:
            source: what `generate` gave, tokens (L,) of this VQVAE, or where `Sample.save` has written them.
            keep_scales: how many of its scales are kept; 0 is `generate`, all of them give the object back.

        The other arguments and `UserError` are as for `generate`.
        """
        given = source.tokens if isinstance(source, Sample) else source
        tokens = given if isinstance(given, Tensor) else load_tokens(given, self.vqvae_digest)
        prompts = self._prompts(text, image, n, seed, preparation)
        kept = Kept(tokens.long().cpu().expand(n, -1), [keep_scales] * n)
        return list(self.sample(prompts, decoding, kept=kept, precision=precision, decoder=decoder))

    def sample(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding | str | Sequence[Decoding] = "released",
        *,
        kept: Kept | None = None,
        precision: Precision = "auto",
        batch: int | None = None,
        compile: bool = False,
        on_partial: OnPartial | None = None,
        decoder: FieldDecoder = "nerf",
    ) -> Iterator[Sample]:
        """One sample per prompt, in order; prompts are of one kind. A sample does not depend on the ones beside it.

        Args:
            prompts: checked ones, see `sar3d.generate.prompts` and `sar3d.pictures`.
            decoding: how tokens are drawn, of all or one for each prompt.
            kept: tokens that the samples begin with, a row for each prompt.
            precision: of the transformer.
            batch: prompts at once; by default 4 on a CPU, 16 on a GPU.
            compile: for many prompts on a GPU, see `sar3d.ar.decode.Decoder`.
            on_partial: called after every scale, with what there is so far.
            decoder: what tokens become.

        Raises:
            UserError: there is no generator for this kind of prompt, or it does not fit the VQVAE or the encoder; or there
                is no mesh decoder.
        """
        if decoder not in FIELD_DECODERS:
            raise UserError(f"there is no decoder {decoder!r}: choose from {', '.join(FIELD_DECODERS)}")
        if decoder == "flexicubes":
            self.mesh_decoder()
        decodings = _decodings(decoding, len(prompts))
        wish = _Wish(prompts, decodings, kept, precision, compile, on_partial, decoder)
        size = batch or _BATCH.get(self.device.type, 1)
        encoded: dict[str | int, Condition] = {}
        for start in range(0, len(prompts), size):
            yield from self._batch(wish, start, size, encoded)

    def _batch(self, wish: _Wish, start: int, size: int, encoded: dict[str | int, Condition]) -> Iterator[Sample]:
        """The samples of `size` prompts from `start` on, or of those that are left."""
        chunk, drawn = wish.prompts[start : start + size], wish.decodings[start : start + size]
        kind, kept = chunk[0].kind, wish.kept
        generator, drawing = self.generator(kind), self._decoder(kind, wish.precision, wish.compile)
        began = time.perf_counter()
        conditions = [self._condition(generator, prompt, encoded) for prompt in chunk]
        encoded_at = time.perf_counter()
        # What is compiled for one size is compiled anew for another: the last prompt fills up the batch.
        rows = [*range(len(chunk)), *[len(chunk) - 1] * (size - len(chunk) if wish.compile else 0)]
        working_on(f"drawing the tokens of objects {start + 1} to {start + len(chunk)} of {len(wish.prompts)}")
        made = drawing.generate(
            Condition.cat([conditions[i] for i in rows]),
            generator.empty,
            [chunk[i].seed for i in rows],
            [drawn[i] for i in rows],
            kept=None if kept is None else kept.select([start + i for i in rows]),
            on_scale=None if wish.on_partial is None else self._partial(start, wish.on_partial),
        )
        spent = {"encode": encoded_at - began, "tokens": time.perf_counter() - encoded_at}
        seconds = {part: time_ / len(chunk) for part, time_ in spent.items()}
        about = self._about(generator, wish.decoder, drawing)
        for i, prompt in enumerate(chunk):
            asked = {"prompt": prompt.describe(), "seed": prompt.seed, "decoding": asdict(drawn[i])}
            if kept is not None:
                asked["keep_scales"] = kept.scales[start + i]
            yield self._sample(made, i, wish.decoder, {**asked, **about}, seconds)

    def _partial(self, first: int, tell: OnPartial) -> OnScale:
        scales = len(self.vqvae.config.quantizer.scales)
        return lambda done: tell(Partial(first, done.scale, scales, done, self.vqvae))

    def caption(self, samples: "Sample | Sequence[Sample] | Tensor", question: str = CAPTION) -> list[str]:
        """What objects are, in words: one answer for each.

        Args:
            samples: what `generate` gave, or tokens (B, L) of this VQVAE.
            question: by default the published instruction, which asks for a caption.

        Raises:
            UserError: there is no captioner, or it reads the codes of another VQVAE.
        """
        if isinstance(samples, Sample):
            samples = [samples]
        tokens = samples if isinstance(samples, Tensor) else torch.stack([sample.tokens for sample in samples])
        return self.captioner().caption(tokens.to(self.device), question)

    def captioner(self) -> "Captioner":
        """What describes objects, loaded and checked; kept from then on. Raises `UserError` as `caption` does."""
        from sar3d.generate.captioner import Captioner

        if self._captioner is None:
            folder = self.folders.captioner
            if folder is None:
                raise UserError(f"there is no captioner in {self.folders.where}: give the folder of one (captioner)")
            working_on(f"loading the captioner of {folder}")
            made = Captioner.from_pretrained(folder, self.device)
            hub.check_tokens(f"the captioner in {folder}", made.vqvae, str(self.folders.vqvae), self.vqvae_digest)
            self._captioner = made
        return self._captioner

    def mesh_decoder(self) -> MeshDecoder:
        """What decodes tokens to meshes, loaded and checked; kept from then on. Raises `UserError` if there is none."""
        if self._mesh_decoder is None:
            quantizer = self.vqvae.config.quantizer
            self._mesh_decoder = load_mesh_decoder(self.folders, self.vqvae_digest, quantizer, self.device)
        return self._mesh_decoder

    @torch.no_grad()
    def decode(
        self, f_hat: Float[Tensor, "P D G G"], decoder: FieldDecoder = "nerf"
    ) -> tuple[Float[Tensor, "1 P C R R"], Field]:
        """The triplane of one object's quantized latent planes, and its field. Raises `UserError` as `mesh_decoder`."""
        model = self.vqvae if decoder == "nerf" else self.mesh_decoder().model
        planes = model.decode(f_hat)
        return planes, model.field(planes)

    def _about(self, generator: Generator, decoder: FieldDecoder, drawing: Decoder) -> dict[str, Any]:
        models = {"vqvae": self.vqvae_digest, "generator": generator.digest}
        if decoder == "flexicubes":
            models["flexicubes"] = self.mesh_decoder().digest
        return {
            "precision": str(drawing.dtype).removeprefix("torch."),
            "models": models,
            "decoder": decoder,
            "encoder": generator.encoder.id,
            "device": str(self.device),
            "versions": versions(),
        }

    def _sample(
        self, made: Generated, i: int, decoder: FieldDecoder, settings: dict[str, Any], seconds: dict[str, float]
    ) -> Sample:
        began = time.perf_counter()
        planes, field = self.decode(made.f_hat[PLANES * i : PLANES * (i + 1)], decoder)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # or the time would be somebody else's
        seconds = {**seconds, "planes": time.perf_counter() - began}
        return Sample(
            tokens=made.tokens[i].cpu(),
            planes=planes,
            field=field,
            volume=self.vqvae.config.volume,
            settings={**settings, "seconds": seconds},
        )

    def _decoder(self, kind: ConditionKind, precision: Precision, compile: bool) -> Decoder:
        key = (kind, precision, compile)
        if key not in self._decoders:
            model = self.generator(kind).model
            self._decoders[key] = Decoder(model, self.vqvae.quantizer, precision=precision, compile=compile)
        return self._decoders[key]

    def generator(self, kind: ConditionKind) -> Generator:
        """The generator for one kind of prompt, loaded and checked; kept from then on. Raises `UserError`."""
        if kind not in self._generators:
            self._generators[kind] = load_generator(self.folders, kind, self.device, self._weights[kind])
        return self._generators[kind]

    def _condition(self, generator: Generator, prompt: Prompt, encoded: dict[str | int, Condition]) -> Condition:
        """B = 1. One prompt at a time: what an encoder makes of it must not depend on what else is asked."""
        content = prompt.content
        if isinstance(content, NoPrompt):
            return generator.empty
        key = content if isinstance(content, str) else id(content)
        if key not in encoded:
            encoded.clear()  # only samples of one prompt, which follow each other, share their condition
            given = [content] if isinstance(content, str) else content.pixels[None]
            encoded[key] = generator.encoder.encode(given).float()
        return encoded[key]


def _decodings(decoding: Decoding | str | Sequence[Decoding], count: int) -> list[Decoding]:
    """One for each prompt."""
    if isinstance(decoding, str):
        return [named_decoding(decoding)] * count
    return [decoding] * count if isinstance(decoding, Decoding) else list(decoding)


def make_prompt(text: str | None, image: AnyPicture | None, preparation: Preparation = PUBLISHED) -> Prompt:
    """A text or a picture, checked and prepared. Raises `UserError` for both, none, or one that cannot be used."""
    if (text is None) == (image is None):
        raise UserError("give either a text or a picture to generate from")
    try:
        if text is not None:
            return Prompt(check_text(text))
        if isinstance(image, str | Path):
            return Prompt(load_picture(image, preparation), name=Path(image).name)
        assert image is not None
        return Prompt(prepare_picture(image, preparation))
    except ObjectError as error:
        named = isinstance(image, str | Path) and error.kind != "missing_file"
        raise UserError(f"{image}: {error.reason}" if named else error.reason) from error


def pick_device(name: str) -> torch.device:
    """A device by name; `auto`: a GPU if there is one. Raises `UserError` where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there is no device {name!r} here: choose cpu, cuda or auto") from error
    return device
