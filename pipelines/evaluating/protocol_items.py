"""Items of the protocols that measure every system of an object: the truth of each object, too."""

from collections.abc import Iterable, Iterator

from pipelines.comparing.items import shift_of
from pipelines.measuring.lines import TRUTH
from pipelines.runtime.output import Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import rows_of


def with_truth(items: Iterable[Item], objects: Output, shift: str) -> Iterator[Item]:
    """An item for the truth of each object, then the given ones; all know the object's file and its shift."""
    listed = list(items)
    about = {
        row["uid"]: {"shift": shift_of(row, shift), "_truth": row["path"]}
        for row in rows_of(objects, {item["object"] for item in listed})
    }
    first: dict[str, Item] = {}
    for item in listed:
        first.setdefault(item["object"], item)
    for uid, item in first.items():
        kept = {name: item[name] for name in ("object", "sha256", "part", "rows", "seed", "_file")}
        yield {"uid": f"{uid}.{TRUTH}", "what": TRUTH, **kept, **_known(about, uid)}
    yield from ({**item, **_known(about, item["object"])} for item in listed)


def _known(about: dict[str, Item], uid: str) -> Item:
    return about.get(uid, {"shift": "", "_truth": ""})
