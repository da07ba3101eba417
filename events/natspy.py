"""nats-py, imported without what it would import for websockets: aiohttp.

We talk to nats-server over TCP alone, and aiohttp is half of what a command takes to
start. Where it was imported before, nothing is different.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Let imports find no module of this name, unless it is there already."""
    modules: dict[str, Any] = sys.modules
    if name in modules:
        yield
        return
    modules[name] = None
    try:
        yield
    finally:
        del modules[name]


with _without("aiohttp"):
    from nats import errors
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
    from nats.protocol import parser

__all__ = ["Client", "Msg", "Subscription", "errors", "parser"]
