"""Orders to the projector over NATS."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from logs import JetStreamLog
from readmodels import Logs, projecting

from events.errors import (
    FolderInUse,
    NotAllowedNow,
    TooLarge,
    Unavailable,
    WakeError,
)
from events.wire import NO_RESPONDERS, Wire, status
from projections import orders
from projections.orders import Failed, Orders, order
from projections.projector import Projector
from projections.rebuild import Rebuilt


class Slow(Projector):
    """Takes its time, or fails, as a test says."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Logs.empty())
        self.go = asyncio.Event()
        self.problem: WakeError | None = None

    async def rebuild(self) -> Rebuilt:
        """Wait, and say what the test wants to hear."""
        await self.go.wait()
        if self.problem:
            raise self.problem
        return Rebuilt(7, 0.5)


@pytest.fixture
async def wire(jetstream_log: JetStreamLog) -> Wire:
    """A connection to a server."""
    return await jetstream_log.wire()


@pytest.fixture
async def slow(jetstream_log: JetStreamLog, tmp_path: Path) -> AsyncIterator[Slow]:
    """A projector that takes orders."""
    projector = Slow(tmp_path / "readmodel.duckdb")
    serving = asyncio.create_task(Orders(await jetstream_log.wire(), projector).serve())
    yield projector
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    projector.readers.close()


async def when_served(wire: Wire, kind: str) -> Any:
    """Order something as soon as somebody takes orders."""
    while (done := await order(wire, kind)) is None:  # noqa: ASYNC110 - a test's wait
        await asyncio.sleep(0.01)
    return done


async def test_an_order_is_carried_out_however_long_it_takes(
    wire: Wire, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs of life come meanwhile; then the result."""
    monkeypatch.setattr(orders, "BEAT", 0.01)
    heard: asyncio.Queue[Any] = asyncio.Queue()
    reply = wire.open(heard.put_nowait)
    while not heard.qsize():
        await wire.send("projector.rebuild", b"", reply=reply)
        await asyncio.sleep(0.05)
        while heard.qsize() and status(heard._queue[0]) == NO_RESPONDERS:  # type: ignore[attr-defined]
            heard.get_nowait()  # nobody listens yet
    for _ in range(5):
        assert b'"done"' not in (await heard.get()).data
    slow.go.set()
    while b'"done":true' not in (said := await heard.get()).data:
        pass
    assert b'"messages":7' in said.data
    wire.shut(reply)


async def test_a_refusal_is_told_in_its_words(wire: Wire, slow: Slow) -> None:
    """As the error that it is, or with the code that programs match."""
    slow.problem = NotAllowedNow("the read model is being rebuilt already")
    slow.go.set()
    with pytest.raises(NotAllowedNow, match="being rebuilt already"):
        await when_served(wire, "rebuild")
    slow.problem = TooLarge("a row is too large")
    with pytest.raises(Failed, match="too large") as caught:
        await order(wire, "rebuild")
    assert caught.value.code == "too_large"


async def test_nobody_is_there(wire: Wire) -> None:
    """That is no error: whoever asked can do it."""
    assert await order(wire, "rebuild") is None


async def test_orders_that_are_none(
    wire: Wire, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not answered, and stop nothing."""
    slow.go.set()
    assert await when_served(wire, "rebuild")
    monkeypatch.setattr(orders, "SILENCE", 0.05)
    for kind in ("destroy", "rebuild-all"):
        with pytest.raises(Unavailable, match="says nothing more"):
            await order(wire, kind)
    monkeypatch.undo()
    await wire.send("projector.rebuild", b"\xff" * 100_000)
    assert await order(wire, "rebuild")


async def test_two_rebuilds_at_once(tmp_path: Path) -> None:
    """The second is refused while the first goes on."""
    async with projecting(tmp_path / "readmodel.duckdb", Logs.empty()) as projector:
        first = asyncio.create_task(projector.rebuild())
        await asyncio.sleep(0)
        with pytest.raises(NotAllowedNow, match="already"):
            await projector.rebuild()
        assert (await first).messages == 0
    with pytest.raises(FolderInUse):
        await projector.rebuild()
