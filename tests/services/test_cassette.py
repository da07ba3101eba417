from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from conversing import Talk, always, converse

from events.errors import InvalidInput, Misconfigured, ModelRefused
from events.messages import (
    AssistantMessage,
    Reply,
    Request,
    ToolCall,
    ToolMessage,
    ToolSchema,
    Usage,
    UserMessage,
)
from services.agents.cassette import Cassette, Recorder
from services.agents.model import ignore

TOOL = ToolSchema(name="look", description="Look.", parameters={"type": "object"})
REPLIES = (
    Reply(
        model="m",
        text="I look twice.",
        tool_calls=(
            ToolCall(id="x", name="look", arguments='{"at": 1}'),
            ToolCall(id="y", name="look", arguments='{"at": 2}'),
        ),
        usage=Usage(input=9, output=3),
        cost=0.25,
        opaque={"signed": [1]},
    ),
    Reply(model="m", tool_calls=(ToolCall(id="z", name="look"),)),
    Reply(model="m", text="There it is.", latency_ms=7.5),
)


class Canned:
    """Answers with the replies given, one for each reply so far."""

    name = "canned"

    def __init__(self, replies: tuple[Reply, ...] = REPLIES) -> None:
        self._replies = replies

    async def reply(
        self, request: Request, on_text: Callable[[str], None] = ignore
    ) -> Reply:
        """The reply of that place."""
        done = sum(isinstance(m, AssistantMessage) for m in request.messages)
        on_text(self._replies[done].text)
        return self._replies[done]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the cassette is."""
    return tmp_path / "demo.jsonl"


async def record(path: Path, prompt: str = "Find it.") -> Talk:
    """Record one conversation."""
    model = Recorder(Canned(), path)
    return await converse(model, prompt, (TOOL,), always("success", "a view"))


def contents(path: Path) -> bytes:
    """What is in a file."""
    return path.read_bytes()


def change(path: Path, content: bytes) -> None:
    """Put other content there."""
    path.write_bytes(content)


async def test_replay_is_what_was_recorded(path: Path) -> None:
    """Every reply comes back whole, with usage, cost, ids and opaque parts."""
    talk = await record(path)
    again = await converse(
        Cassette(path), "Find it.", (TOOL,), always("success", "a view")
    )
    assert again == talk
    assert tuple(again.replies) == REPLIES


async def test_each_reply_is_on_disk_when_it_is_returned(path: Path) -> None:
    """A line more for each reply, whole at once."""
    recorder = Recorder(Canned(), path)
    request = Request(system="", messages=(UserMessage("Find it."),), tools=(TOOL,))
    for lines in (1, 2):
        await recorder.reply(request)
        content = contents(path)
        assert content.count(b"\n") == lines
        assert content.endswith(b"\n")


async def test_text_is_heard_while_recording_and_replaying(path: Path) -> None:
    """Neither swallows the text that streams."""
    request = Request(system="", messages=(UserMessage("Find it."),), tools=(TOOL,))
    for model in (Recorder(Canned(), path), Cassette):
        heard: list[str] = []
        player = model if isinstance(model, Recorder) else model(path)
        await player.reply(request, heard.append)
        assert "".join(heard) == "I look twice."


async def test_any_prefix_goes_on_the_same(path: Path) -> None:
    """A conversation that is taken up in the middle finds its next reply, twice."""
    talk = await record(path)
    for request, reply in reversed(list(zip(talk.requests, talk.replies, strict=True))):
        cassette = Cassette(path)
        assert await cassette.reply(request) == reply
        assert await cassette.reply(request) == reply


async def test_results_may_come_in_any_order(path: Path) -> None:
    """Calls run side by side: which ended first is no drift."""
    talk = await record(path)
    first, second, *results = talk.requests[1].messages
    request = msgspec.structs.replace(
        talk.requests[1], messages=(first, second, *reversed(results))
    )
    assert await Cassette(path).reply(request) == REPLIES[1]


async def test_a_changed_result_is_an_error(path: Path) -> None:
    """It says at which step, which call and what it was and is."""
    await record(path)
    with pytest.raises(ModelRefused) as caught:
        await converse(
            Cassette(path), "Find it.", (TOOL,), always("success", "a new view")
        )
    message = str(caught.value)
    assert "drift at step 2: the result of look (call x)" in message
    assert "'success: a view'" in message
    assert "'success: a new view'" in message


async def test_a_changed_outcome_is_an_error(path: Path) -> None:
    """The same text as a failure is another result."""
    await record(path)
    with pytest.raises(ModelRefused, match="'failed: a view'"):
        await converse(Cassette(path), "Find it.", (TOOL,), always("failed", "a view"))


async def test_an_added_or_missing_result_is_an_error(path: Path) -> None:
    """A result too many or too few is named."""
    talk = await record(path)
    messages = talk.requests[1].messages
    for changed, complaint in (
        (messages[:-1], "the result of look .call y. was not there now"),
        (
            (*messages, ToolMessage("w", "spy", "boo")),
            "the result of spy .call w. was not recorded",
        ),
        ((*messages, UserMessage("stop")), "a message was not recorded"),
    ):
        request = msgspec.structs.replace(talk.requests[1], messages=changed)
        with pytest.raises(ModelRefused, match=complaint):
            await Cassette(path).reply(request)


async def test_an_earlier_drift_is_found_too(path: Path) -> None:
    """A conversation that had changed before it came here is refused."""
    talk = await record(path)
    messages = tuple(
        msgspec.structs.replace(m, output="forged")
        if isinstance(m, ToolMessage) and m.call_id == "y"
        else m
        for m in talk.requests[2].messages
    )
    request = msgspec.structs.replace(talk.requests[2], messages=messages)
    with pytest.raises(ModelRefused, match=r"drift at step 2: .*call y"):
        await Cassette(path).reply(request)


async def test_a_miss_says_what_was_recorded(path: Path) -> None:
    """Another prompt, another tool or another call has no reply here."""
    talk = await record(path)
    other = ToolSchema(name="smell", description="", parameters={})
    asked = AssistantMessage("", (ToolCall(id="x", name="look", arguments="{}"),))
    prompt = UserMessage("Find it.")
    for messages, tools, step in (
        ((UserMessage("Lose it."),), (TOOL,), 1),
        ((prompt,), (TOOL, other), 1),
        ((prompt, asked, ToolMessage("x", "look", "a view")), (TOOL,), 2),
    ):
        with pytest.raises(ModelRefused) as caught:
            await Cassette(path).reply(
                Request(system="", messages=messages, tools=tools)
            )
        message = str(caught.value)
        assert f"no reply recorded for step {step}" in message
        assert "begins with prompt 'Find it.', tools look" in message
    assert talk.answer == "There it is."


async def test_two_conversations_share_a_file(path: Path) -> None:
    """A second recording is appended and both can be played."""
    await record(path)
    await record(path, "Find it again.")
    for prompt in ("Find it.", "Find it again."):
        talk = await converse(
            Cassette(path), prompt, (TOOL,), always("success", "a view")
        )
        assert talk.answer == "There it is."


async def test_the_later_of_two_recordings_counts(path: Path) -> None:
    """Recording a conversation again replaces what was there."""
    request = Request(system="", messages=(UserMessage("Find it."),))
    for text in ("old", "new"):
        replies = (Reply(model="m", text=text),)
        await Recorder(Canned(replies), path).reply(request)
    assert (await Cassette(path).reply(request)).text == "new"


async def test_an_empty_cassette_has_no_reply(path: Path) -> None:
    """A file with nothing in it is a cassette; every reply is a miss."""
    change(path, b"")
    request = Request(system="", messages=())
    with pytest.raises(ModelRefused, match="nothing is recorded"):
        await Cassette(path).reply(request)


def test_a_missing_file_is_named(path: Path) -> None:
    """The complaint names the file and the reason."""
    with pytest.raises(Misconfigured, match=r"demo\.jsonl': No such file"):
        Cassette(path)


async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Recording into a directory that is not there says so."""
    request = Request(system="", messages=(UserMessage("Find it."),))
    recorder = Recorder(Canned(), tmp_path / "none" / "c.jsonl")
    with pytest.raises(Misconfigured, match="cannot record to"):
        await recorder.reply(request)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `key`"),
        (b"\xff\xfe", "malformed"),
        (b"\x00" * 99, "malformed"),
        (b"[" * 100_000, ""),
    ],
    ids=lambda value: repr(value[:12]),
)
async def test_a_malformed_line_is_named(
    path: Path, line: bytes, complaint: str
) -> None:
    """File and line stand in the complaint, for playing and recording on."""
    await record(path)
    with path.open("ab") as file:
        file.write(line + b"\n")
    for opened in (Cassette, lambda path: Recorder(Canned(), path)):
        with pytest.raises(InvalidInput, match=r"demo\.jsonl, line 4: ") as caught:
            opened(path)
        assert complaint in str(caught.value)


async def test_a_line_that_was_cut_off_is_named(path: Path) -> None:
    """A recorder that died while writing leaves a file that says so."""
    await record(path)
    change(path, contents(path)[:-20])
    with pytest.raises(InvalidInput, match=r"demo\.jsonl, line 3: "):
        Cassette(path)
    change(path, contents(path) + b"\n")
    with pytest.raises(InvalidInput, match=r"demo\.jsonl, line 3: "):
        Recorder(Canned(), path)
