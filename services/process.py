"""What holds for the process of a service, whatever it serves."""

import gc

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
