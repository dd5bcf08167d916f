"""What a person sees of long work: a line now and then, with what it is and for how long."""

import logging
import time

from pipelines.runtime.progress import WorkProgress
from sar3d.working import LOGGER, working_on


def test_long_work_in_the_foreground_is_named_now_and_then() -> None:
    said: list[str] = []
    with WorkProgress(said.append, every=0.05):
        time.sleep(0.12)
        assert said == [], "nothing is known yet"
        working_on("turntable: picture 3 of 24 [not markup]")
        deadline = time.monotonic() + 20
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
    assert said
    assert all(line.startswith("turntable: picture 3 of 24 [not markup], ") for line in said)
    assert said[-1].endswith(" s so far")
    count = len(said)
    working_on("nobody listens")
    time.sleep(0.12)
    assert len(said) == count
    logger = logging.getLogger(LOGGER)
    assert (logger.propagate, logger.level) == (True, logging.NOTSET)
    assert not any(isinstance(handler, WorkProgress) for handler in logger.handlers)
