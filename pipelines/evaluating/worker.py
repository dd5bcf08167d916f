"""Objects to numbers on a worker: loaded models, what they make, baselines, and what metrics say of both."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipelines.caching.devices import begin_worker, exact
from pipelines.evaluating.baselines import Baselines
from pipelines.evaluating.models import Models, models_of
from pipelines.evaluating.rows import CODES, MEAN, NEAREST, WHITE
from pipelines.evaluating.sheet import comparison
from pipelines.evaluating.truth import (
    Views,
    compared,
    level_view,
    open_views,
    pictures_of,
    unseen,
    view_data,
)
from pipelines.exported import local_copy
from pipelines.runtime.output import Failure
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Row
from pipelines.train_llm import local_folder
from sar3d.ar.evaluate import Look, decoded
from sar3d.conditions import load_encoder
from sar3d.data.samples import Targets
from sar3d.data.view_dataset import ViewSample
from sar3d.errors import ObjectError, UserError
from sar3d.generate.folders import Folders
from sar3d.generate.models import Sar3D
from sar3d.generate.prompts import Kind, Prompt, check_text
from sar3d.generate.sample import Sample
from sar3d.llm.captioner import Captioner
from sar3d.metrics.lpips import perceptual_loss
from sar3d.metrics.registry import GENERATION, OURS, RECONSTRUCTION, Metric, Pictures, Subject, Tools, measure
from sar3d.pictures import prepare_picture
from sar3d.sheets import to_bytes
from sar3d.vqvae.evaluate import reconstruct

if TYPE_CHECKING:
    from pipelines.evaluate import EvaluateConfig

STAGE = "evaluate"


@dataclass(frozen=True)
class Prepared:
    """One object that is to be generated."""

    item: Item
    prompt: Prompt
    query: Float[Tensor, " C"]
    """The prompt's pooled vector, by which training objects are compared with it."""
    truth: Targets
    codes: Int64[Tensor, " L"]
    """Of its first view group."""


class Judge:
    """Loaded models, and what is measured of them."""

    def __init__(
        self,
        context: "Context[EvaluateConfig]",
        system: Sar3D | None,
        captioner: Captioner | None,
        looking: tuple[str, str] | None,
        device: torch.device,
    ) -> None:
        config = context.config
        self.config, self.whole, self.inputs = config, context.everything, context.inputs
        self.system, self.captioner, self.device = system, captioner, device
        self.baselines = Baselines(context)
        distance = replace(config.lpips, vgg16="substitute") if config.perceptual == "substitute" else config.lpips
        generating = system is not None and bool(system.kinds)
        self.tools = Tools(
            perceptual=perceptual_loss(distance).to(device) if system is not None else None,
            image_encoder=self._image_encoder(looking) if generating else None,
            text_encoder=system.generator("text").encoder if system is not None and "text" in system.kinds else None,
        )

    def rows(self, items: list[Item]) -> Iterator[Row | Failure]:
        """The row of every item in order, or why there is none."""
        for (what, part), group in groupby(items, key=lambda item: (item["what"], item["part"])):
            members = list(group)
            if what == "captions":
                yield from self._captions(members, part)
                continue
            data = view_data(self.whole, self.config.views, part, normals=what == "reconstruction")
            views = open_views(sorted({item["_file"] for item in members}), data, {item["object"] for item in members})
            if what == "reconstruction":
                yield from (self._reconstruction(item, views) for item in members)
            else:
                yield from self._generation(members, views, what)

    # ---- reconstruction

    def _reconstruction(self, item: Item, views: Views) -> Row | Failure:
        vqvae = self._system.vqvae
        try:
            sample = views.sample(item["object"], unseen(views.dataset.config))
        except ObjectError as error:
            return _failure(item, error)
        sample = replace(sample, supervision=compared(sample, self.config.compared, encoded=False))
        with exact():
            made = reconstruct(vqvae, sample)
        truth = pictures_of(sample.supervision, self.device)
        shown = {
            OURS: Pictures(made.rgb, made.opacity, made.depth, made.normal),
            WHITE: Pictures(torch.ones_like(truth.rgb)),
            MEAN: self._mean(truth),
        }
        return self._row(item, Subject(truth, shown), RECONSTRUCTION)

    # ---- generation

    def _generation(self, items: Sequence[Item], views: Views, kind: Kind) -> Iterator[Row | Failure]:
        asked = [self._prepared(item, views, kind) for item in items]
        prompts = [one.prompt for one in asked if isinstance(one, Prepared)]
        samples = self._system.sample(
            prompts,
            self.whole.generate.decoding(),
            precision=self.whole.generate.precision,
            batch=self.config.batch,
            compile=self.device.type == "cuda",
        )
        for one in asked:
            if isinstance(one, Failure):
                yield one
                continue
            try:
                yield self._generated(one, next(samples), kind)
            except ObjectError as error:  # the views of the nearest training object
                yield _failure(one.item, error)

    def _prepared(self, item: Item, views: Views, kind: Kind) -> Prepared | Failure:
        encoder = self._system.generator(kind).encoder
        try:
            sample = views.sample(item["object"])
            if kind == "text":
                text = check_text(item["captions"][0])
                prompt, features = Prompt(text, item["seed"]), encoder.encode([text])
            else:
                prompting = self._prompting(item, views, sample)
                pixels = to_bytes((prompting.supervision.image[0] + 1) / 2)
                picture = prepare_picture(pixels, self.whole.generate.preparation)
                name = f"view {prompting.supervision_ids[0]}"
                prompt, features = Prompt(picture, item["seed"], name), encoder.encode(pixels[None])
        except ObjectError as error:
            return _failure(item, error)
        truth = compared(sample, self.config.compared, encoded=True)
        with torch.no_grad(), exact():
            codes = self._system.vqvae.tokens(sample.encoder_input[None].to(self.device))[0].cpu()
        return Prepared(item, prompt, features.pooled[0].float().cpu(), truth, codes)

    def _prompting(self, item: Item, views: Views, sample: ViewSample) -> ViewSample:
        """One view alone: of those that no training was given, if there are any, the one most from the side."""
        shown = unseen(views.dataset.config)
        sample = sample if shown == "all" else views.sample(item["object"], shown)
        place = level_view(sample)
        ids = (sample.supervision_ids[place],)
        return replace(sample, supervision=sample.supervision.at([place]), supervision_ids=ids)

    def _generated(self, asked: Prepared, sample: Sample, kind: Kind) -> Row:
        system, cameras, side = self._system, asked.truth.cameras, asked.truth.image.shape[-1]
        truth = pictures_of(asked.truth, self.device)
        shown = {
            OURS: Pictures(Look(system.vqvae, sample.planes)(cameras, side)),
            CODES: Pictures(Look(system.vqvae, decoded(system.vqvae, asked.codes))(cameras, side)),
            MEAN: self._mean(truth),
        }
        told = self._told({OURS: sample.tokens, CODES: asked.codes})
        neighbours = self.baselines.neighbours(kind, system.generator(kind).encoder.id)
        place = neighbours.nearest(asked.query, asked.item["sha256"])
        if place is not None:
            shown[NEAREST] = pictures_of(neighbours.seen(place, cameras), self.device)
            told |= {NEAREST: neighbours.caption(place)} if told and kind == "text" else {}
        prompt = asked.prompt.content if isinstance(asked.prompt.content, str) else ""
        subject = Subject(truth, shown, prompt, told, sample.field)
        nearest = neighbours.candidates.uids[place] if place is not None else None
        return self._row(asked.item, subject, GENERATION, prompt=prompt or asked.prompt.name, nearest=nearest)

    def _told(self, tokens: Mapping[str, Tensor]) -> dict[str, str]:
        """Captions of objects of these codes; none where there is no captioner."""
        if self.captioner is None:
            return {}
        decoding = self.whole.caption.decoding
        return {of: self.captioner.caption(codes, decoding=decoding)[0] for of, codes in tokens.items()}

    # ---- captions

    def _captions(self, items: Sequence[Item], part: str) -> Iterator[Row | Failure]:
        """Of training objects a view group is described that was held out, where there is one."""
        assert self.captioner is not None
        apart = set(self.whole.train_llm.data.held_out_groups) if part == "training" else set()
        codes = _codes(items, apart)
        known = [codes[item["object"]][1] for item in items if item["object"] in codes]
        said = iter(self.captioner.caption(torch.tensor(known), decoding=self.whole.caption.decoding) if known else ())
        for item in items:
            if item["object"] not in codes:
                yield _failure(item, ObjectError("no_tokens", f"the tokens of {item['object']} are not there"))
                continue
            prompt = f"view group {codes[item['object']][0]}"
            about = {"references": item["captions"], "name": item["name"], "category": item["category"]}
            yield {**_about(item), "prompt": prompt, "numbers": [], "said": next(said), **about}

    # ---- what is common

    @property
    def _system(self) -> Sar3D:
        assert self.system is not None
        return self.system

    def _image_encoder(self, looking: tuple[str, str] | None) -> Any:
        if looking is None:
            return None
        if self.system is not None and "image" in self.system.kinds:
            return self.system.generator("image").encoder
        return load_encoder(*looking, self.device, "evaluate.image_weights")

    def _mean(self, truth: Pictures) -> Pictures:
        return Pictures(self.baselines.mean().to(self.device).expand_as(truth.rgb))

    def _row(self, item: Item, subject: Subject, metrics: Mapping[str, Metric], **about: Any) -> Row:
        numbers = measure(subject, metrics, self.tools)
        lines = [subject.truth.rgb, subject.shown[OURS].rgb]
        lines += [subject.shown[NEAREST].rgb] if NEAREST in subject.shown else []
        return {**_about(item), "numbers": numbers, "comparison": comparison(lines), **about}


def open_judge(context: "Context[EvaluateConfig]") -> Judge:
    """Load the models in this process.

    Raises:
        UserError: a model is missing or has changed, or there is no GPU where one is asked for.
    """
    device = begin_worker(context.config.gpus, context.config.cpus)
    models = models_of(context)
    system = _system(models, device)
    captioner = None
    if models.captioner is not None:
        captioner = Captioner.from_pretrained(local_folder(models.captioner.url), device)
    return Judge(context, system, captioner, models.looking, device)


def _system(models: Models, device: torch.device) -> Sar3D | None:
    if models.vqvae is None:
        return None
    generators = {kind: local_copy(ref.model.url) for kind, ref in models.generators.items()}
    folders = Folders(local_copy(models.vqvae.url), generators, "the models of evaluate")
    system = Sar3D(folders, device, {kind: models.encoders[kind][1] for kind in models.encoders})
    digests = {"vqvae": (system.vqvae_digest, models.vqvae.digest)}
    for kind, ref in models.generators.items():
        digests[kind] = (system.generator(kind).digest, ref.model.digest)
    if any(found != wanted for found, wanted in digests.values()):
        raise UserError(f"the models have changed since {STAGE} began: run the same command again")
    return system


def _codes(items: Sequence[Item], apart: set[int]) -> dict[str, tuple[int, list[int]]]:
    """View group and codes of objects: the first group of `apart` that an object has, else its first."""
    found: dict[str, tuple[int, list[int]]] = {}
    for place, members in groupby(items, key=lambda item: str(item["_file"])):
        wanted = [("uid", "in", [item["object"] for item in members])]
        with fsspec.open(place, "rb") as file:
            rows = pq.read_table(file, columns=["uid", "group", "codes"], filters=wanted).to_pylist()
        for row in rows:
            known = found.get(row["uid"])
            if known is None or (row["group"] in apart and known[0] not in apart):
                found[row["uid"]] = (row["group"], row["codes"])
    return found


def _about(item: Item) -> Row:
    empty = dict.fromkeys(("prompt", "nearest", "said", "references", "name", "category", "comparison"))
    return {**empty, **{name: item[name] for name in ("uid", "object", "sha256", "what", "part")}}


def _failure(item: Item, error: ObjectError) -> Failure:
    return Failure(item["uid"], item["_file"], STAGE, error.kind, error.reason, error.attempts, error.stderr)
