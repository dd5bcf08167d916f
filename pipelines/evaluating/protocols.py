"""The protocols `published` and `heldout`: of every object a row for each system, with features, points and latency."""

import math
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from pipelines.comparing.worker import strip
from pipelines.evaluating.baselines import Neighbors
from pipelines.evaluating.rows import CODES, MARCHED, NEAREST, WHITE
from pipelines.evaluating.targets import ViewLookup, compared, open_views, view_data
from pipelines.evaluating.worker import STAGE, Evaluator, Judged, failure_of, open_evaluator
from pipelines.measuring.lines import FLOOR, TRUTH
from pipelines.measuring.pictures import EQUAL, PictureMeasurer, colors
from pipelines.measuring.truth import TrueObjects
from pipelines.runtime.output import Failure
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import rows_of
from pipelines.runtime.stage import Context, Row
from sar3d.compare.draw import ring
from sar3d.compare.measure import Measured, cloud_of, measure_floor, measure_shape
from sar3d.compare.place import Placed, standing
from sar3d.data.datasets.view_dataset import ViewSample
from sar3d.data.loading.view_tensors import Targets
from sar3d.errors import ObjectError
from sar3d.export.export import Stopwatch
from sar3d.export.files import write_glb
from sar3d.export.mesh import Mesh, extract_mesh
from sar3d.export.texture import bake, unwrap
from sar3d.generate.prompts import Prompt
from sar3d.generate.sample import Sample
from sar3d.metrics.registry import OURS, Pictures, mean_of_objects, measure
from sar3d.metrics.rows import point_columns, system_row
from sar3d.render import RenderSettings
from sar3d.tasks.ar.evaluate import decoded
from sar3d.vqvae.field import Field

if TYPE_CHECKING:
    from pipelines.evaluate import EvaluateConfig

Images = UInt8[np.ndarray, "V H W 3"]
NO_SHAPE = dict.fromkeys(("chamfer_l1_unit_box", "fscore_0.02_unit_box"), "a picture has no shape")


@dataclass(frozen=True)
class Shape:
    """A system's surface, and how long the parts of making it took."""

    placed: Placed
    seconds: Mapping[str, float]


class ProtocolEvaluator(Evaluator):
    """Measures every system of an object by itself."""

    def __init__(self, context: "Context[EvaluateConfig]", *arguments: Any) -> None:
        super().__init__(context, *arguments)
        config = self.config
        self._objects = context.rows["objects_of"]
        self.files = TrueObjects(config.source, self._objects, config, config.up)
        self.pictures = PictureMeasurer(config, self.tools.perceptual, self.device, STAGE)
        self._ring = ring(config.turntable)
        self._warm: set[str] = set()
        self._placed_last: tuple[str, Placed] | None = None

    def rows(self, items: list[Item]) -> Iterator[Row | Failure]:
        """See `Evaluator`; of the truth two rows."""
        for (true, part), group in groupby(items, key=lambda item: (item["what"] == TRUTH, item["part"])):
            members = list(group)
            yield from self._truths(members, part) if true else super().rows(members)

    # ---- the truth

    def _truths(self, items: Sequence[Item], part: str) -> Iterator[Row | Failure]:
        data = view_data(self.config.vqvae_data, part, normals=False)  # type: ignore[arg-type]
        views = open_views(sorted({item["_file"] for item in items}), data, {item["object"] for item in items})
        for item in items:
            try:
                yield from self._truth(item, views)
            except ObjectError as error:
                yield failure_of(item, error)

    def _truth(self, item: Item, views: ViewLookup) -> Iterator[Row]:
        uid, placed = item["object"], self._placed(item["object"], item["_truth"])
        seen = images_of((self._target(item, views.sample(uid)).image + 1) / 2)
        columns = {**self.pictures.columns(seen), **point_columns(cloud_of(placed, uid, "truth"), "mesh")}
        numbers = self.pictures.quality(seen)
        yield self._system_row(item, TRUTH, numbers=numbers, absent={}, picture=strip(seen), **columns)
        floor = measure_floor(placed, uid, self.config.shape)
        again = point_columns(floor.points, "mesh")
        yield self._system_row(item, FLOOR, numbers=floor.values, absent=floor.absent, **again)

    def _placed(self, uid: str, path: str) -> Placed:
        """A true object, the last one kept. Raises `ObjectError`."""
        if self._placed_last is None or self._placed_last[0] != uid:
            self._placed_last = uid, self.files.placed(uid, path)
        return self._placed_last[1]

    def _turntable(self, placed: Placed) -> Images:
        assert placed.scene is not None
        settings = RenderSettings(self.config.resolution, lit=self.config.lit)
        return self.files.renderer.render(placed.scene, *self._ring, settings).rgb

    # ---- what is seen

    def _target(self, item: Item, sample: ViewSample) -> Targets:
        if self.config.protocol != "published":
            return compared(sample, self.config.seen, encoded=False)
        image = colors(self._turntable(self._placed(item["object"], item["_truth"])))
        nothing = torch.zeros(len(image), *image.shape[-2:])
        return Targets(image * 2 - 1, nothing, nothing, numbers_of(*self._ring))

    def _prompting(self, item: Item, views: ViewLookup, sample: ViewSample) -> tuple[UInt8[np.ndarray, "H W 3"], str]:
        if self.config.protocol != "published":
            return super()._prompting(item, views, sample)
        return self._turntable(self._placed(item["object"], item["_truth"]))[0], "the front"

    def _neighbor(self, neighbors: Neighbors, place: int, cameras: Float[Tensor, "V 25"]) -> Pictures:
        if self.config.protocol != "published":
            return super()._neighbor(neighbors, place, cameras)
        drawn = self._turntable(self._training_object(neighbors.candidates.uids[place]))
        return Pictures(colors(drawn).to(self.device))

    def _training_object(self, uid: str) -> Placed:
        """Raises `ObjectError`."""
        row = next(rows_of(self._objects, {uid}), None)
        if row is None:
            raise ObjectError("missing_file", f"the training object {uid} is not among the objects")
        return self.files.placed(uid, row["path"])

    # ---- what is made

    def _samples(self, prompts: Sequence[Prompt]) -> Iterator[Sample]:
        """By `published` one at a time, the first of each kind twice: what is done for the first time takes longer."""
        if self.config.protocol != "published" or not prompts:
            return super()._samples(prompts)
        config, kind = self.config, prompts[0].kind

        def drawn(chosen: Sequence[Prompt]) -> Iterator[Sample]:
            return self._system.sample(
                chosen, config.drawing, precision=config.precision, batch=1, decoder=config.decoder
            )

        if kind not in self._warm:
            self._warm.add(kind)
            self._exported(next(drawn(prompts[:1])).field)
        return drawn(prompts)

    def _exported(self, field: Field) -> tuple[Mesh | None, dict[str, float]]:
        """A field's surface, and the seconds of mesh, texture and file; None where it has none."""
        export, watch = self.config.export, Stopwatch(self.device)
        try:
            mesh = self._surface(field)
        except ObjectError:
            return None, {}
        watch.lap("mesh")
        unwrapped = unwrap(mesh)
        texture = bake(field, unwrapped, export.texture, device=self.device)
        watch.lap("texture")
        with tempfile.TemporaryDirectory() as folder:
            write_glb(Path(folder, "object.glb"), unwrapped, texture)
        watch.lap("file")
        return mesh, watch.seconds

    def _surface(self, field: Field) -> Mesh:
        """Raises `ObjectError` for a field without a surface."""
        e = self.config.export
        return extract_mesh(field, grid=e.grid, level=e.level, faces=e.faces, floaters=e.floaters, device=self.device)

    def _shape(self, of: str, judged: Judged) -> Shape | str:
        """The surface of one system, or why it has none."""
        try:
            if of == NEAREST and judged.nearest is not None:
                return Shape(self._training_object(judged.nearest), {})
            if of == OURS and judged.sample is not None:
                return self._made(judged.sample)
            if of in (OURS, CODES) and judged.tokens is not None:  # a reconstruction is what its own tokens decode to
                return Shape(_standing(self._surface(self._field(judged.tokens))), {})
            if of == MARCHED and judged.tokens is not None:
                field = self._system.vqvae.field(decoded(self._system.vqvae, judged.tokens))
                return Shape(_standing(self._surface(field)), {})
        except ObjectError as error:
            return error.reason
        return NO_SHAPE["chamfer_l1_unit_box"]

    def _made(self, sample: Sample) -> Shape:
        """What was generated; by `published` with the seconds of all parts. Raises `ObjectError`."""
        if self.config.protocol != "published":
            return Shape(_standing(self._surface(sample.field)), {})
        mesh, exported = self._exported(sample.field)
        if mesh is None:
            raise ObjectError("empty_field", "the field has no surface")
        took = sample.settings["seconds"]
        seconds = {"condition": took["encode"], "tokens": took["tokens"], "triplane": took["planes"], **exported}
        return Shape(_standing(mesh), seconds)

    # ---- rows

    def _measured(self, judged: Judged) -> Iterator[Row]:
        """A row for each system; a white image is no system that needs one."""
        values: dict[str, dict[str, float]] = {}
        # What is no mean over objects, such as the worst of them, is no number of one object.
        means = {name: metric for name, metric in judged.metrics.items() if metric.total is mean_of_objects}
        for record in measure(judged.subject, means, self.tools):
            value = float(record["value"][0])
            if not math.isnan(value):
                values.setdefault(record["of"], {})[record["metric"]] = min(value, EQUAL)
        truth = self._placed(judged.item["object"], judged.item["_truth"])
        shown = {of: images_of(pictures.rgb) for of, pictures in judged.subject.shown.items() if of != WHITE}
        # All or none: a failure in the middle must not leave some of an object's systems behind.
        yield from [self._of_system(of, judged, seen, truth, values.get(of, {})) for of, seen in shown.items()]

    def _of_system(self, of: str, judged: Judged, images: Images, truth: Placed, values: dict[str, float]) -> Row:
        item, shape = judged.item, self._shape(of, judged)
        absent: dict[str, str] = dict(self.pictures.absent)
        measured: Measured | None = None
        if isinstance(shape, Shape):
            measured = measure_shape(shape.placed, truth, item["object"], shape.placed, self.config.shape)
            absent |= measured.absent
        else:
            absent |= dict.fromkeys(NO_SHAPE, shape)
        seconds = dict(shape.seconds) if isinstance(shape, Shape) else {}
        return self._system_row(
            item,
            f"{item['what']}/{of}",
            prompt=judged.prompt,
            numbers={**self.pictures.quality(images), **values, **(measured.values if measured else {})},
            absent=absent,
            seconds=seconds,
            device=device_name(self.device, self.config.cpus) if seconds else None,
            picture=strip(images),
            **self.pictures.columns(images),
            **(point_columns(measured.points, measured.points_from) if measured else {}),
        )

    def _system_row(self, item: Item, system: str, **values: Any) -> Row:
        protocol = f"{self.config.protocol}, {item['part']} objects"
        about = {"uid": item["object"], "protocol": protocol, "shift": item["shift"], "seed": item["seed"]}
        return system_row(system=system, **about, **values)


def _standing(mesh: Mesh) -> Placed:
    return standing(mesh.vertices, mesh.faces)


def images_of(rgb: Float[Tensor, "V 3 H W"]) -> Images:
    """As bytes."""
    pixels: Images = (rearrange(rgb.clamp(0, 1), "v c h w -> v h w c") * 255).round().byte().cpu().numpy()
    return pixels


def numbers_of(c2w: np.ndarray, lenses: np.ndarray) -> Float[Tensor, "V 25"]:
    """Cameras (V, 4, 4) and intrinsics (V, 3, 3) as models take them."""
    return torch.from_numpy(np.concatenate([c2w.reshape(-1, 16), lenses.reshape(-1, 9)], axis=1)).float()


def device_name(device: torch.device, cpus: float) -> str:
    """What a latency was measured on."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    known = [line for line in _cpu_info() if line.startswith("model name")]
    model = known[0].partition(":")[2].strip() if known else platform.machine()
    return f"{model}, {max(1, int(cpus))} threads"


def _cpu_info() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def open_protocol(context: "Context[EvaluateConfig]") -> ProtocolEvaluator:
    """Load the models in this process. Raises `UserError` as `open_evaluator`."""
    return open_evaluator(context, ProtocolEvaluator)
