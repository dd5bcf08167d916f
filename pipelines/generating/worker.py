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

from pipelines.caching.devices import begin_worker
from pipelines.exported import local_copy
from pipelines.generating.rows import FILES, SETTINGS
from pipelines.generating.truth import Truth, compared, truth_of
from pipelines.runtime.output import Failure
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Row
from pipelines.train_llm import local_folder
from sar3d import hub
from sar3d.errors import ObjectError, UserError
from sar3d.generate.folders import Folders
from sar3d.generate.models import Sar3D
from sar3d.generate.prompts import Prompt, check_text
from sar3d.generate.sample import Sample
from sar3d.isolation import LimitedProcess
from sar3d.pictures import LIMITS, Picture, picture_process, prepare_picture, read_picture
from sar3d.sheets import png

if TYPE_CHECKING:
    from pipelines.config import PipelineConfig
    from pipelines.generate import GenerateConfig, Models

STAGE = "generate"


@dataclass(frozen=True)
class Maker:
    """Loaded models, and what is made with them."""

    system: Sar3D
    whole: "PipelineConfig"
    pictures: LimitedProcess

    @property
    def config(self) -> "GenerateConfig":
        return self.whole.generate

    def make(self, items: list[Item]) -> Iterator[Row | Failure]:
        """The row of every item in order, or why there is none."""
        for _, members in groupby(items, key=lambda item: str(item["kind"])):
            asked = [self._ask(item) for item in members]
            prompts = [a.prompt for a in asked if a.prompt is not None]
            config = self.config
            samples = self.system.sample(
                prompts,
                config.decoding(),
                precision=config.precision,
                batch=config.batch,
                compile=self.system.device.type == "cuda",
            )
            for one in asked:
                yield self._row(one, next(samples)) if one.prompt is not None else _failure(one.item, one.error)

    def _ask(self, item: Item) -> "Asked":
        try:
            # Pictures are views that the tokenizer never saw, where there are any.
            truth = truth_of(item, self.whole.train_vqvae.data) if "object" in item else None
            if item["kind"] == "text":
                return Asked(item, Prompt(check_text(item["text"]), item["seed"]), truth)
            picture = self._picture(item, truth)
            name = f"view {truth.view} of {item['object']}" if truth is not None else Path(item["_path"]).name
            return Asked(item, Prompt(picture, item["seed"], name), truth)
        except ObjectError as error:
            return Asked(item, None, None, error)

    def _picture(self, item: Item, truth: Truth | None) -> Picture:
        if truth is not None:
            return prepare_picture(truth.picture, self.config.preparation)
        return read_picture(_read(item["_path"]), self.config.preparation, process=self.pictures)

    def _row(self, asked: "Asked", sample: Sample) -> Row | Failure:
        item, truth = asked.item, asked.truth
        assert asked.prompt is not None
        said = self._described(sample)
        if said is not None:
            sample = replace(sample, settings={**sample.settings, "caption": said})
        try:
            with tempfile.TemporaryDirectory(prefix="sar3d-generate-") as folder:
                settings = sample.save(folder, self.config.export)
                files = {column: _content(Path(folder, name)) for column, name in FILES.items()}
        except ObjectError as error:
            return _failure(item, error)
        if truth is not None:
            files["comparison"] = compared(sample.field, truth, self.system.vqvae.config.volume, self.system.device)
        picture = asked.prompt.content
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

    def _described(self, sample: Sample) -> str | None:
        """What the captioner says of it, alone, so that it does not depend on what else is made."""
        if not self.config.caption:
            return None
        section = self.whole.caption
        (said,) = self.system.captioner().caption(sample.tokens, section.question, section.decoding)
        return said


@dataclass(frozen=True)
class Asked:
    """One item, and the prompt that it is or why it is none."""

    item: Item
    prompt: Prompt | None
    truth: Truth | None = None
    error: ObjectError | None = None


def open_maker(whole: "PipelineConfig", models: "Models") -> Maker:
    """Load the models that the section `generate` means in this process.

    Raises:
        UserError: a model is missing or has changed, or there is no GPU where one is asked for.
    """
    device = begin_worker(whole.generate.gpus, whole.generate.cpus)
    generators = {kind: local_copy(ref.model.url) for kind, ref in models.generators.items()}
    captioner = None if models.captioner is None else local_folder(models.captioner.url)
    folders = Folders(local_copy(models.vqvae.url), generators, "the models of generate", captioner)
    weights = {kind: weights for kind, (_, weights) in models.encoders.items()}
    system = Sar3D(folders, device, weights)
    for kind, ref in models.generators.items():
        if (system.vqvae_digest, system.generator(kind).digest) != (models.vqvae.digest, ref.model.digest):
            raise UserError(f"the models have changed since {STAGE} began: run the same command again")
    if models.captioner is not None and captioner is not None:
        if hub.digest(captioner) != models.captioner.digest:
            raise UserError(f"the captioner has changed since {STAGE} began: run the same command again")
        system.captioner()
    return Maker(system, whole, picture_process())


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
