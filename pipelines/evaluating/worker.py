"""Objects to numbers on a worker: loaded models, what they make, baselines, and what metrics say of both."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import fsspec
import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from pipelines.caching.devices import begin_worker, exact
from pipelines.evaluating.baselines import Baselines, Neighbors
from pipelines.evaluating.contact_sheet import comparison
from pipelines.evaluating.models import image_encoder_of
from pipelines.evaluating.rows import CODES, JUDGE, MARCHED, MEAN, NEAREST, WHITE
from pipelines.evaluating.targets import (
    ViewLookup,
    compared,
    level_view,
    open_views,
    pictures_of,
    unseen,
    view_data,
)
from pipelines.generating.ground_truth import views_of
from pipelines.generating.models import generators_of
from pipelines.runtime.output import Failure
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Row
from sar3d.conditions import load_encoder
from sar3d.conditions.kinds import ConditionKind
from sar3d.contact_sheet import to_bytes
from sar3d.data.datasets.view_dataset import ViewSample
from sar3d.data.loading.view_tensors import Targets
from sar3d.errors import ObjectError, UserError
from sar3d.generate.captioner import Captioner
from sar3d.generate.folders import Folders
from sar3d.generate.models import Sar3D
from sar3d.generate.prompts import Prompt, check_text
from sar3d.generate.sample import Sample
from sar3d.metrics.caption_judge import judge, judge_name
from sar3d.metrics.lpips import perceptual_loss
from sar3d.metrics.registry import GENERATION, OURS, RECONSTRUCTION, Metric, Pictures, Record, Subject, Tools, measure
from sar3d.pictures import prepare_picture
from sar3d.tasks.flexicubes import evaluate as flexi
from sar3d.tasks.vqvae.evaluate import Reconstruction, reconstruct
from sar3d.vqvae.field import Field
from sar3d.vqvae.quantizer import unpack

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
    target: Targets
    tokens: Int64[Tensor, " L"]
    """Of its first view group."""


@dataclass(frozen=True)
class Judged:
    """One object and what is shown in its stead, before it is measured."""

    item: Item
    subject: Subject
    metrics: Mapping[str, Metric]
    tokens: Int64[Tensor, " L"] | None = None
    """Of the object itself."""
    prompt: str | None = None
    nearest: str | None = None
    """Training object whose condition is nearest."""
    sample: Sample | None = None
    """What was generated."""


class Evaluator:
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
        self.config = config
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
            data = view_data(self.config.vqvae_data, part, normals=what == "reconstruction")
            views = open_views(sorted({item["_file"] for item in members}), data, {item["object"] for item in members})
            if what == "reconstruction":
                for item in members:
                    try:
                        yield from self._measured(self._reconstruction(item, views))
                    except ObjectError as error:
                        yield failure_of(item, error)
            else:
                yield from self._generation(members, views, what)

    # ---- reconstruction

    def _reconstruction(self, item: Item, views: ViewLookup) -> Judged:
        """Raises `ObjectError` where the views cannot be read."""
        sample = views.sample(item["object"], unseen(views.dataset.config))
        sample = replace(sample, supervision=compared(sample, self.config.seen, encoded=False))
        target = pictures_of(sample.supervision, self.device)
        shown = {
            **self._reconstructed(sample),
            WHITE: Pictures(torch.ones_like(target.rgb)),
            MEAN: self._mean(target),
        }
        subject = Subject(target, shown, cameras=sample.supervision.cameras)
        return Judged(item, subject, RECONSTRUCTION, self._tokens(sample) if self.config.measured else None)

    def _tokens(self, sample: ViewSample) -> Int64[Tensor, " L"]:
        """Of an object's own first view group."""
        with torch.no_grad(), exact():
            return self._system.vqvae.tokens(sample.encoder_input[None].to(self.device))[0].cpu()

    def _reconstructed(self, sample: ViewSample) -> dict[str, Pictures]:
        """By the decoder that is judged; of a mesh decoder also what it is to beat, where that has a surface."""
        with exact():
            if self.config.decoder == "nerf":
                return {OURS: _pictures(reconstruct(self._system.vqvae, sample))}
            found = {OURS: _pictures(flexi.reconstruct(self._system.mesh_decoder().model, sample))}
            try:
                return found | {MARCHED: _pictures(flexi.marched(self._system.vqvae, sample))}
            except ObjectError:
                return found

    # ---- generation

    def _generation(self, items: Sequence[Item], views: ViewLookup, kind: ConditionKind) -> Iterator[Row | Failure]:
        prompted = [self._prepared(item, views, kind) for item in items]
        prompts = [one.prompt for one in prompted if isinstance(one, Prepared)]
        samples = self._samples(prompts)
        for one in prompted:
            if isinstance(one, Failure):
                yield one
                continue
            try:
                yield from self._measured(self._generated(one, next(samples), kind))
            except ObjectError as error:  # the views of the nearest training object
                yield failure_of(one.item, error)

    def _samples(self, prompts: Sequence[Prompt]) -> Iterator[Sample]:
        config = self.config
        return self._system.sample(
            prompts,
            config.drawing,
            precision=config.precision,
            batch=config.batch,
            compile=self.device.type == "cuda",
            decoder=config.decoder,
        )

    def _prepared(self, item: Item, views: ViewLookup, kind: ConditionKind) -> Prepared | Failure:
        encoder = self._system.generator(kind).encoder
        try:
            sample = views.sample(item["object"])
            if kind == "text":
                text = check_text(item["captions"][0])
                prompt, features = Prompt(text, item["seed"]), encoder.encode([text])
            else:
                pixels, name = self._prompting(item, views, sample)
                picture = prepare_picture(pixels, self.config.preparation)
                prompt, features = Prompt(picture, item["seed"], name), encoder.encode(pixels[None])
            target = self._target(item, sample)
        except ObjectError as error:
            return failure_of(item, error)
        return Prepared(item, prompt, features.pooled[0].float().cpu(), target, self._tokens(sample))

    def _target(self, item: Item, sample: ViewSample) -> Targets:
        """What a generated object should look like."""
        return compared(sample, self.config.seen, encoded=True)

    def _prompting(self, item: Item, views: ViewLookup, sample: ViewSample) -> tuple[UInt8[np.ndarray, "H W 3"], str]:
        """The picture that prompts, and its name: of the views that no training was given, if there are any, the one most
        from the side."""
        shown = unseen(views.dataset.config)
        sample = sample if shown == "all" else views.sample(item["object"], shown)
        place = level_view(sample)
        return to_bytes((sample.supervision.image[place] + 1) / 2), f"view {sample.supervision_ids[place]}"

    def _neighbor(self, neighbors: Neighbors, place: int, cameras: Float[Tensor, "V 25"]) -> Pictures:
        """Pictures of a training object. Raises `ObjectError`."""
        return pictures_of(neighbors.seen(place, cameras), self.device)

    def _generated(self, prompted: Prepared, sample: Sample, kind: ConditionKind) -> Judged:
        system, cameras, side = self._system, prompted.target.cameras, prompted.target.image.shape[-1]
        target = pictures_of(prompted.target, self.device)
        shown = {
            OURS: self._seen(sample.field, cameras, side),
            CODES: self._seen(self._field(prompted.tokens), cameras, side),
            MEAN: self._mean(target),
        }
        told = self._told({OURS: sample.tokens, CODES: prompted.tokens})
        neighbors = self.baselines.neighbors(kind, system.generator(kind).encoder.id)
        place = neighbors.nearest(prompted.query, prompted.item["sha256"])
        if place is not None:
            shown[NEAREST] = self._neighbor(neighbors, place, cameras)
            told |= {NEAREST: neighbors.caption(place)} if told and kind == "text" else {}
        prompt = prompted.prompt.content if isinstance(prompted.prompt.content, str) else ""
        subject = Subject(target, shown, prompt, told, sample.field)
        nearest = neighbors.candidates.uids[place] if place is not None else None
        prompt = prompt or prompted.prompt.name
        return Judged(prompted.item, subject, GENERATION, prompted.tokens, prompt, nearest, sample)

    def _field(self, tokens: Int64[Tensor, " L"]) -> Field:
        """What an object's own tokens decode to."""
        quantizer = self._system.vqvae.quantizer
        parts = unpack(tokens[None].to(self.device), quantizer.config.scales)
        return self._system.decode(quantizer.f_hat(parts), self.config.decoder)[1]

    def _seen(self, field: Field, cameras: Float[Tensor, "V 25"], side: int) -> Pictures:
        return Pictures(views_of(field, cameras.to(self.device), side, self._system.vqvae.config.volume))

    def _told(self, tokens: Mapping[str, Tensor]) -> dict[str, str]:
        """Captions of objects of these codes; none where there is no captioner."""
        if self.captioner is None:
            return {}
        decoding = self.config.caption_decoding
        return {of: self.captioner.caption(made, decoding=decoding)[0] for of, made in tokens.items()}

    # ---- captions

    def _captions(self, items: Sequence[Item], part: str) -> Iterator[Row | Failure]:
        """Of training objects a view group is described that was held out, where there is one."""
        assert self.captioner is not None
        apart = set(self.config.captions_data.held_out.groups) if part == "training" else set()
        codes = _codes(items, apart)
        known = [codes[item["object"]][1] for item in items if item["object"] in codes]
        said = iter(self.captioner.caption(torch.tensor(known), decoding=self.config.caption_decoding) if known else ())
        for item in items:
            if item["object"] not in codes:
                yield failure_of(item, ObjectError("no_tokens", f"the tokens of {item['object']} are not there"))
                continue
            prompt = f"view group {codes[item['object']][0]}"
            about = {"references": item["captions"], "name": item["name"], "category": item["category"]}
            caption = next(said)
            numbers, reason = self._judged(caption, item["captions"][0])
            yield {**_about(item), "prompt": prompt, "numbers": numbers, "said": caption, "judged": reason, **about}

    def _judged(self, caption: str, reference: str) -> tuple[list[Record], str | None]:
        """The judge's score, and what it said; no score where it has none, and nothing where there is no judge."""
        config = self.config.judge
        if not config.url:
            return [], None
        try:
            found = judge(caption, reference, config)
        except ObjectError as error:
            return [], f"{error.kind}: {error.reason}"
        name = judge_name(config)
        return [{"entry": JUDGE, "metric": name, "of": OURS, "value": [found.score]}], found.reason

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

    def _mean(self, target: Pictures) -> Pictures:
        mean, side = self.baselines.mean().to(self.device), target.rgb.shape[-1]
        if mean.shape[-1] != side:
            mean = F.interpolate(mean[None], (side, side), mode="bilinear", antialias=True)[0]
        return Pictures(mean.expand_as(target.rgb))

    def _measured(self, judged: Judged) -> Iterator[Row]:
        """The rows of one object."""
        item, subject = judged.item, judged.subject
        numbers = measure(subject, judged.metrics, self.tools)
        lines = [subject.target.rgb, subject.shown[OURS].rgb]
        lines += [subject.shown[NEAREST].rgb] if NEAREST in subject.shown else []
        about = {"prompt": judged.prompt, "nearest": judged.nearest}
        yield {**_about(item), "numbers": numbers, "comparison": comparison(lines), **about}


E = TypeVar("E", bound=Evaluator)


def open_evaluator(context: "Context[EvaluateConfig]", kind: type[E] = Evaluator) -> E:  # type: ignore[assignment]
    """Load the models in this process, for one kind of evaluator.

    Raises:
        UserError: a model is missing or has changed, or there is no GPU where one is asked for.
    """
    device = begin_worker(context.config.gpus, context.config.cpus)
    system, captioner = _system(context, device), None
    if "captioner" in context.models:
        captioner = Captioner.from_pretrained(context.models["captioner"].folder(), device)
    return kind(context, system, captioner, image_encoder_of(context), device)


def _system(context: "Context[EvaluateConfig]", device: torch.device) -> Sar3D | None:
    vqvae = context.models.get("vqvae")
    if vqvae is None:
        return None
    generators = generators_of(context, context.config.kinds, STAGE)
    found = {kind: generator.model.folder() for kind, generator in generators.items()}
    weights = {kind: generator.weights for kind, generator in generators.items()}
    mesher = context.models.get("flexicubes")
    folders = Folders(
        vqvae.folder(), found, "the models of evaluate", flexicubes=None if mesher is None else mesher.folder()
    )
    system = Sar3D(folders, device, weights)
    digests = {"vqvae": (system.vqvae_digest, vqvae.digest)}
    if mesher is not None:
        digests["flexicubes"] = (system.mesh_decoder().digest, mesher.digest)
    for kind, generator in generators.items():
        digests[kind] = (system.generator(kind).digest, generator.model.digest)
    if any(loaded != wanted for loaded, wanted in digests.values()):
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


def _pictures(made: Reconstruction) -> Pictures:
    return Pictures(made.rgb, made.opacity, made.depth, made.normal)


def _about(item: Item) -> Row:
    empty = dict.fromkeys(("prompt", "nearest", "said", "judged", "references", "name", "category", "comparison"))
    return {**empty, **{name: item[name] for name in ("uid", "object", "sha256", "what", "part")}}


def failure_of(item: Item, error: ObjectError) -> Failure:
    """Why an item has no row."""
    return Failure(item["uid"], item["_file"], STAGE, error.kind, error.reason, error.attempts, error.stderr)
