"""What `gpu.py` trains on: procedural objects as the project's own Parquet files, with the features of their captions.

`prepare` runs with the whole package on a CPU; what reads its folder needs pyarrow alone. Objects of held-out pairs of
family and main color are there, too: models are judged by them, and no training reads them.
"""

import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from gpu_parts import Size, say

from sar3d.camera_layout import CameraLayoutConfig, cameras
from sar3d.data.formats.conditions import condition_row, conditions_schema
from sar3d.data.formats.rows import Row
from sar3d.data.formats.views import encode_view, make_rows, views_schema
from sar3d.data.loading.withheld import Withheld
from sar3d.meshes import load_scene, normalize
from sar3d.procedural import HeldOutObjects, build_glb, describe, listing
from sar3d.render import Backend, RenderSettings, make_renderer, pick_backend

SEED, FRESH_SEED = 50_001, 50_002
"""Seeds of worlds that nothing else uses: of the prepared objects, and of those that are drawn on the spot."""
HELD_OUT = HeldOutObjects(share=0.2)
RESOLUTION, VIEWS = 64, 12
OBJECTS: dict[Size, int] = {"full": 390, "tiny": 16}
MOST_BYTES = 50_000_000
_ROW_GROUP = 8
_VIEWS, _CONDITIONS, _ABOUT = "views.parquet", "conditions.parquet", "prepared.json"


@dataclass(frozen=True)
class Prepared:
    """A folder that `prepare` made."""

    folder: Path
    encoder: str
    """Id of the encoder of the captions."""
    captions: dict[str, list[str]]
    """By uid."""
    held_out: list[str]
    """Uids of the objects that no training reads."""

    @property
    def views(self) -> Path:
        return self.folder / _VIEWS

    @property
    def conditions(self) -> Path:
        return self.folder / _CONDITIONS

    @property
    def withheld(self) -> Withheld:
        return Withheld.of(self.held_out)

    @staticmethod
    def read(folder: Path) -> "Prepared":
        about = json.loads((folder / _ABOUT).read_text())
        return Prepared(folder, about["encoder"], about["captions"], about["held_out"])


def prepare(folder: Path, size: Size) -> None:
    """Draw objects and encode their captions; says the counts."""
    folder.mkdir(parents=True, exist_ok=True)
    found = list(listing(OBJECTS[size], SEED, HELD_OUT))
    uids = [uid for uid, _ in found]
    backend = pick_backend("auto")
    rows = itertools.chain.from_iterable(drawn(uids, backend, len(os.sched_getaffinity(0))))
    views = write_rows(folder / _VIEWS, rows, views_schema(RESOLUTION))
    say(f"{len(uids)} objects drawn, {VIEWS} views each at {RESOLUTION}²")
    captions = {uid: list(describe(uid).captions) for uid in uids}
    encoder = encode_captions(folder / _CONDITIONS, captions)
    held_out = [uid for uid, reason in found if reason]
    about: dict[str, Any] = {
        **{"seed": SEED, "objects": len(uids), "views": VIEWS, "resolution": RESOLUTION, "rows": views},
        **{"encoder": encoder, "held_out": held_out, "captions": captions},
    }
    (folder / _ABOUT).write_text(json.dumps(about))
    total = sum(file.stat().st_size for file in folder.iterdir())
    say(
        f"{len(uids)} objects ({len(held_out)} of held-out pairs), {VIEWS * len(uids):,} views, "
        f"{sum(map(len, captions.values()))} captions: {total / 1e6:.1f} MB in {folder}"
    )
    if total > MOST_BYTES:
        raise SystemExit(f"{folder} has {total / 1e6:.1f} MB, more than the {MOST_BYTES / 1e6:.0f} MB that may travel")


def drawn(uids: Sequence[str], backend: Backend, processes: int) -> Generator[list[Row], None, None]:
    """The `views` rows of objects, in order, drawn in so many processes."""
    context = multiprocessing.get_context("spawn")  # a forked process cannot use the graphics driver
    with ProcessPoolExecutor(processes, context) as pool:
        yield from pool.map(functools.partial(view_rows, backend), uids, chunksize=4)


@functools.cache
def _renderer(backend: Backend) -> Any:
    os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's software renderer; there is a process for every core
    return make_renderer(backend)


def view_rows(backend: Backend, uid: str) -> list[Row]:
    """The `views` rows of one object."""
    content = build_glb(uid)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "object.glb")
        file.write_bytes(content)
        scene, matrix = normalize(load_scene(file))
    layout = cameras(CameraLayoutConfig(views=VIEWS), uid, np.concatenate([p.positions for p in scene.primitives]))
    frames = _renderer(backend).render(scene, layout.c2w, layout.K, RenderSettings(RESOLUTION))
    encoded = {
        view: encode_view(frames.rgb[i], frames.alpha[i], frames.depth[i], frames.normal[i])
        for i, view in enumerate(layout.view_ids)
    }
    return make_rows(uid, hashlib.sha256(content).hexdigest(), layout, encoded, matrix)


def write_rows(file: Path, rows: Iterable[Row], schema: pa.Schema) -> int:
    """Write rows as they come; their number."""
    count = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for part in _batched(rows, _ROW_GROUP):
            writer.write_table(pa.Table.from_pylist(part, schema))
            count += len(part)
    return count


def _batched(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    rows = iter(rows)
    while part := list(itertools.islice(rows, size)):
        yield part


def encode_captions(file: Path, captions: dict[str, list[str]]) -> str:
    """Write the features of all captions, and of the empty one, as a `conditions` file; the encoder's id."""
    import torch

    from sar3d.conditions import load_encoder

    encoder = load_encoder("minilm", "", torch.device("cpu"))

    def rows() -> Iterator[Row]:
        for uid, texts in [("", [""]), *captions.items()]:
            features = encoder.encode(texts)
            for i, (tokens, pooled) in enumerate(zip(features.tokens.numpy(), features.pooled.numpy(), strict=True)):
                index, sha256 = (i, hashlib.sha256(uid.encode()).hexdigest()) if uid else (-1, "")
                yield condition_row(
                    **{"uid": uid, "sha256": sha256, "kind": "text", "encoder": encoder.id},
                    **{"index": index, "tokens": tokens, "pooled": pooled},
                )

    write_rows(file, rows(), conditions_schema({"text": encoder.id}))
    return encoder.id
