"""Trains the judge of procedural objects on true pictures of fresh objects, and measures it on other ones.

    python -m sar3d.tasks.judge FOLDER [--objects 8000] [--epochs 8]

FOLDER gets `judge.safetensors` and `judge.json` (accuracies, confusion tables, seeds, seconds). Nothing is held out
from the judge: it must know every combination that a generator may be asked for.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from sar3d.meshes import load_scene, normalize
from sar3d.metrics.judge import QUESTIONS, RESOLUTION, VIEWS, Confusion, ProceduralJudge, judge_cameras
from sar3d.procedural import build_glb, describe, listing, vocabulary
from sar3d.render import RenderSettings, make_renderer, pick_backend

TRAIN_SEED, TEST_SEED = 40_001, 40_002
"""Seeds of worlds that nothing else uses."""
_BATCH = 16
_RATE = 3e-3
_SMOOTHING = 0.02
_SOFTENED = 0.5
"""Share of the training pictures that are blurred, as a generator's are."""


def draw(uids: Sequence[str]) -> UInt8[Tensor, "N 8 3 64 64"]:
    """True pictures of objects from the judge's cameras."""
    renderer = make_renderer(pick_backend("auto"))
    c2w, intrinsics = judge_cameras()
    settings = RenderSettings(RESOLUTION)
    pictures = np.empty((len(uids), VIEWS, 3, RESOLUTION, RESOLUTION), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "object.glb")
        for place, uid in enumerate(uids):
            file.write_bytes(build_glb(uid))
            scene, _ = normalize(load_scene(file))
            pictures[place] = renderer.render(scene, c2w, intrinsics, settings).rgb.transpose(0, 3, 1, 2)
    renderer.close()
    return torch.from_numpy(pictures)


def answers(uids: Sequence[str]) -> Int64[Tensor, "N Q"]:
    """The true answers to the judge's questions, as places in the vocabulary."""
    words = vocabulary()
    rows = [[words[name].index(about[name]) for name in QUESTIONS] for about in (describe(u).attributes for u in uids)]
    return torch.tensor(rows)


def train(
    pictures: UInt8[Tensor, "N 8 3 64 64"], truth: Int64[Tensor, "N Q"], epochs: int, seed: int = 0
) -> ProceduralJudge:
    """A judge trained on objects: AdamW, one cosine, four of the eight pictures of an object at a time."""
    torch.manual_seed(seed)
    judge = ProceduralJudge({name: vocabulary()[name] for name in QUESTIONS}).train()
    steps = epochs * -(-len(pictures) // _BATCH)
    optimizer = torch.optim.AdamW(judge.parameters(), _RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.1)
    for _ in range(epochs):
        for chosen in torch.randperm(len(pictures)).split(_BATCH):
            views = torch.randperm(VIEWS)[: VIEWS // 2]
            logits = judge(augmented(pictures[chosen][:, views]))
            losses = [
                F.cross_entropy(logits[name], truth[chosen, q], label_smoothing=_SMOOTHING)
                for q, name in enumerate(QUESTIONS)
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


def augmented(pictures: UInt8[Tensor, "N V 3 H W"]) -> Float[Tensor, "N V 3 H W"]:
    """In [0, 1], some of them blurred, all a little brighter or darker and shifted by up to two pixels."""
    found = pictures.float() / 255
    if torch.rand(()) < _SOFTENED:
        size = int(torch.randint(24, 56, ()))
        flat = found.flatten(0, 1)
        small = F.interpolate(flat, size=(size, size), mode="area")
        found = F.interpolate(small, size=flat.shape[-2:], mode="bilinear").view_as(found)
    shift = torch.randint(-2, 3, (2,)).tolist()
    light = 1 + 0.1 * (torch.rand(len(found), 1, 1, 1, 1) - 0.5)
    noise = 0.02 * torch.rand(()) * torch.randn_like(found)
    return (found.roll(shift, (-2, -1)) * light + noise).clamp(0, 1)


def measure(
    judge: ProceduralJudge, pictures: UInt8[Tensor, "N 8 3 64 64"], truth: Int64[Tensor, "N Q"]
) -> dict[str, Confusion]:
    """A confusion table for each question."""
    said = [verdict.answers for batch in pictures.split(_BATCH) for verdict in judge.judge(batch.float() / 255)]
    words = judge.vocabulary
    return {
        name: Confusion.of(words[name], [words[name][i] for i in truth[:, q].tolist()], [s[name] for s in said])
        for q, name in enumerate(QUESTIONS)
    }


def report(tables: dict[str, Confusion]) -> Iterator[str]:
    """One line for each question: its accuracy and the most frequent mistakes."""
    for name, table in tables.items():
        worst = ", ".join(f"{truth} taken for {said} {times}x" for truth, said, times in table.mistakes()[:12])
        yield f"{name}: {100 * table.accuracy:.1f} % right" + (f" ({worst})" if worst else "")


def as_json(tables: dict[str, Confusion]) -> dict[str, Any]:
    """For a file: accuracy, words and counts of each table."""
    return {n: {"accuracy": t.accuracy, "words": t.words, "counts": t.counts.tolist()} for n, t in tables.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--objects", type=int, default=8000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    sets = {}
    for seed, count in ((TRAIN_SEED, given.objects), (TEST_SEED, given.test)):
        uids = [uid for uid, _ in listing(count, seed)]
        sets[seed] = draw(uids), answers(uids)
    drawn = time.monotonic()
    judge = train(*sets[TRAIN_SEED], given.epochs)
    tables = measure(judge, *sets[TEST_SEED])
    judge.save(given.folder / "judge.safetensors")
    about = {
        "objects": given.objects,
        "epochs": given.epochs,
        "seeds": [TRAIN_SEED, TEST_SEED],
        "seconds": {"drawing": drawn - start, "training": time.monotonic() - drawn},
        "tables": as_json(tables),
    }
    (given.folder / "judge.json").write_text(json.dumps(about))
    sys.stdout.write("\n".join(report(tables)) + "\n")


if __name__ == "__main__":
    main()
