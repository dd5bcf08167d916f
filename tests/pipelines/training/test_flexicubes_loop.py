"""The mesh decoder in the distributed loop: resumed to the bit, and the same losses whatever workers and ZeRO stage."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flexi_cases import MODEL, Balls
from loop_cases import Told, runs, weights
from worker_group import together

from pipelines.runtime.training.loop import TrainWork
from sar3d.hub import save_pretrained
from sar3d.tasks.flexicubes.config import FlexiTaskConfig, MeshLossConfig
from sar3d.tasks.flexicubes.task import FlexiTask
from sar3d.training.settings import TrainSettings
from sar3d.vqvae.config import from_dict
from sar3d.vqvae.model import VQVAE

pytestmark = pytest.mark.slow


class Start:
    """Finds the VQVAE's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Path:
        return self.folder


def work(folder: Path, vqvae: Path, **changes: Any) -> TrainWork:
    """Six steps of four balls in two views each, a discriminator among them, every step logged."""
    loss = replace(MeshLossConfig(lpips=0.0), adversarial=0.01, adversarial_start=2)
    settings = {"steps": 6, "batch": 4, "log_every": 1, "checkpoint_every": 3} | changes
    return TrainWork(
        task=FlexiTask(FlexiTaskConfig(grid=12, loss=loss, lr=2e-3, samples=1), Start(vqvae), "digest"),
        train=Balls(8, 2),
        settings=TrainSettings(**settings),
        folder=str(folder / "checkpoints"),
        model_folder=str(folder / "model"),
    )


def losses(told: Told) -> list[float]:
    assert not isinstance(told.outcome, BaseException), told.outcome
    return [value for _, value in told.hooks.series("loss")]


def test_interrupted_trainings_go_on_to_the_bit_on_any_number_of_workers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_pretrained(VQVAE(from_dict(MODEL)), tmp_path / "vqvae")
    made = {name: work(tmp_path / name, tmp_path / "vqvae") for name in ("whole", "cut", "alone")}
    split = work(tmp_path / "split", tmp_path / "vqvae", zero=2)
    whole, first, second, other = together(
        2, runs, [(made["whole"], None), (made["cut"], 4), (made["cut"], None), (split, None)]
    )[0]
    (alone,) = together(1, runs, [(made["alone"], None)])[0]
    assert losses(first) + losses(second) == losses(whole)
    mine, theirs = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert losses(alone) == pytest.approx(losses(whole), rel=1e-3)
    assert losses(other) == pytest.approx(losses(whole), rel=1e-3)
