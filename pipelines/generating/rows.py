"""The rows of the stage `generate`: one holds a generated object, its tokens, every setting and its files."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipelines.runtime.output import Output
from pipelines.runtime.reading import read_rows
from sar3d.data.formats.tokens import TokensInfo
from sar3d.vqvae.flexi_config import FieldDecoder

FILES = {
    "glb": "object.glb",
    "ply": "object.ply",
    "obj": "object.obj",
    "mp4": "turntable.mp4",
    "gif": "turntable.gif",
    "png": "sheet.png",
    "comparison": "comparison.png",
    "prompt": "prompt.png",
    "tokens_file": "tokens.safetensors",
}
"""Columns that hold files, and what these are called."""
SETTINGS = "settings.json"
PARTS = ("encode", "tokens", "planes", "export")
"""What the time of an object is made of."""


def generated_schema(
    vqvae: str, scales: Sequence[int], codebook_size: int, decoder: FieldDecoder = "nerf"
) -> pa.Schema:
    """Schema of the rows of objects made of the codes of the VQVAE of digest `vqvae`, and of what decodes these."""
    info = TokensInfo(vqvae, tuple(int(n) for n in scales), codebook_size)
    fields = [
        pa.field("uid", pa.string(), metadata={"about": "id of the prompt"}),
        pa.field("kind", pa.string(), metadata={"about": "text or image"}),
        pa.field("text", pa.string()),
        pa.field("object", pa.string(), metadata={"about": "uid of what it should look like, if that is known"}),
        pa.field("seed", pa.int64()),
        pa.field("caption", pa.string(), metadata={"about": "what a captioner says of it, if one was asked"}),
        pa.field("tokens", pa.list_(pa.uint16(), info.length)),
        pa.field("settings", pa.string(), metadata={"about": "JSON"}),
        # Files are compressed already.
        *(pa.field(name, pa.binary(), metadata={"stored": "plain", "file": file}) for name, file in FILES.items()),
    ]
    metadata = {
        "format": "sar3d-generated",
        "format_version": "1",
        "vqvae": vqvae,
        "decoder": decoder,
        "scales": ",".join(str(n) for n in info.scales),
        "codes": str(codebook_size),
        "order": "scale-major, then plane (XY, YZ, ZX), then raster",
    }
    return pa.schema(fields, metadata=metadata)


def notes_of(output: Output) -> dict[str, str]:
    """What there is to say about prompts that the models do not know, by id."""
    settings = ((row["uid"], json.loads(row["settings"])["prompt"]) for row in read_rows(output, ["uid", "settings"]))
    return {uid: prompt["note"] for uid, prompt in settings if "note" in prompt}


def seconds_of(output: Output) -> dict[str, float]:
    """Mean seconds of an object, by part."""
    totals = dict.fromkeys(PARTS, 0.0)
    count = 0
    for row in read_rows(output, ["settings"]):
        seconds: dict[str, Any] = json.loads(row["settings"])["seconds"]
        totals = {part: total + float(seconds.get(part, 0.0)) for part, total in totals.items()}
        count += 1
    return {f"seconds_per_object_{part}": round(total / count, 3) for part, total in totals.items()} if count else {}
