"""Prompts to rows on a worker: loaded models, pictures read in a process of their own, objects exported."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import torch

from pipelines.caching.devices import begin_worker
from pipelines.generating.ground_truth import GroundTruth, compared, ground_truth_of
from pipelines.generating.models import generators_of
from pipelines.generating.rows import FILES, SETTINGS
from pipelines.runtime.output import Failure
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Row
from sar3d import hub
from sar3d.contact_sheet import png
from sar3d.errors import ObjectError, UserError
from sar3d.generate.folders import Folders
from sar3d.generate.models import Sar3D
from sar3d.generate.prompts import Prompt, check_text
from sar3d.generate.sample import Sample
from sar3d.isolation import LimitedProcess
from sar3d.pictures import LIMITS, Picture, picture_process, prepare_picture, read_picture
from sar3d.vqvae.field import Field

if TYPE_CHECKING:
    from pipelines.generate import GenerateConfig

STAGE = "generate"


@dataclass(frozen=True)
class GeneratorWorker:
    """Loaded models, and what is made with them."""

    system: Sar3D
    config: "GenerateConfig"
    pictures: LimitedProcess

    def make(self, items: list[Item]) -> Iterator[Row | Failure]:
        """The row of every item in order, or why there is none."""
        for _, members in groupby(items, key=lambda item: str(item["kind"])):
            prompt_item = [self._ask(item) for item in members]
            prompts = [a.prompt for a in prompt_item if a.prompt is not None]
            config = self.config
            samples = self.system.sample(
                prompts,
                config.decoding,
                precision=config.precision,
                batch=config.batch,
                compile=self.system.device.type == "cuda",
                decoder=config.decoder,
            )
            for one in prompt_item:
                yield self._row(one, next(samples)) if one.prompt is not None else _failure(one.item, one.error)

    def _ask(self, item: Item) -> "PromptItem":
        try:
            # Pictures are views that the tokenizer never saw, where there are any.
            ground_truth = ground_truth_of(item, self.config.held_out) if "object" in item else None
            if item["kind"] == "text":
                return PromptItem(item, Prompt(check_text(item["text"]), item["seed"]), ground_truth)
            picture = self._picture(item, ground_truth)
            name = (
                f"view {ground_truth.view} of {item['object']}"
                if ground_truth is not None
                else Path(item["_path"]).name
            )
            return PromptItem(item, Prompt(picture, item["seed"], name), ground_truth)
        except ObjectError as error:
            return PromptItem(item, None, None, error)

    def _picture(self, item: Item, ground_truth: GroundTruth | None) -> Picture:
        if ground_truth is not None:
            return prepare_picture(ground_truth.picture, self.config.preparation)
        return read_picture(_read(item["_path"]), self.config.preparation, process=self.pictures)

    def _row(self, prompt_item: "PromptItem", sample: Sample) -> Row | Failure:
        item, ground_truth = prompt_item.item, prompt_item.ground_truth
        assert prompt_item.prompt is not None
        said = self._described(sample)
        if said is not None:
            sample = replace(sample, settings={**sample.settings, "caption": said})
        try:
            with tempfile.TemporaryDirectory(prefix="sar3d-generate-") as folder:
                settings = sample.save(folder, self.config.export)
                files = {column: _content(Path(folder, name)) for column, name in FILES.items()}
        except ObjectError as error:
            return _failure(item, error)
        if ground_truth is not None:
            fields = [sample.field, *self._other_fields(sample)]
            files["comparison"] = compared(fields, ground_truth, self.system.vqvae.config.volume, self.system.device)
        picture = prompt_item.prompt.content
        if isinstance(picture, Picture):
            files["prompt"] = png(picture.pixels)
        settings |= {"id": item["uid"], "object": item.get("object"), "preparation": asdict(self.config.preparation)}
        settings["files"] = sorted([SETTINGS, *(FILES[column] for column, data in files.items() if data is not None)])
        return {
            "uid": item["uid"],
            "kind": item["kind"],
            "text": picture if isinstance(picture, str) else None,
            "object": item.get("object"),
            "seed": item["seed"],
            "caption": said,
            "tokens": sample.tokens.numpy().astype(np.uint16),
            "settings": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
            **files,
        }

    @torch.no_grad()
    def _other_fields(self, sample: Sample) -> list[Field]:
        """Of a mesh the radiance field of the same tokens."""
        if self.config.decoder == "nerf":
            return []
        vqvae = self.system.vqvae
        return [vqvae.field(vqvae.decode_tokens(sample.tokens[None].to(self.system.device)))]

    def _described(self, sample: Sample) -> str | None:
        """What the captioner says of it, alone, so that it does not depend on what else is made."""
        if not self.config.caption:
            return None
        config = self.config
        (said,) = self.system.captioner().caption(sample.tokens, config.question, config.caption_decoding)
        return said


@dataclass(frozen=True)
class PromptItem:
    """One item, and the prompt that it is or why it is none."""

    item: Item
    prompt: Prompt | None
    ground_truth: GroundTruth | None = None
    error: ObjectError | None = None


def open_generator_worker(context: "Context[GenerateConfig]") -> GeneratorWorker:
    """Load the stage's models in this process.

    Raises:
        UserError: a model is missing or has changed, or there is no GPU where one is asked for.
    """
    config, models = context.config, context.models
    device = begin_worker(config.gpus, config.cpus)
    generators = generators_of(context, config.kinds)
    captioner = models["captioner"].folder() if config.caption else None
    folders = Folders(
        models["vqvae"].folder(),
        {k: g.model.folder() for k, g in generators.items()},
        "the models of generate",
        captioner,
        models["flexicubes"].folder() if config.decoder == "flexicubes" else None,
    )
    system = Sar3D(folders, device, {kind: generator.weights for kind, generator in generators.items()})
    for kind, generator in generators.items():
        if (system.vqvae_digest, system.generator(kind).digest) != (models["vqvae"].digest, generator.model.digest):
            raise UserError(f"the models have changed since {STAGE} began: run the same command again")
    if config.decoder == "flexicubes" and system.mesh_decoder().digest != models["flexicubes"].digest:
        raise UserError(f"the mesh decoder has changed since {STAGE} began: run the same command again")
    if captioner is not None:
        if hub.digest(captioner) != models["captioner"].digest:
            raise UserError(f"the captioner has changed since {STAGE} began: run the same command again")
        system.captioner()
    return GeneratorWorker(system, config, picture_process())


def _failure(item: Item, error: ObjectError | None) -> Failure:
    assert error is not None
    where = str(item.get("_path", ""))
    return Failure(item["uid"], where, STAGE, error.kind, error.reason, error.attempts, error.stderr)


def _read(place: str) -> bytes:
    """A picture file, wherever it is. Raises `ObjectError`."""
    try:
        with fsspec.open(place, "rb") as file:
            # One byte more than may be there shows that there are too many.
            return bytes(file.read(LIMITS.bytes + 1))
    except FileNotFoundError as error:
        raise ObjectError("missing_file", f"there is no file {place}") from error
    except OSError as error:
        raise ObjectError("unreadable", f"{place} cannot be read ({error})") from error


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None
