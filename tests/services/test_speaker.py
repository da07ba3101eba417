"""What models say is sent in pieces, and never holds anybody up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from events.deltas import MAX_TEXT, Delta, MemoryDeltas
from events.names import Key
from services import speaker
from services.speaker import Speaker

KEY, OTHER = Key("ada", "one"), Key("ada", "two")
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are sent at the next turn of the loop."""
    monkeypatch.setattr(speaker, "PAUSE", 0)


class Sent(MemoryDeltas):
    """Notes what was sent; while ``gate`` is closed nothing goes out."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[Key, Delta]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, key: Key, delta: Delta) -> None:
        """Note it."""
        await self.gate.wait()
        self.all.append((key, delta))

    @property
    def texts(self) -> list[tuple[str, int, int]]:
        """Text, offset and try of each."""
        return [(delta.text, delta.offset, delta.try_) for _, delta in self.all]


@asynccontextmanager
async def speaking(sent: Sent) -> AsyncIterator[Speaker]:
    """Run a speaker."""
    one = Speaker(sent, lambda: AT)
    task = asyncio.create_task(one.run())
    yield one
    task.cancel()


async def turns() -> None:
    """Let whatever waits for nothing happen."""
    for _ in range(9):
        await asyncio.sleep(0)


async def test_words_go_together() -> None:
    """With step, attempt, and how many characters were before."""
    sent = Sent()
    async with speaking(sent) as one:
        words = one.speak(KEY, 3, 2)
        words.say("Once ")
        words.say("upon ")
        await turns()
        words.say("a tíme")
        await turns()
        words.say(".")
        await turns()
    assert sent.texts == [("Once upon ", 0, 1), ("a tíme", 10, 1), (".", 16, 1)]
    key, first = sent.all[0]
    assert (key, first.step, first.attempt, first.at) == (KEY, 3, 2, AT)


async def test_another_try_begins_anew() -> None:
    """What was not sent of the last one never is."""
    sent = Sent()
    async with speaking(sent) as one:
        words = one.speak(KEY, 1, 1)
        words.say("no")
        await turns()
        words.say("thing")
        words.again()
        words.say("yes")
        await turns()
    assert sent.texts == [("no", 0, 1), ("yes", 0, 2)]


async def test_what_the_reply_has_is_not_sent() -> None:
    """Once it is there; so a quick reply costs no message at all."""
    sent = Sent()
    async with speaking(sent) as one:
        words = one.speak(KEY, 1, 1)
        words.say("")
        await turns()
        words.say("quick")
        words.end()
        await turns()
    assert sent.all == []


async def test_a_server_that_is_slow_holds_nobody_up() -> None:
    """Words are gathered meanwhile, of each execution for itself."""
    sent = Sent()
    async with speaking(sent) as one:
        sent.gate.clear()
        first, other = one.speak(KEY, 1, 1), one.speak(OTHER, 1, 1)
        first.say("a")
        await turns()
        for _ in range(10):
            first.say("b")
            other.say("c")
        await turns()
        assert sent.all == []
        sent.gate.set()
        await turns()
    assert sorted(sent.texts) == [("a", 0, 1), ("b" * 10, 1, 1), ("c" * 10, 0, 1)]


async def test_more_than_fits_a_piece_is_left_out() -> None:
    """The next offset shows it."""
    sent = Sent()
    async with speaking(sent) as one:
        words = one.speak(KEY, 1, 1)
        words.say("x" * (MAX_TEXT + 5))
        await turns()
        words.say("y")
        await turns()
    assert [len(text) for text, _, _ in sent.texts] == [MAX_TEXT, 1]
    assert sent.texts[1][1] == MAX_TEXT + 5
