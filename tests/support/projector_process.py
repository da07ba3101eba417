"""A projector as a process of its own, to be killed: URL and file as arguments."""

import asyncio
import sys
from pathlib import Path

from events.bulk import Login
from events.rawstream import all_streams
from events.wire import Wire
from projections.projector import Projector
from projections.rebuild import Sources


async def main(url: str, file: str) -> None:
    """Serve until killed; say so when it begins."""
    wire, login = await Wire.connect(url), Login(url)
    sources = Sources(*all_streams(wire, login))
    projector = Projector(Path(file), sources, interval=0.01)
    async with asyncio.TaskGroup() as group:
        group.create_task(projector.run())
        tell("begun")
        while projector._store is None:  # noqa: ASYNC110 - once, at the start
            await asyncio.sleep(0.001)
        tell("serving")


def tell(what: str) -> None:
    """Say it to whoever started us."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
