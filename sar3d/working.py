"""What long work in the foreground is busy with, for whoever wants to show it. It goes to the logger `LOGGER`."""

import logging

LOGGER = "sar3d.working"
_log = logging.getLogger(LOGGER)


def working_on(what: str) -> None:
    """Say what begins now, or how far it is, such as `turntable: picture 3 of 24`. Costs nothing where nobody listens."""
    _log.debug("%s", what)
