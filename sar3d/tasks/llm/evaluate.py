"""How well a model describes objects: its captions of held-out view groups and objects, measured and listed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch

from sar3d.data.datasets.caption_dataset import CaptionSample
from sar3d.llm.config import CaptionDecoding
from sar3d.llm.model import SAR3DLM
from sar3d.llm.prompt import CAPTION, Writer
from sar3d.metrics.captions import caption_metrics
from sar3d.training.task import Sync, worker_slice

_BATCH = 16


@dataclass(frozen=True)
class CaptionSets:
    """What a model is measured on: named sets of samples that it was not trained on. Picklable."""

    sets: Mapping[str, Sequence[CaptionSample]] = field(default_factory=dict)
    """`views`: held-out view groups of training objects. `objects`: objects that were never trained on."""
    majority: str = ""
    """The caption that fits most training objects, the baseline; empty for none."""
    known: tuple[tuple[str, str], ...] = ()
    """Names and categories of training objects, which captions may name."""
    decoding: CaptionDecoding = field(default_factory=CaptionDecoding)


@dataclass(frozen=True)
class GeneratedCaption:
    """What a model said of one object, beside what its source says."""

    uid: str
    group: int
    name: str
    category: str
    captions: tuple[str, ...]
    said: str


def evaluate(
    model: SAR3DLM, writer: Writer, held_out: CaptionSets, sync: Sync, together: bool
) -> tuple[dict[str, float], dict[str, list[GeneratedCaption]], dict[str, str]]:
    """Metrics (see `sar3d.metrics.captions.caption_metrics`), captions, and reasons for absent metrics; the same on all
    workers.

    `<set>/<metric>` is the model's, `<set>/majority/<metric>` that of the baseline.

    Args:
        together: whether the workers hold parts of the weights, so that all must generate the same number of times.
    """
    values: dict[str, float] = {}
    told: dict[str, list[GeneratedCaption]] = {}
    absent: dict[str, str] = {}
    for name, samples in held_out.sets.items():
        if not samples:
            continue
        told[name] = _told(model, writer, samples, held_out.decoding, sync, together)
        # One worker measures: the sentence encoder need not be loaded by all of them.
        measured = sync.gather_objects(_measured(told[name], held_out) if sync.rank == 0 else None)[0]
        values |= {f"{name}/{key}": value for key, value in measured[0].items()}
        absent |= measured[1]
    return values, told, absent


def captions_json(told: Sequence[GeneratedCaption], absent: Mapping[str, str]) -> bytes:
    """Captions and absent metrics as they are logged: `{"captions": [...], "absent": {...}}`."""
    values = {"captions": [asdict(one) for one in told], "absent": dict(absent)}
    return json.dumps(values, indent=1, ensure_ascii=False).encode()


def _told(
    model: SAR3DLM,
    writer: Writer,
    samples: Sequence[CaptionSample],
    decoding: CaptionDecoding,
    sync: Sync,
    together: bool,
) -> list[GeneratedCaption]:
    mine = worker_slice(len(samples), sync)
    # As many for each worker, that none waits for another's turn; what is surplus is not counted.
    count = -(-len(samples) // sync.world) if together else len(mine)
    places = [*mine, *([0] * (count - len(mine)))]
    prompt, said = writer.prompt(CAPTION), []
    for start in range(0, count, _BATCH):
        part = [samples[place].tokens for place in places[start : start + _BATCH]]
        tokens = model.coarse_tokens(torch.stack(part))
        said += model.answer([prompt] * len(part), tokens, decoding, together)
    rows = [
        GeneratedCaption(s.uid, s.group, s.about.name, s.about.category, s.about.captions, text)
        for s, text in zip((samples[place] for place in mine), said, strict=False)
    ]
    return [row for part in sync.gather_objects(rows) for row in part]


def _measured(told: Sequence[GeneratedCaption], held_out: CaptionSets) -> tuple[dict[str, float], dict[str, str]]:
    references, names = [list(one.captions) for one in told], [one.name for one in told]
    categories = [one.category for one in told]
    made = caption_metrics([one.said for one in told], references, names, categories, known=held_out.known)
    values = dict(made["values"])
    if held_out.majority:
        same = [held_out.majority] * len(told)
        baseline = caption_metrics(same, references, names, categories, known=held_out.known)["values"]
        values |= {f"majority/{name}": value for name, value in baseline.items()}
    return values, made["absent"]
