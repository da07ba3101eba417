"""A projector as a process of its own, to be killed: URL and file as arguments."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from events.bulk import Login
from events.names import EVENTS
from events.rawstream import all_streams
from events.wire import Wire
from projections.projector import Projector
from projections.rebuild import Sources


class Telling(Projector):
    """Says how far it is, after each transaction."""

    async def _tell(self, positions: Mapping[str, int]) -> None:
        await super()._tell(positions)
        tell(f"at {positions[EVENTS]}")


async def main(url: str, file: str) -> None:
    """Serve until killed; say so when it begins."""
    wire, login = await Wire.connect(url), Login(url)
    sources = Sources(*all_streams(wire, login))
    projector = Telling(Path(file), sources, interval=0.01)
    async with asyncio.TaskGroup() as group:
        group.create_task(projector.run())
        tell("begun")


def tell(what: str) -> None:
    """Say it to whoever started us."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
