import asyncio
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop

from events.errors import ToolFailed
from services.tools.base import MAX_OUTPUT, ToolContext
from services.tools.bash import Bash, BashArguments
from services.tools.sandbox import Sandbox, find_sandbox
from services.tools.workspace import Workspace


@pytest_asyncio.fixture
async def bash() -> Bash:
    """The tool in a real sandbox: a machine without one fails these tests."""
    found = await find_sandbox()
    assert isinstance(found, Sandbox), found
    return Bash(found)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[ToolContext]:
    """A call in an empty workspace that belongs to the user of commands."""
    tmp_path.chmod(0o777)
    with Workspace(tmp_path) as workspace:
        yield ToolContext(workspace=workspace, key="call-7")


async def call(
    bash: Bash, context: ToolContext, command: str, seconds: float = 60.0
) -> str:
    """What the model is told, which is always bounded."""
    done = await bash.run(BashArguments(command=command, timeout=seconds), context)
    assert len(done.text.encode()) <= MAX_OUTPUT
    return done.text


async def test_output_is_told_in_order_with_the_exit_code(
    bash: Bash, context: ToolContext
) -> None:
    """Both streams as they came; a failing command is an answer, not a failure."""
    script = "echo 1; echo 2 >&2; echo 3; exit 7"
    assert await call(bash, context, script) == "1\n2\n3\n[exit code 7]"
    assert await call(bash, context, "true") == "[exit code 0]"
    assert "[exit code 127]" in await call(bash, context, "no-such-program")
    assert await call(bash, context, "printf x") == "x\n[exit code 0]"


async def test_the_call_id_is_the_commands_to_use(
    bash: Bash, context: ToolContext
) -> None:
    """The idempotency key of the call is in the environment."""
    assert "call-7" in await call(bash, context, "echo $WAKE_CALL_ID")


async def test_the_time_limit_is_said(bash: Bash, context: ToolContext) -> None:
    """What was printed until then is told; the context's limit is the upper one."""
    told = await call(bash, context, "echo before; sleep 1000", seconds=3.0)
    assert told.startswith("before\n[killed after 3 s")
    short = ToolContext(workspace=context.workspace, key="k", timeout=0.5)
    assert "[killed after 0.5 s" in await call(bash, short, "sleep 1000", seconds=1e300)


async def test_nothing_is_read_from_a_terminal(
    bash: Bash, context: ToolContext
) -> None:
    """A command that asks gets the end of input at once."""
    assert "[exit code 1]" in await call(bash, context, "read answer")


async def test_binary_output_is_bounded_text(bash: Bash, context: ToolContext) -> None:
    """Invalid UTF-8 is replaced, and the exit code is still there."""
    told = await call(bash, context, "head -c 3000000 /dev/urandom; exit 5")
    assert told.endswith("[exit code 5]")
    told.encode()


async def test_fifty_megabytes_are_cut_as_they_come(
    bash: Bash, context: ToolContext
) -> None:
    """Beginning and end are told, and never more than that is in memory."""
    command = "echo start; head -c 52428800 /dev/zero | tr '\\0' x; echo; echo end"
    tracemalloc.start()
    try:
        told = await call(bash, context, command)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert told.startswith("start\nxxx")
    assert told.endswith("xxx\nend\n[exit code 0]")
    assert re.search(r"\[cut: 52,3\d\d,\d\d\d of 52,428,811 bytes left out\]", told)
    assert peak < 20 * MAX_OUTPUT


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("x" * 1_000_000, "write a script"),
        ("echo \0", "NUL"),
        ("echo \ud800", "Unicode"),
    ],
)
async def test_what_cannot_be_a_command_is_told(
    bash: Bash, context: ToolContext, command: str, message: str
) -> None:
    """Too long for the system, or no text: one message."""
    with pytest.raises(ToolFailed, match=message):
        await call(bash, context, command)


@pytest.mark.parametrize(
    "junk", ["'", "$(", "-c", "--help", "\n\n", "exec 1>&-; exec 2>&-"]
)
async def test_odd_commands_are_only_commands(
    bash: Bash, context: ToolContext, junk: str
) -> None:
    """What looks like an option or breaks quoting reaches nothing but the shell."""
    assert "[exit code " in await call(bash, context, junk)


@pytest.fixture
def gone(context: ToolContext) -> Iterator[ToolContext]:
    """A call whose workspace was moved away under it."""
    root = context.workspace.root
    root.rename(root.with_name("moved"))
    yield context
    root.with_name("moved").rename(root)


async def test_a_workspace_that_is_gone_is_a_failure(
    bash: Bash, gone: ToolContext
) -> None:
    """That the command could not start is not told as its own end."""
    with pytest.raises(ToolFailed):
        await call(bash, gone, "true")


async def test_what_cannot_be_written_is_said(
    bash: Bash, context: ToolContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where commands only read, every answer says so."""
    monkeypatch.setattr(Sandbox, "may_write", lambda _self, _root: False)
    assert "cannot write here" in await call(bash, context, "ls")


async def test_files_and_commands_share_the_workspace(
    bash: Bash, context: ToolContext
) -> None:
    """What a tool wrote is a command's to change, and the other way round."""
    bash._sandbox.adopt(context.workspace.root)
    context.workspace.write("new/file", b"one\n")
    await call(bash, context, "echo two >> new/file; mkdir made; echo x > made/file")
    with context.workspace.file("new/file") as file:
        assert file.read() == b"one\ntwo\n"
    context.workspace.write("made/file", b"y\n")
    assert await call(bash, context, "cat made/file") == "y\n[exit code 0]"


async def test_many_run_side_by_side(bash: Bash, context: ToolContext) -> None:
    """The calls of one reply do not mix their outputs."""
    async with asyncio.TaskGroup() as group:
        calls = [
            group.create_task(call(bash, context, f"echo {number}"))
            for number in range(12)
        ]
    assert [task.result() for task in calls] == [
        f"{n}\n[exit code 0]" for n in range(12)
    ]


def test_it_runs_on_uvloop(tmp_path: Path) -> None:
    """The loop of production starts, drains and kills the same."""
    tmp_path.chmod(0o777)

    async def main() -> list[str]:
        found = await find_sandbox()
        assert isinstance(found, Sandbox), found
        with Workspace(tmp_path) as workspace:
            context = ToolContext(workspace=workspace, key="k")
            return [
                await call(Bash(found), context, "sleep 1000 & echo 1; exit 3"),
                await call(Bash(found), context, "yes | head -c 9000000 | wc -c"),
                await call(Bash(found), context, "setsid sleep 1000", seconds=0.5),
            ]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        told = runner.run(main())
    assert told[0] == "1\n[exit code 3]"
    assert told[1] == "9000000\n[exit code 0]"
    assert told[2].startswith("[killed after 0.5 s")
