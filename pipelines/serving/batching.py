"""Samples of many requests decoded together: while a batch is decoded, requests gather, and the next batch takes all that
wait. On an idle service nobody waits for company.
"""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pipelines.serving.work import Event
from sar3d.ar.decoding_config import Decoding, batch_key
from sar3d.generate.prompts import Prompt
from sar3d.vqvae.flexi_config import FieldDecoder

_FEW = 64
"""Tokens that top-k keeps up to which sorting them costs next to nothing."""


@dataclass(eq=False)
class Job:
    """The samples of one request, on their way."""

    prompts: Sequence[Prompt]
    decoding: Decoding
    tell: Callable[[Event | Exception | None], None]
    """Takes what there is to say, an error that ends the job, or None for its end. Called from any thread."""
    asked: Any = None
    """Where the job comes from."""
    kept: Int[Tensor, "L"] | None = None
    keep_scales: int = 0
    decoder: FieldDecoder = "nerf"
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when nobody waits for it any more."""

    @property
    def key(self) -> Hashable:
        """Jobs with the same key are decoded together: those that can be, and to which it pays. All rows of a batch are sorted
        for the greatest `top_k` in it.
        """
        few = 0 < self.decoding.top_k <= _FEW
        return self.prompts[0].kind, self.decoder, few, batch_key(self.decoding)


class Batcher:
    """Calls `decode` in one thread, with one or more jobs of one key and together at most `samples` samples, unless a
    single job has more. When a batch fails, its jobs are tried one by one, so that none fails for another's sake.
    """

    def __init__(self, decode: Callable[[list[Job]], None], samples: int) -> None:
        self._decode, self._samples = decode, samples
        self._waiting: deque[Job] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job into the queue."""
        with self._change:
            self._waiting.append(job)
            self._change.notify()

    def close(self) -> None:
        """End the thread when its batch is done; what waits is dropped."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            try:
                self._decode(jobs)
            except Exception as error:
                if len(jobs) == 1:
                    jobs[0].tell(error)
                else:
                    self._one_by_one(jobs)
            del jobs  # results must not live until the next request

    def _one_by_one(self, jobs: list[Job]) -> None:
        for job in jobs:
            try:
                self._decode([job])
            except Exception as error:
                job.tell(error)

    def _next(self) -> list[Job]:
        """The longest waiting job, and those that fit beside it, in order; nothing when closed."""
        with self._change:
            while True:
                self._waiting = deque(job for job in self._waiting if not job.gone.is_set())
                if self._closed:
                    return []
                if self._waiting:
                    break
                self._change.wait()
            first, taken, room = self._waiting[0], [], self._samples
            for job in self._waiting:
                size = len(job.prompts)
                if job is first or (job.key == first.key and size <= room):
                    taken.append(job)
                    room -= size
            self._waiting = deque(job for job in self._waiting if job not in taken)
            return taken


def kept_of(jobs: Sequence[Job], tokens: int) -> "tuple[Tensor, list[int]] | None":
    """Tokens that the samples of the jobs keep, a row each, and how many scales; None where no job keeps any."""
    if all(job.kept is None for job in jobs):
        return None
    rows, scales = [], []
    for job in jobs:
        kept = torch.zeros(tokens, dtype=torch.long) if job.kept is None else job.kept
        rows += [kept] * len(job.prompts)
        scales += [job.keep_scales] * len(job.prompts)
    return torch.stack(rows), scales
