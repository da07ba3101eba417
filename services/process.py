"""What holds for the process of a service, whatever it serves."""

import gc
import os
from pathlib import Path

from events.presence import Process

YOUNG, MIDDLE, OLD = 20_000, 20, 50
"""Collect when so many objects are new; and older ones once in so many times.

Folded histories are many small objects that live long: with CPython's defaults
the collector walks them again and again and takes a seventh of the time.
"""


def tune_collector() -> None:
    """Set the garbage collector for many long-lived objects; once per process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)


def this_process() -> Process:
    """Return the name of this process, as others on the machine may look it up."""
    pid = os.getpid()
    return Process(machine=_machine(), pid=pid, began=_began(pid) or 0)


def is_gone(process: Process) -> bool:
    """Whether a process certainly has ended; False also where it cannot be seen."""
    if process.machine != _machine():
        return False
    return _began(process.pid) != process.began


def _machine() -> str:
    """The boot and the pid namespace that we are in; containers have their own."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"


def _began(pid: int) -> int | None:
    """When a process began, in clock ticks since the boot; None once it has ended.

    See proc(5), ``/proc/pid/stat``: the name in parentheses may hold anything,
    the state is the first field behind it, the start time the twentieth.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
