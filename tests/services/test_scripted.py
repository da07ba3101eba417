import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conversing import Answering, Talk, always, converse, real
from hypothesis import given, settings
from hypothesis import strategies as st

from events.errors import InvalidInput
from events.messages import (
    AssistantMessage,
    Outcome,
    Request,
    ToolCall,
    ToolMessage,
    ToolSchema,
    UserMessage,
)
from services.agents.open import open_model
from services.agents.registry import Registry
from services.agents.scripted import Scripted
from services.tools.base import Tool, ToolContext
from services.tools.process import run_bounded
from services.tools.sandbox import Sandbox, find_sandbox
from services.tools.toolbox import all_tools
from services.tools.workspace import Workspace

PYTHON = {
    "README.md": "# Fishery\n\n[![badge](b.svg)](ci)\n\nCounts fish in\nrivers.\n",
    "pyproject.toml": '[project]\nname = "fishery"\nversion = "1.2.0"\n'
    'description = "Counts fish"\n',
    "fishery/__init__.py": "",
    "fishery/main.py": '"""Where counting starts."""\n\n\ndef count_all():\n    pass\n',
    "fishery/net.py": "class Net:\n    pass\n\n# TODO: mend it\n",
    "tests/test_net.py": "def test_net():\n    pass\n",
    ".github/workflows/ci.yml": "on: push\n",
    "node_modules/left-pad/index.js": "module.exports = 1\n",
}
JAVASCRIPT = {
    "package.json": '{"name":"tiny-ui","version":"0.3.1","description":"Buttons"}',
    "README": "Buttons for everybody.\n",
    "src/deep/down/index.js": "export function button() {}\n",
}
NOTES = {
    "monday.md": "# Monday\n\nCalled Ada.\n",
    "tuesday.md": "# Tuesday\n\nRain.\n",
    "odd `name`\x07.txt": "bell",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace that anybody may enter."""
    root = tmp_path / "workspace"
    root.mkdir(mode=0o755)
    return root


@pytest.fixture
def context(folder: Path) -> Iterator[ToolContext]:
    """What real tools are given."""
    with Workspace(folder) as workspace:
        yield ToolContext(workspace=workspace, key="k")


def fill(folder: Path, files: dict[str, str]) -> None:
    """Create files, with their directories."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def names(folder: Path) -> list[str]:
    """What is directly in a directory."""
    return sorted(path.name for path in folder.iterdir())


class HostSandbox(Sandbox):
    """Runs the commands of these tests as they are: only their output matters."""

    async def run(
        self,
        root: Path,
        script: str,
        *,
        key: str,
        seconds: float,
        closed: Sequence[Path] = (),  # noqa: ARG002 - nothing is confined here
    ) -> Any:
        """Run it, whatever the machine can confine."""
        return await run_bounded(
            ["/bin/sh", "-c", script],
            seconds=seconds,
            keep=40_000,
            env={"PATH": "/usr/bin:/bin", "KEY": key},
            cwd=root,
        )


def toolbox(*without: str) -> dict[str, Tool[Any]]:
    """The real tools but those named."""
    tools = all_tools(HostSandbox(None))
    return {name: tool for name, tool in tools.items() if name not in without}


def schemas(tools: dict[str, Tool[Any]]) -> tuple[ToolSchema, ...]:
    """How tools are offered."""
    return tuple(tool.schema for tool in tools.values())


async def explore(
    context: ToolContext, prompt: str = "Explore.", *without: str
) -> Talk:
    """Let the scripted model loose in a directory, with the real tools."""
    tools = toolbox(*without)
    return await converse(Scripted(), prompt, schemas(tools), real(tools, context))


async def test_it_plans_looks_and_reports_what_is_there(
    folder: Path, context: ToolContext
) -> None:
    """A Python project is described from its own files, in six to ten replies."""
    fill(folder, PYTHON)
    talk = await explore(context)
    assert 6 <= len(talk.replies) <= 10
    assert talk.calls[0].name == "todo_write"
    for fact in (
        "# Report: Fishery",
        "No language model was used",
        "Counts fish in rivers.",
        "a Python project: **fishery 1.2.0** — Counts fish",
        "`fishery/main.py` — begins `Where counting starts.`; defines `count_all`",
        "`fishery/net.py:4` `# TODO: mend it`",
        "| `py` | Python | 4 | 11 |",
        "Tests: `tests`",
        "`.github`",
    ):
        assert fact in talk.answer
    assert "left-pad" not in talk.answer
    assert "What did not work" not in talk.answer


async def test_the_plan_is_kept_and_done_at_the_end(
    folder: Path, context: ToolContext
) -> None:
    """Items become done one after the other, and none is open at the end."""
    fill(folder, PYTHON)
    talk = await explore(context)
    plans = talk.outputs("todo_write")
    done = [plan.count("[x]") for plan in plans]
    assert all(before <= after for before, after in pairwise(done))
    assert "[ ]" not in plans[-1]
    assert "[~]" not in plans[-1]
    assert done[0] == 0
    assert done[-1] >= 5


async def test_calls_of_one_reply_are_side_by_side(
    folder: Path, context: ToolContext
) -> None:
    """Files and directories are asked for together, with ids that never repeat."""
    fill(folder, PYTHON)
    talk = await explore(context)
    assert max(len(reply.tool_calls) for reply in talk.replies) >= 4
    ids = [call.id for call in talk.calls]
    assert len(ids) == len(set(ids))
    assert ids[0] == "s1-1"


async def test_another_directory_gives_another_report(
    folder: Path, context: ToolContext
) -> None:
    """A JavaScript project is known by its manifest, its sources found by search."""
    fill(folder, JAVASCRIPT)
    talk = await explore(context)
    assert "a JavaScript or TypeScript project: **tiny-ui 0.3.1** — Buttons" in (
        talk.answer
    )
    assert "Buttons for everybody." in talk.answer
    assert "`src/deep/down/index.js` — begins `export function button`" in talk.answer
    assert "Python" not in talk.answer


async def test_notes_without_readme(folder: Path, context: ToolContext) -> None:
    """A folder of notes is read, and odd names cannot break the Markdown."""
    fill(folder, NOTES)
    talk = await explore(context)
    assert "No README was read" in talk.answer
    assert "mostly Markdown (2 of 3 files)" in talk.answer
    assert "`monday.md` — begins `Monday`" in talk.answer
    assert "\x07" not in talk.answer
    assert "`odd 'name'" in talk.answer


async def test_an_empty_directory(context: ToolContext) -> None:
    """Nothing to look at is said, soon."""
    talk = await explore(context)
    assert "The directory is empty." in talk.answer
    assert len(talk.replies) <= 4


async def test_nothing_is_written_unless_asked(
    folder: Path, context: ToolContext
) -> None:
    """A prompt that asks for no file, or against one, leaves the directory alone."""
    fill(folder, NOTES)
    before = names(folder)
    for prompt in (
        "Explore.",
        "Report, but do not write anything",
        "Read monday.md and say how it writes",
        "please write nothing",
        "Don't write files",
    ):
        talk = await explore(context, prompt)
        assert "write_file" not in {call.name for call in talk.calls}
    assert names(folder) == before


@pytest.mark.parametrize(
    ("prompt", "written"),
    [
        ("Explore and write a report", "REPORT.md"),
        ("Write what you find to FOUND.md", "FOUND.md"),
        ("Look around. Save it as `look.txt`.", "look.txt"),
        ("Write monday.md", "monday-2.md"),
    ],
)
async def test_a_file_is_written_when_asked(
    folder: Path, context: ToolContext, prompt: str, written: str
) -> None:
    """The report goes to the file named, and never over one that is there."""
    fill(folder, NOTES)
    talk = await explore(context, prompt)
    assert (folder / written).read_text().startswith("# Report")
    assert f"also in `{written}`" in talk.answer
    assert (folder / "monday.md").read_text() == NOTES["monday.md"]


async def test_a_report_that_cannot_be_written_is_said(
    folder: Path, context: ToolContext
) -> None:
    """Without write_file, the answer says that the file was not written."""
    fill(folder, NOTES)
    talk = await explore(context, "Write a report", "write_file")
    assert "`REPORT.md` was asked for, but `write_file` is not offered" in talk.answer


async def test_what_the_prompt_names_comes_first(
    folder: Path, context: ToolContext
) -> None:
    """A file named and a word quoted in the prompt are looked at."""
    fill(folder, PYTHON | {f"fishery/f{n}.py": "x = 1\n" * 90 for n in range(9)})
    fill(folder, {"fishery/zz.py": "y = 2\n", "fishery/zy.py": "def hook(): ...\n"})
    talk = await explore(context, "What does zz.py do, and where is `hook`?")
    assert "- `fishery/zz.py` — " in talk.answer
    assert "- `fishery/zy.py` — " in talk.answer
    assert "Search for `hook`: 1" in talk.answer


@pytest.mark.parametrize("missing", list(toolbox()))
async def test_without_any_one_tool(
    folder: Path, context: ToolContext, missing: str
) -> None:
    """Whatever tool is missing, it finds another way or leaves that part out."""
    fill(folder, PYTHON)
    talk = await explore(context, "Explore.", missing)
    assert missing not in {call.name for call in talk.calls}
    assert "# Report: Fishery" in talk.answer or missing == "read_file"
    assert "fishery" in talk.answer


async def test_the_sandbox_that_is_here(folder: Path, context: ToolContext) -> None:
    """With what this machine can confine, the report is the same."""
    fill(folder, PYTHON)
    sandbox = await find_sandbox()
    tools = all_tools(sandbox)
    if isinstance(sandbox, Sandbox):
        sandbox.adopt(folder)
    talk = await converse(Scripted(), "Explore.", schemas(tools), real(tools, context))
    assert "# Report: Fishery" in talk.answer
    assert ("counted by a command" in talk.answer) == ("bash" in tools)


async def test_this_repository_fits_the_default_limits() -> None:
    """Its own repository is explored within the explorer's steps and tokens."""
    root = Path(__file__).parents[2]
    tools = toolbox()
    with Workspace(root) as workspace:
        answering = real(tools, ToolContext(workspace=workspace, key="k"))
        talk = await converse(Scripted(), "Explore.", schemas(tools), answering)
    limits = Registry.load().spec("explorer").limits
    assert sum(reply.usage.total for reply in talk.replies) < limits.max_tokens
    assert len(talk.replies) < limits.max_steps
    assert "wakestream" in talk.answer


async def test_every_prefix_has_one_next_reply(
    folder: Path, context: ToolContext
) -> None:
    """Taken up anywhere by another instance, it goes on exactly as it did."""
    fill(folder, PYTHON)
    talk = await explore(context, "Explore and write a report")
    for request, reply in zip(talk.requests, talk.replies, strict=True):
        assert await Scripted().reply(request) == reply
        for end in range(len(request.messages)):
            part = Request(
                system="", messages=request.messages[:end], tools=request.tools
            )
            assert await Scripted().reply(part) == await Scripted().reply(part)


async def test_text_streams_word_by_word(folder: Path, context: ToolContext) -> None:
    """The pieces heard are the text of the reply, many of them."""
    fill(folder, NOTES)
    talk = await explore(context)
    heard: list[str] = []
    reply = await Scripted().reply(talk.requests[-1], heard.append)
    assert "".join(heard) == reply.text
    assert len(heard) > 50


async def test_usage_is_estimated_and_costs_nothing(context: ToolContext) -> None:
    """A token for four characters of what is new; a price of zero."""
    talk = await explore(context)
    first = talk.replies[0]
    assert first.usage.input == -(-len("Look around." + "Explore.") // 4)
    assert first.usage.output > 0
    assert {reply.cost for reply in talk.replies} == {0.0}
    assert first.model == "scripted"


async def test_a_command_in_doubt_is_asked_again_once(
    folder: Path, context: ToolContext
) -> None:
    """A reading command whose runner died is asked again, and that is reported."""
    fill(folder, PYTHON)
    tools = toolbox()
    seen: list[str] = []

    async def answer(call: ToolCall) -> tuple[Outcome, str]:
        seen.append(call.arguments if call.name == "bash" else "")
        if call.name == "bash" and seen.count(call.arguments) == 1:
            return "in_doubt", "the runner died; it may or may not have run"
        return await real(tools, context)(call)

    talk = await converse(Scripted(), "Explore.", schemas(tools), answer)
    assert "in doubt at first, asked again" in talk.answer
    assert "counted by a command" in talk.answer


@pytest.mark.parametrize("outcome", ["failed", "denied", "in_doubt"])
async def test_nothing_works(outcome: Outcome) -> None:
    """When every call fails, it ends and says so, asking twice at most."""
    answering = always(outcome, "no `luck` today")
    talk = await converse(
        Scripted(), "Explore and write a report", schemas(toolbox()), answering
    )
    asked = [(call.name, call.arguments) for call in talk.calls]
    assert max(map(asked.count, asked)) <= 2
    assert [name for name, _ in asked].count("write_file") == 1
    assert "What did not work" in talk.answer
    assert outcome.replace("_", " ") in talk.answer
    assert "also in" not in talk.answer


async def test_a_command_that_fails_is_reported(
    folder: Path, context: ToolContext
) -> None:
    """A command's exit code is not taken for success."""
    fill(folder, NOTES)
    tools = toolbox()

    async def answer(call: ToolCall) -> tuple[Outcome, str]:
        if call.name == "bash":
            return "success", "sh: find: not found\n[exit code 127]"
        return await real(tools, context)(call)

    talk = await converse(Scripted(), "Explore.", schemas(tools), answer)
    assert "ended with exit code 127" in talk.answer
    assert "as far as the listings show" in talk.answer


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "\x00\x1b[31m\ud7ff￾" * 40,
        "dir - a/../../b\nfile 1 ../../etc/passwd\nfile - \nlink - x -> y\n",
        "file 1 a.py\n" * 90_000,
        "\n" * 1_000_000,
        "a" * 1_000_000,
        "a:1:" * 250_000,
        "# \n" * 300_000,
        "def " * 250_000,
        '{"name": "' * 100_000,
        "[" * 1_000_000,
    ],
    ids=lambda text: f"{text[:6]!r}x{len(text)}",
)
async def test_garbage_from_the_tools(garbage: str) -> None:
    """Whatever tools return, it ends with a report of bounded size, in Markdown."""
    answering = always("success", garbage)
    talk = await converse(Scripted(), "Explore", schemas(toolbox()), answering)
    assert talk.answer.startswith("# Report")
    assert len(talk.answer) < 40_000
    assert "\x00" not in talk.answer
    assert "\x1b" not in talk.answer


@pytest.mark.parametrize(
    "prompt",
    ["", "\x00", "```\n# hi", "🐟" * 5000, "`" * 99, '"' * 99, "write " * 9999],
    ids=lambda text: f"{text[:6]!r}x{len(text)}",
)
async def test_odd_prompts(prompt: str, context: ToolContext) -> None:
    """No prompt stops it, and none breaks out of its place in the report."""
    talk = await explore(context, prompt)
    assert talk.answer
    assert "\n# hi" not in talk.answer


async def test_no_tools() -> None:
    """Without tools it answers at once that it saw nothing."""
    talk = await converse(Scripted(), "Explore.", (), always("success", ""))
    assert len(talk.replies) == 1
    assert "No tool that I know is offered" in talk.answer
    assert "No language model was used" in talk.answer


async def test_unknown_tools_only() -> None:
    """A tool that it does not know is left alone."""
    other = ToolSchema(name="launch", description="", parameters={})
    talk = await converse(Scripted(), "Explore.", (other,), always("success", ""))
    assert talk.calls == []


async def test_a_second_prompt_is_a_new_turn(
    context: ToolContext, folder: Path
) -> None:
    """After a final answer a new message is worked on afresh, with new ids."""
    fill(folder, NOTES)
    talk = await explore(context)
    messages = (
        *talk.requests[-1].messages,
        AssistantMessage(talk.answer),
        UserMessage('script:\nread_file {"path": "monday.md"}'),
    )
    request = Request(system="", messages=messages, tools=talk.requests[-1].tools)
    reply = await Scripted().reply(request)
    assert [call.name for call in reply.tool_calls] == ["read_file"]
    assert reply.tool_calls[0].id not in {call.id for call in talk.calls}


messages_of_any_kind = st.one_of(
    st.builds(UserMessage, st.text()),
    st.builds(
        AssistantMessage,
        st.text(),
        st.lists(
            st.builds(
                ToolCall,
                id=st.sampled_from(["a", "b"]),
                name=st.sampled_from([*toolbox(), "other"]),
                arguments=st.one_of(st.text(), st.sampled_from(["{}", "[1]", "3"])),
            ),
            max_size=3,
        ).map(tuple),
    ),
    st.builds(
        ToolMessage,
        st.sampled_from(["a", "b", "c"]),
        st.text(),
        st.text(),
        st.sampled_from(["success", "failed", "denied", "in_doubt"]),
    ),
)


@given(messages=st.lists(messages_of_any_kind, max_size=12).map(tuple))
@settings(max_examples=60)
async def test_any_conversation_has_an_answer(messages: tuple[Any, ...]) -> None:
    """Whatever was said before, there is a reply, the same each time."""
    request = Request(system="", messages=messages, tools=schemas(toolbox()))
    assert await Scripted().reply(request) == await Scripted().reply(request)


async def script(*lines: str, answering: Answering | None = None) -> Talk:
    """Run a script against tools that always work."""
    prompt = "\n".join(("script:", *lines))
    return await converse(
        Scripted(), prompt, schemas(toolbox()), answering or always("success", "ok")
    )


async def test_a_script_is_followed() -> None:
    """Each line is one reply, calls joined by && are one reply's, say ends it."""
    talk = await script(
        "# a comment",
        'list_dir {"path": "."} && bash {"command": "a && b"} && metadata_read',
        "",
        'bash {"command": "true"}\r',
        "say That is all && done.",
    )
    calls = [[(c.name, c.arguments) for c in r.tool_calls] for r in talk.replies]
    assert calls == [
        [
            ("list_dir", '{"path": "."}'),
            ("bash", '{"command": "a && b"}'),
            ("metadata_read", "{}"),
        ],
        [("bash", '{"command": "true"}')],
        [],
    ]
    assert talk.answer == "That is all && done."


async def test_a_script_without_say_ends_with_a_tally() -> None:
    """What came of the calls is counted."""
    talk = await script("metadata_read && todo_write", answering=always("denied", "no"))
    assert talk.answer == "The script ended: 1 steps, 2 calls, 2 denied."


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("list_dir {'path': 1}", "line 3: the arguments are no JSON object"),
        ("list_dir [1]", "line 3: expected ` && ` or the end of the line"),
        ("list_dir {} {}", "line 3: expected ` && ` or the end of the line"),
        ("list_dir {} && ", "line 3: expected ` && ` or the end of the line"),
        ("please look around", "line 3: expected ` && ` or the end of the line"),
        ("{}", "line 3: expected a tool's name"),
        ("say x\nlist_dir", "line 4 comes after `say`"),
        ("x " + '{"a":' * 100_000, "line 3: the arguments are no JSON object"),
    ],
)
async def test_a_script_with_a_mistake_does_nothing(line: str, complaint: str) -> None:
    """The line is named, before any call is made."""
    talk = await script("list_dir", line)
    assert talk.calls == []
    assert complaint in talk.answer


async def test_a_later_message_does_not_change_a_script() -> None:
    """A note to the model is no line of its script."""
    messages = (
        UserMessage("script:\nsay one"),
        UserMessage("say two"),
    )
    reply = await Scripted().reply(Request(system="", messages=messages))
    assert reply.text == "one"


async def test_delay_is_part_of_the_name() -> None:
    """A latency for demos is read from the name and reported with the reply."""
    model = open_model("scripted?delay_ms=3")
    assert model.name == "scripted?delay_ms=3"
    reply = await model.reply(Request(system="", messages=(UserMessage("x"),)))
    assert reply.latency_ms == 3
    assert open_model("scripted").name == "scripted"


@pytest.mark.parametrize(
    "name",
    [
        "scripted?",
        "scripted?delay_ms=",
        "scripted?delay_ms=-1",
        "scripted?delay_ms=99999999",
        "scripted?speed=1",
    ],
)
async def test_a_wrong_option_is_refused(name: str) -> None:
    """The message says what can be written."""
    with pytest.raises(InvalidInput, match="scripted\\?delay_ms=N"):
        open_model(name)


async def test_arguments_fit_the_schema_offered() -> None:
    """An argument that a tool's schema does not have is not sent."""
    read = ToolSchema(
        name="read_file", description="", parameters={"properties": {"path": {}}}
    )
    talk = await converse(Scripted(), "Explore.", (read,), always("success", "hi"))
    assert [json.loads(call.arguments) for call in talk.calls] == [
        {"path": "README.md"}
    ]
