"""The model card, README.md of a saved model's folder: what it is, and how it is loaded."""

import json
from typing import Any

TITLES = {
    "vqvae": "Multi-scale 3D VQVAE",
    "ar": "Next-scale transformer",
    "llm": "SAR3D-LLM captioner",
}
"""By kind of model; another kind goes by its own name."""
USES = {
    "vqvae": "Encodes six views of an object (color, rays, depth) to tokens, and decodes tokens to a radiance field.",
    "ar": "Predicts the tokens of a 3D object, scale after scale, from a caption or a picture.",
    "llm": "Reads the tokens of the coarse scales of a 3D object and answers questions about it.",
}
TAGS = {"text": "text-to-3d", "image": "image-to-3d"}
"""Pipeline tag on the Hugging Face hub by the condition of a generator."""


def model_card(described: dict[str, Any], digest: str, parameters: int) -> str:
    """Markdown with the metadata that the Hugging Face hub reads.

    Args:
        described: what config.json holds: `kind`, `config` and `extra`.
        digest: of weights, kind and configuration, see `sar3d.hub.digest`.
        parameters: numbers in model.safetensors.
    """
    kind, config, extra = described["kind"], described["config"], described.get("extra") or {}
    facts = {"kind": f"`{kind}`", "numbers in model.safetensors": f"{parameters:,}", "digest": f"`{digest}`"}
    if extra.get("vqvae"):
        facts["made for the VQVAE"] = f"`{extra['vqvae']}`"
    if extra.get("encoder"):
        facts["condition encoder"] = f"`{extra['encoder']}`"
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    header = ["library_name: sar3d", "tags: [3d, sar3d]"]
    if config.get("condition") in TAGS:
        header.append(f"pipeline_tag: {TAGS[config['condition']]}")
    return "\n".join(
        [
            *("---", *header, "---", f"# {TITLES.get(kind, kind)}", ""),
            *([USES[kind], ""] if kind in USES else []),
            *("| | |", "|---|---|", rows, "", "## Load", "", "```python", "from sar3d.hub import from_pretrained", ""),
            'model = from_pretrained("path/to/this/folder")  # or its URL, or the name of its repository on the hub',
            *("```", "", "## Configuration", "", "```json", json.dumps(config, indent=2), "```", ""),
        ]
    )
