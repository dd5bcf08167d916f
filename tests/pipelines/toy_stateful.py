"""The toy stage with state on its workers: it is opened once, counted, and workers can be made to die."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import toy
from ray import cloudpickle

from pipelines.runtime.output import Failure
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Row
from sar3d.errors import UserError

cloudpickle.register_pickle_by_value(toy)


@dataclass(frozen=True)
class StatefulConfig(toy.ToyConfig):
    deadly: tuple[int, ...] = field(default=(), metadata={"identity": False})
    """Items at which the worker is killed, each time unless `once`."""
    once: bool = field(default=True, metadata={"identity": False})
    refuses: str = field(default="", metadata={"identity": False})
    """`open` or `process`: what raises a `UserError`."""


class StatefulStage(toy.ToyStage):
    """`trace/opened.*`: one file per opened worker; `trace/<uid>.*`: one per processed item."""

    stateful = True

    def open(self, context: Context[StatefulConfig]) -> int:
        if context.config.refuses == "open":
            raise UserError("there is no model to open: train one")
        if context.config.trace:
            Path(context.config.trace, f"opened.{os.getpid()}.{time.monotonic_ns()}").touch()
        return os.getpid()

    def process(self, context: Context[StatefulConfig], items: list[Item]) -> Iterator[Row | Failure]:
        assert context.state == os.getpid(), "the state was opened in this process"
        if context.config.refuses == "process":
            raise UserError("the model has changed: run the same command again")
        for item in items:
            mark = Path(context.config.trace, f"killed-at-{item['uid']}")
            if item["value"] in context.config.deadly and not (context.config.once and mark.exists()):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield from super().process(context, [item])
