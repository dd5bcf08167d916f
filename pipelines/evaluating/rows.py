"""The rows of the stage `evaluate`: one holds the numbers of one object in one respect."""

from typing import Literal

import pyarrow as pa

What = Literal["reconstruction", "text", "image", "captions"]
WHATS: tuple[What, ...] = ("reconstruction", "text", "image", "captions")
"""Reconstructed; generated from a text; generated from a picture; described."""
Part = Literal["heldout", "training"]
"""Whether the model that is judged was trained on the object."""

WHITE, MEAN, NEAREST, CODES, MARCHED, MAJORITY = (
    "white_image",
    "mean_image",
    "nearest_training_object",
    "own_codes",
    "marching_cubes",
    "majority_caption",
)
BASELINES = (CODES, MARCHED, NEAREST, MEAN, WHITE, MAJORITY)
"""In the order of the table's columns."""

JUDGE = "judge"
"""The entry of a language model's scores among a caption's numbers."""


def evaluated_schema() -> pa.Schema:
    """Schema of the rows."""
    text = pa.string()
    number = pa.struct([("entry", text), ("metric", text), ("of", text), pa.field("value", pa.list_(pa.float64()))])
    fields = [
        pa.field("uid", text, metadata={"about": "object and what is judged"}),
        pa.field("object", text),
        pa.field("sha256", text),
        pa.field("what", text, metadata={"about": ", ".join(WHATS)}),
        pa.field("part", text, metadata={"about": "heldout or training"}),
        pa.field("prompt", text, metadata={"about": "the text or the view that was asked for"}),
        pa.field("nearest", text, metadata={"about": "training object whose condition is nearest"}),
        pa.field("said", text, metadata={"about": "the caption that the model gave"}),
        pa.field("judged", text, metadata={"about": "what the judge said of it, or why it said nothing"}),
        pa.field("references", pa.list_(text)),
        pa.field("name", text),
        pa.field("category", text),
        pa.field("numbers", pa.list_(number), metadata={"about": "metrics, or features for metrics of all objects"}),
        pa.field("comparison", pa.binary(), metadata={"stored": "plain", "about": "PNG: truth above what was made"}),
    ]
    return pa.schema(fields, metadata={"format": "sar3d-evaluation", "format_version": "1"})
