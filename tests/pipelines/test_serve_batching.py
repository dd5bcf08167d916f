"""Requests that wait are decoded together, those that cannot be are not, and none suffers for another."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipelines.serving.batching import Batcher, Job, kept_of
from sar3d.ar.decoding_config import Decoding
from sar3d.generate.prompts import NoPrompt, Prompt


def job(samples: int = 1, decoding: Decoding | None = None, prompt: Any = "a cup") -> tuple[Job, list[Any]]:
    """A job, and what it is told."""
    told: list[Any] = []
    return Job([Prompt(prompt, seed) for seed in range(samples)], decoding or Decoding(), told.append), told


class Held:
    """A batcher whose first batch lasts until `go`."""

    def __init__(self, decode: Callable[[list[Job]], None] = lambda jobs: None, samples: int = 4) -> None:
        self.batches: list[list[Job]] = []
        self._gate, self._decode = threading.Event(), decode
        self.batcher = Batcher(self._run, samples)
        self.first, _ = job()
        self.batcher.submit(self.first)
        while not self.batches:
            time.sleep(0.001)

    def _run(self, jobs: list[Job]) -> None:
        self.batches.append(jobs)
        if jobs[0] is self.first:
            self._gate.wait(10)
        else:
            self._decode(jobs)
        for one in jobs:
            one.tell(None)

    def after(self, jobs: list[Job], waiting: list[list[Any]]) -> list[list[Job]]:
        """The batches that these jobs are decoded in, given that all wait at once."""
        for one in jobs:
            self.batcher.submit(one)
        self._gate.set()
        end = time.monotonic() + 10
        while not all(waiting) and time.monotonic() < end:
            time.sleep(0.001)
        self.batcher.close()
        return self.batches[1:]


def test_those_that_wait_are_taken_together_in_order_up_to_the_limit() -> None:
    made = [job(n) for n in (1, 2, 2, 1, 9)]
    jobs, told = [j for j, _ in made], [t for _, t in made]
    assert Held().after(jobs, told) == [[jobs[0], jobs[1], jobs[3]], [jobs[2]], [jobs[4]]]


def test_only_what_goes_together_is_decoded_together() -> None:
    smooth = Decoding(smooth=True)
    kinds = [
        (Decoding(), "a cup"),
        (smooth, "a cup"),
        (Decoding(guidance=0, top_k=3), "a cup"),
        (Decoding(), NoPrompt("image")),
        (Decoding(top_k=0), "a cup"),
    ]
    made = [job(1, decoding, prompt) for decoding, prompt in kinds]
    jobs = [j for j, _ in made]
    assert Held().after(jobs, [t for _, t in made]) == [[jobs[0], jobs[2]], [jobs[1]], [jobs[3]], [jobs[4]]]


def test_what_nobody_waits_for_is_dropped() -> None:
    (gone, _), (stays, told) = job(), job()
    gone.gone.set()
    assert Held().after([gone, stays], [told]) == [[stays]]


def test_a_batch_that_fails_is_tried_one_by_one() -> None:
    (bad, bad_told), (good, good_told) = job(), job()

    def decode(jobs: list[Job]) -> None:
        if bad in jobs:
            raise ValueError("bad")

    assert Held(decode).after([bad, good], [bad_told, good_told]) == [[bad, good], [bad], [good]]
    assert isinstance(bad_told[0], ValueError)
    assert good_told == [None]


def test_kept_tokens_stand_beside_samples_that_keep_none() -> None:
    (fresh, _), (varied, _) = job(2), job(1)
    varied.kept, varied.keep_scales = torch.arange(5), 2
    assert kept_of([fresh], 5) is None
    found = kept_of([fresh, varied], 5)
    assert found is not None
    assert found[0].tolist() == [[0] * 5, [0] * 5, [0, 1, 2, 3, 4]]
    assert found[1] == [0, 0, 2]


@pytest.mark.parametrize("samples", [1, 8])
def test_an_idle_batcher_waits_for_nobody(samples: int) -> None:
    ran = threading.Event()
    batcher = Batcher(lambda jobs: ran.set(), samples)
    batcher.submit(job()[0])
    assert ran.wait(5)
    batcher.close()
