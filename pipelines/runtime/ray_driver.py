"""This process as a driver of Ray, whether of its own or of a cluster's."""

import os


def settle_driver() -> None:
    """Have Ray's C++ part, which may have been loaded before, see the environment as it is now, and this process outlive
    its node.

    Ray ends a driver at once, without a word, if the node that it is connected to dies and what it takes to be the
    driver's parent has ended too. This driver says what happened instead, so it names itself as that parent.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    os.environ["RAY_RAYLET_PID"] = str(os.getpid())
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    del os.environ["RAY_RAYLET_PID"]
