"""Objects to rows on a worker: the true object drawn and sampled, then what each system made of it, by the same code."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipelines.caching.devices import begin_worker
from pipelines.comparing.items import found_of
from pipelines.measuring.lines import FLOOR, TRUTH
from pipelines.measuring.pictures import Images, PictureMeasurer
from pipelines.measuring.truth import TrueObjects
from pipelines.runtime.output import Failure
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Row
from sar3d.compare.align import Alignment, align, ring_of
from sar3d.compare.draw import Drawing, draw, ring
from sar3d.compare.load import Loaded
from sar3d.compare.measure import cloud_of, measure_floor, measure_shape
from sar3d.compare.place import Placed, place, posed, turned
from sar3d.contact_sheet import png
from sar3d.errors import ObjectError
from sar3d.metrics.lpips import perceptual_loss
from sar3d.metrics.rows import point_columns, system_row
from sar3d.splats import SplatSettings

if TYPE_CHECKING:
    from pipelines.compare import CompareConfig

SHOWN = 4
"""Pictures of an object that its row keeps."""
SIDE = 96
"""Their side in pixels."""


@dataclass(frozen=True)
class Truth:
    """One true object, drawn."""

    placed: Placed
    ring: Drawing
    """Small pictures, to find how others are turned."""
    drawn: Images


class Comparer:
    """Loaded networks, and the object that was looked at last."""

    def __init__(self, context: "Context[CompareConfig]") -> None:
        config = context.config
        device = begin_worker(config.gpus, config.cpus)
        self.config = config
        self.files = TrueObjects(config.source, context.rows["truth"], config, config.up)
        self.renderer = self.files.renderer
        distance = replace(config.lpips, vgg16="substitute") if config.perceptual == "substitute" else config.lpips
        self.pictures = PictureMeasurer(config, perceptual_loss(distance).to(device), device, "compare")
        self.cameras = ring(config.views)
        self._known: tuple[str, Truth | ObjectError] = ("", ObjectError("unknown", "nothing was looked at yet"))

    def rows(self, items: list[Item]) -> Iterator[Row | Failure]:
        """The rows of every item in order, or why there are none."""
        for _, group in groupby(items, key=lambda item: str(item["object"])):
            for item in group:
                try:
                    truth = self._truth(item)
                    yield from self._of_truth(item, truth) if item["system"] == TRUTH else [self._made(item, truth)]
                except ObjectError as error:
                    attempts = getattr(error, "attempts", 1)
                    where = item["_file"] or item["_truth"]
                    yield Failure(item["uid"], where, "compare", error.kind, error.reason, attempts, error.stderr)

    def _truth(self, item: Item) -> Truth:
        """Kept from item to item, and so is what was wrong with it. Raises `ObjectError`."""
        if self._known[0] != item["object"]:
            try:
                placed = self.files.placed(item["object"], item["_truth"])
                drawn = draw(placed, *self.cameras, self.config.resolution, self.renderer).rgb
                self._known = (item["object"], Truth(placed, ring_of(placed, self.renderer), drawn))
            except ObjectError as error:
                reason = f"its truth cannot be used: {error.reason}"
                self._known = (item["object"], ObjectError(error.kind, reason))
        found = self._known[1]
        if isinstance(found, ObjectError):
            raise found
        return found

    def _of_truth(self, item: Item, truth: Truth) -> Iterator[Row]:
        """What others are compared with, and a second sample of it: what every number says of no difference at all."""
        uid = item["object"]
        points = point_columns(cloud_of(truth.placed, uid, "truth"), "mesh")
        seen = {**self.pictures.columns(truth.drawn), "picture": strip(truth.drawn)}
        yield self._row(item, TRUTH, numbers=self.pictures.quality(truth.drawn), absent={}, **points, **seen)
        floor = measure_floor(truth.placed, uid, self.config.shape)
        again = point_columns(floor.points, "mesh")
        yield self._row(item, FLOOR, numbers=floor.values, absent=floor.absent, **again)

    def _made(self, item: Item, truth: Truth) -> Row:
        if not item["_file"]:
            raise ObjectError("no_file", f"{item['system']} wrote no file of this object")
        loaded = self.files.load(found_of(item))
        if loaded.pictures is not None:
            return self._pictured(item, loaded.pictures)
        layout = loaded.layout
        placed, found = self._aligned(place(loaded), truth, layout.splats)
        drawn = draw(placed, *self.cameras, self.config.resolution, self.renderer, layout.splats).rgb
        at_scale = posed(loaded)
        if at_scale is not None and self.config.align == "yaw":
            at_scale = turned(at_scale, found.yaw)
        shape = measure_shape(placed, truth.placed, item["object"], at_scale, self.config.shape)
        numbers = {
            **self.pictures.quality(drawn),
            **self.pictures.closeness(drawn, truth.drawn),
            **shape.values,
            "silhouette_iou": found.iou if self.config.align == "yaw" else found.declared_iou,
            "silhouette_iou_as_declared": found.declared_iou,
            "silhouette_iou_best_yaw": found.iou,
            "mirrored_share": float(found.mirrored),
        }
        return self._row(
            item,
            item["system"],
            numbers=numbers,
            absent={**self.pictures.absent, **shape.absent},
            transform=placed.matrix.ravel().tolist(),
            warnings=self._warnings(loaded, found),
            picture=strip(drawn),
            **self.pictures.columns(drawn),
            **point_columns(shape.points, shape.points_from),
        )

    def _aligned(self, placed: Placed, truth: Truth, splats: SplatSettings) -> tuple[Placed, Alignment]:
        """Turned where that is asked for; how it would best be turned, and whether a mirror image fits better."""
        upright, found = align(placed, truth.ring, self.renderer, splats)
        return (upright if self.config.align == "yaw" else placed), found

    def _warnings(self, loaded: Loaded, found: Alignment) -> list[str]:
        said = [loaded.layout.note] if loaded.layout.note else []
        if found.mirrored:
            said.append(
                f"a mirror image of it fits the truth better (silhouette IoU {found.mirrored_iou:.2f} against "
                f"{found.iou:.2f}); it was measured as it is"
            )
        if found.yaw and self.config.align == "yaw":
            said.append(f"turned by {found.yaw:g} degrees")
        elif found.yaw and found.iou > found.declared_iou + 0.05:
            said.append(f"stands better turned by {found.yaw:g} degrees (compare.align=yaw turns it)")
        return said

    def _pictured(self, item: Item, pictures: Images) -> Row:
        """Of a system that wrote pictures alone, seen by cameras of its own."""
        names = ("chamfer_l1_unit_box", "fscore_0.02_unit_box", "normal_consistency_unit_box", "psnr", "ssim")
        absent = dict.fromkeys(names, "it wrote pictures from cameras of its own, which have no shape")
        return self._row(
            item,
            item["system"],
            numbers=self.pictures.quality(pictures),
            absent={**self.pictures.absent, **absent},
            warnings=["pictures as the system wrote them: its cameras are not those of the truth"],
            picture=strip(pictures),
            **self.pictures.columns(pictures),
        )

    def _row(self, item: Item, system: str, **values: Any) -> Row:
        return system_row(uid=item["object"], system=system, protocol="compare", shift=item["shift"], **values)


def strip(images: Images) -> bytes:
    """PNG of some of the pictures beside each other."""
    chosen = images[:: max(1, -(-len(images) // SHOWN))][:SHOWN]
    small = [Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in chosen]
    return png(np.concatenate([np.asarray(image) for image in small], axis=1))
