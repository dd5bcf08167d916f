"""Signals as exceptions, also when they fall into a C extension's callback."""

import os
import signal

import pytest

from pipelines.runtime.interrupt import Interrupted, interruptible, unwrapped


def test_a_signal_is_an_exception_once() -> None:
    with pytest.raises(Interrupted) as caught, interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM


def test_an_interruption_comes_out_of_a_c_callback_as_itself() -> None:
    with pytest.raises(Interrupted), unwrapped():
        raise SystemError("returned a result with an exception set") from Interrupted(signal.SIGTERM)


def test_other_system_errors_stay_what_they_are() -> None:
    with pytest.raises(SystemError), unwrapped():
        raise SystemError("bad argument to internal function")
