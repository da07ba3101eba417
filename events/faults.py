"""Faults on purpose: named crash points (``faulty.py`` is the log that misbehaves).

Inert in production. A test arms a crash point by the environment variable
``WAKE_CRASH=<point>:<n>``: at its n-th passing the process is killed, as by
kill -9.
"""

import os
import signal

_armed, _, _count = os.environ.get("WAKE_CRASH", "").partition(":")
_left = int(_count or 1)


def crash_point(name: str) -> None:
    """Die here if this point is armed and its time has come."""
    if _armed == name:
        _pass()


def _pass() -> None:
    global _left  # noqa: PLW0603 - one process, one crash
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
