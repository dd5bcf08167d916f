"""Objaverse 1.0: objects chosen by category, licence, uid or at random, transferred from the hub or a mirror."""

import difflib
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar
from urllib.parse import quote

from pydantic import Field

from pipelines.runtime.inputs import driver_file
from pipelines.runtime.progress import log
from pipelines.sources.base import Item, ObjectRow
from pipelines.sources.captions import CaptionedSource, CaptionsConfig
from pipelines.sources.files import Receipt, check_file, find, open_stored, publish, spool, sweep
from pipelines.sources.objaverse_index import Essence, ObjaverseIndex
from pipelines.sources.rows import fault, item_of, raise_fault, row_of
from pipelines.sources.texts import Log
from pipelines.sources.transfer import TransferConfig, transfer
from pipelines.sources.uids import read_uids
from sar3d.errors import UserError

LICENCES = ("by", "by-nc", "by-nc-nd", "by-nc-sa", "by-nd", "by-sa", "cc0")
"""As the annotations name them; all but the last are Creative Commons attribution licences."""
_FOLDER = "objaverse"


@dataclass(frozen=True)
class ObjaverseConfig:
    """Which objects of Objaverse, and from where. What is chosen shows in the listing, so no field is an identity.

    At least one of `categories`, `licences`, `uids_file`, `count` and `all` must be given; those that are given all
    hold at once.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    categories: tuple[str, ...] = field(default=(), metadata={"identity": "listing"})
    """LVIS categories, such as `chair`: objects of any of them."""
    licences: tuple[str, ...] = field(default=(), metadata={"identity": "listing"})
    """Licences as the annotations name them (by, by-sa, by-nc, cc0 ...): objects under any of them."""
    uids_file: str | None = driver_file(None)
    """A local file of uids, or of paths and addresses that hold them: .txt with one a line, .csv with a column uid (or
    path, or the uids first), .json with a list, or with what Objaverse publishes by uid (paths, annotations) or by
    category (LVIS); all may end in .gz."""
    count: Annotated[int, Field(ge=1)] | None = field(default=None, metadata={"identity": "listing"})
    """So many of them, drawn at random; a larger count holds the objects of a smaller one."""
    seed: int = field(default=0, metadata={"identity": "listing"})
    """Decides which ones `count` draws."""
    all: bool = field(default=False, metadata={"identity": "listing"})
    """Really all 800,000 objects (some 9 TB), or all that the other fields leave."""
    mirror: str = field(
        default="https://huggingface.co/datasets/allenai/objaverse/resolve/main", metadata={"identity": False}
    )
    """URL below which the data set's files stand under their own names."""
    cache: str = field(default="~/.cache/sar3d/objaverse", metadata={"identity": False})
    """Local folder for the index."""
    transfer: TransferConfig = field(default_factory=TransferConfig, metadata={"identity": False})
    """Time-outs and retries."""


@dataclass
class ObjaverseSource(CaptionedSource):
    """Objects land at `<files_root>/objaverse/<uid[:2]>/<uid>.glb`, receipts beside them; paths are from files_root."""

    kind: ClassVar[str] = "objaverse"
    config: ObjaverseConfig
    files_root: str
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    log: Log = log

    def listing(self) -> Iterator[Item]:
        config = self.config
        if not (config.categories or config.licences or config.uids_file or config.count or config.all):
            choices = "categories, licences, uids_file or count, or all=true for everything"
            raise UserError(f"download.objaverse selects nothing; set {choices}")
        _known("licence", config.licences, LICENCES)
        sweep(self.files_root, _FOLDER, 2 * config.transfer.deadline_s)
        index = ObjaverseIndex(config.mirror, Path(config.cache).expanduser(), config.transfer)
        paths = index.object_paths
        lvis = index.lvis_categories()
        _known("LVIS category", config.categories, lvis)
        uids, missing = self._candidates(paths, lvis)
        described: dict[str, Essence] = {}
        if config.licences:
            described = index.essences(uids)
            uids = {uid for uid in uids if described.get(uid, {}).get("licence") in config.licences}
        chosen = sorted(_sample(uids | missing, config.count, config.seed))
        if not chosen:
            raise UserError(
                "download.objaverse selects no object: nothing is in all of its categories, licences and uids"
            )
        if not config.licences:
            described = index.essences(uid for uid in chosen if uid in uids)
        category = {uid: name for name in sorted(lvis, reverse=True) for uid in lvis[name]}
        for uid in chosen:
            yield _item(uid, paths.get(uid), category.get(uid), described.get(uid, {}))

    def _candidates(self, paths: dict[str, str], lvis: dict[str, list[str]]) -> tuple[set[str], set[str]]:
        """The uids that categories and uids_file leave, and those of the file that the index does not have."""
        uids, missing = set(paths), set[str]()
        if self.config.uids_file:
            wanted = set(read_uids(self.config.uids_file, self.log))
            uids, missing = wanted & uids, wanted - uids
        if self.config.categories:
            uids &= {uid for name in self.config.categories for uid in lvis[name]}
        return uids, missing

    def fetch(self, item: Item) -> ObjectRow:
        """Transfers the object unless it is there. Raises `ObjectError`: the kinds of `transfer` and `check_file`,
        `not_in_index`."""
        raise_fault(item)
        path = item["path"]
        receipt = find(self.files_root, path)
        if receipt is None:
            url = f"{self.config.mirror.rstrip('/')}/{quote(item['version'])}"
            with spool(self.files_root, _FOLDER) as folder:
                file = folder / PurePosixPath(path).name
                done = transfer(url, file, self.config.transfer, check_file)
                receipt = Receipt(url=url, etag=done.etag, sha256=done.sha256, bytes=done.bytes)
                publish(file, self.files_root, path, receipt)
        return row_of(item, receipt.sha256, receipt.bytes)

    def open(self, path: str) -> AbstractContextManager[Path]:
        return open_stored(self.files_root, path)


def _known(what: str, names: Iterable[str], valid: Iterable[str]) -> None:
    valid = list(valid)
    for name in names:
        if name not in valid:
            # Sketchfab and LVIS write in lower case; a person may not.
            near = difflib.get_close_matches(name.lower().replace(" ", "_"), valid, n=3, cutoff=0.5)
            hint = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(sorted(valid)[:12])} ..."
            raise UserError(f"download.objaverse names the unknown {what} {name!r}; {hint}")


def _sample(uids: set[str], count: int | None, seed: int) -> set[str]:
    """`count` uids: those with the least hashes, so that more of them hold all that fewer did."""
    if count is None or count >= len(uids):
        return uids
    return set(sorted(uids, key=lambda uid: hashlib.sha256(f"{seed}:{uid}".encode()).digest())[:count])


def _item(uid: str, index_path: str | None, lvis_category: str | None, essence: Essence) -> Item:
    more: dict[str, Any] = {}
    if index_path is None:
        more = fault("not_in_index", f"Objaverse's index has no object {uid!r}; correct the file of uids")
    category = lvis_category or essence.get("category")
    path = f"{_FOLDER}/{uid[:2]}/{uid}.glb" if index_path else ""
    return item_of(uid, path, index_path, **essence | {"category": category}, **more)
