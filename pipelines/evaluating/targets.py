"""What objects really look like: samples of a few objects, the views that are compared, and the view that prompts."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipelines.evaluating.rows import Part
from sar3d.data.datasets.prompted_objects import object_uids
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.datasets.view_dataset import Shown, ViewDataset, ViewSample
from sar3d.data.held_out import HeldOut
from sar3d.data.loading.row_index import SplitName
from sar3d.data.loading.view_tensors import Targets
from sar3d.data.loading.withheld import Withheld
from sar3d.errors import ObjectError
from sar3d.metrics.registry import Pictures
from sar3d.spacing import evenly_spaced
from sar3d.vqvae.cameras import matrices


@dataclass(frozen=True)
class ViewLookup:
    """The views of some objects, by uid."""

    dataset: ViewDataset
    places: dict[str, int]
    """The first sample of each object."""

    def sample(self, uid: str, shown: Shown = "all") -> ViewSample:
        """Of an object's first view group. Raises `ObjectError` for one that is not there or cannot be read."""
        place = self.places.get(uid)
        found = None if place is None else self.dataset.samples(views=shown, groups=None, indices=[place])
        sample = next(found, None) if found is not None else None
        if sample is None:
            raise ObjectError("no_views", f"the views of {uid} are not there, or none of them is held out")
        return sample


def open_views(
    files: Sequence[str],
    data: ViewDataConfig,
    uids: Collection[str] | None,
    split: SplitName = "all",
    withheld: Withheld | None = None,
) -> ViewLookup:
    """The views of these objects. Raises `UserError` where the files hold none of them."""
    dataset = ViewDataset(files, None, data, split=split, uids=uids, withheld=withheld)
    return ViewLookup(dataset, dict(zip(object_uids(dataset), dataset.first_samples(), strict=True)))


def view_data(trained: ViewDataConfig, part: Part, normals: bool) -> ViewDataConfig:
    """All views of an object; of training objects those apart that the VQVAE's training, on `trained`, held out."""
    held_out = HeldOut() if part == "heldout" else trained.held_out
    return ViewDataConfig(
        unit="object", normals=normals, held_out=held_out, val=trained.val, test=trained.test, cache_decoded=False
    )


def unseen(data: ViewDataConfig) -> Shown:
    """The views that no training was given, where there are such; else all."""
    return "held_out" if data.held_out else "all"


def compared(sample: ViewSample, count: int, encoded: bool) -> Targets:
    """At most `count` of the sample's views, spread evenly over their ids.

    Args:
        encoded: whether the encoder's own views count too; where there are no others they always do.
    """
    ids = sample.supervision_ids
    places = sorted(range(len(ids)), key=lambda i: ids[i])
    others = [i for i in places if ids[i] not in sample.encoder_ids]
    if not encoded and others:
        places = others
    return sample.supervision.at(evenly_spaced(places, count))


def level_view(sample: ViewSample) -> int:
    """The place of the view that is seen most from the side: from above or below objects are hard to know."""
    pose = matrices(sample.supervision.cameras)[0]
    height = pose[:, 2, 3] / pose[:, :3, 3].norm(dim=-1)
    return int(height.abs().argsort(stable=True)[0])


def facing(cameras: Float[Tensor, "V 25"], wanted: Float[Tensor, "W 25"]) -> list[int]:
    """Of V cameras the one that looks from nearest the direction of each of W others."""
    towards = [torch.nn.functional.normalize(matrices(c)[0][:, :3, 3], dim=-1) for c in (wanted, cameras)]
    return (towards[0] @ towards[1].T).argmax(dim=1).tolist()


def pictures_of(targets: Targets, device: torch.device) -> Pictures:
    """The truth as metrics take it."""
    normal = None if targets.normal is None else targets.normal.to(device)
    rgb = ((targets.image + 1) / 2).to(device)
    return Pictures(rgb, targets.mask.to(device), targets.depth.to(device), normal)
