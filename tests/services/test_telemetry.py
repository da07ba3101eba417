import asyncio
import io
import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.contextvars import clear_contextvars

from services import loglines, telemetry
from services.redaction import Redaction
from services.telemetry import bound, configure_logs

ours = logging.getLogger("services.test")
library = logging.getLogger("some.library")
HUNTER = "hunter2hunter2"
TOKEN = {"api_token": "abcdefghijkl"}


class Lines(io.StringIO):
    """What was written, line by line."""

    @property
    def texts(self) -> list[str]:
        """The lines as a collector reads them."""
        return self.getvalue().removesuffix("\n").split("\n")

    @property
    def parsed(self) -> list[Any]:
        """The lines as JSON."""
        return [json.loads(line) for line in self.texts]

    @property
    def only(self) -> Any:
        """The one line there is."""
        (line,) = self.parsed
        return line


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Configuration is the process's: each test leaves it as it was."""
    names = [None, *loglines.OURS]
    levels = {name: logging.getLogger(name).level for name in names}
    monkeypatch.setattr(telemetry, "_on", telemetry._Configured())
    yield
    for handler in [h for h in logging.root.handlers if type(h) is loglines._Lines]:
        logging.root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    clear_contextvars()


@pytest.fixture
def lines() -> Lines:
    """Log lines as JSON, from info on."""
    stream = Lines()
    redact = Redaction({"SOME_TOKEN": HUNTER})
    configure_logs(level="info", as_json=True, stream=stream, redact=redact)
    return stream


@pytest.fixture
def text() -> Lines:
    """Log lines for people, from info on."""
    stream = Lines()
    redact = Redaction({"SOME_TOKEN": HUNTER})
    configure_logs(level="info", as_json=False, stream=stream, redact=redact)
    return stream


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without the handlers of pytest, which fail at what some tests log."""
    root = logging.root
    others = [h for h in root.handlers if not isinstance(h, loglines._Lines)]
    for handler in others:
        root.removeHandler(handler)
    yield
    for handler in others:
        root.addHandler(handler)


# ── what a line says ─────────────────────────────────────────────────────────


def test_a_record_is_one_json_object(lines: Lines) -> None:
    """With when, how bad, who and what; in UTC."""
    ours.warning("%s is %d", "this", 7)
    line = lines.only
    assert line.pop("timestamp")[10:].endswith("Z")
    assert line == {"level": "warning", "logger": "services.test", "event": "this is 7"}


def test_context_is_on_every_line_inside(lines: Lines) -> None:
    """Whose it is first, and nothing of it remains after."""
    with bound(command_id="c-1", execution="run-1", other="x", user="ada"):
        ours.info("in")
    ours.info("out")
    inside, outside = lines.parsed
    assert list(inside)[4:] == ["user", "execution", "command_id", "other"]
    assert inside["execution"] == "run-1"
    assert "execution" not in outside


def test_the_inner_context_stands_before_the_outer(lines: Lines) -> None:
    """Until it ends, by an error as well."""
    with bound(user="ada", execution="new"):
        with pytest.raises(KeyError), bound(execution="run-1"):
            raise KeyError
        with bound(execution="run-1"):
            ours.info("in")
        ours.info("out")
    assert [line["execution"] for line in lines.parsed] == ["run-1", "new"]
    assert {line["user"] for line in lines.parsed} == {"ada"}


async def test_tasks_side_by_side_have_their_own_context(lines: Lines) -> None:
    """And what they begin, in a thread too, has theirs."""

    async def work(name: str) -> None:
        with bound(execution=name):
            await asyncio.sleep(0)
            await asyncio.create_task(asyncio.to_thread(ours.info, name))

    await asyncio.gather(*(work(f"e{n}") for n in range(20)))
    assert [line["execution"] for line in lines.parsed] == [
        line["event"] for line in lines.parsed
    ]


def test_context_cannot_pass_for_the_line_itself(lines: Lines) -> None:
    """Who, when and what are the record's."""
    with bound(level="debug", logger="forged", event="forged", timestamp="0"):
        ours.error("true")
    line = lines.only
    assert (line["level"], line["logger"], line["event"]) == (
        "error",
        "services.test",
        "true",
    )
    assert line["timestamp"] != "0"


def test_structlog_itself_takes_the_same_way(lines: Lines) -> None:
    """With its own values."""
    with bound(user="ada"):
        structlog.get_logger("services.x").info("told", count=3, deep={"a": [1, None]})
    line = lines.only
    assert (line["event"], line["count"], line["user"]) == ("told", 3, "ada")
    assert line["deep"] == {"a": [1, None]}


def test_warnings_of_python_are_lines(lines: Lines) -> None:
    """Not text between them."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old\nhabit", stacklevel=1)
    assert lines.only["logger"] == "py.warnings"


@pytest.mark.parametrize(
    ("level", "of_ours", "of_libraries"),
    [
        ("debug", ["debug", "info", "warning", "error"], ["info", "warning", "error"]),
        ("info", ["info", "warning", "error"], ["warning", "error"]),
        ("warning", ["warning", "error"], ["warning", "error"]),
        ("error", ["error"], ["error"]),
    ],
)
def test_libraries_are_heard_less(
    level: Any, of_ours: list[str], of_libraries: list[str]
) -> None:
    """At debug some of them write headers, keys included."""
    stream = Lines()
    configure_logs(level=level, as_json=True, stream=stream)
    for logger in (ours, library):
        for name in ("debug", "info", "warning", "error"):
            getattr(logger, name)("x")
    written = [line["level"] for line in stream.parsed]
    assert written == of_ours + of_libraries


def test_the_last_configuration_holds(lines: Lines) -> None:
    """No line is written twice."""
    again = Lines()
    configure_logs(level="error", as_json=False, stream=again)
    ours.warning("a")
    ours.error("b")
    assert lines.getvalue() == ""
    assert len(again.texts) == 1


def test_lines_go_to_stderr_if_nothing_else_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a program prints is not mixed with them."""
    configure_logs(level="info", as_json=True)
    ours.info("here")
    out, err = capsys.readouterr()
    assert (out, json.loads(err)["event"]) == ("", "here")


# ── errors ───────────────────────────────────────────────────────────────────


def _fail(secret: str) -> None:
    raise ValueError(f"no good: {secret}")


def test_an_error_is_a_field(lines: Lines) -> None:
    """With its cause and frames, without the values that were worked on."""
    try:
        try:
            _fail(HUNTER)
        except ValueError as error:
            raise RuntimeError("worse") from error
    except RuntimeError:
        ours.exception("it broke")
    worse, cause = lines.only["exception"]
    assert (worse["exc_type"], worse["exc_value"]) == ("RuntimeError", "worse")
    assert (cause["exc_type"], cause["is_cause"]) == ("ValueError", True)
    assert [frame["name"] for frame in cause["frames"]][-1] == "_fail"
    assert HUNTER not in lines.getvalue()
    assert "locals" not in lines.getvalue()


def test_a_group_of_errors_has_its_errors(lines: Lines) -> None:
    """As task groups raise them."""
    group = ExceptionGroup("two", [ValueError("a"), KeyError("b")])
    ours.error("broke", exc_info=group)
    (told,) = lines.only["exception"]
    inner = [stack["exc_type"] for (stack,) in told["exceptions"]]
    assert inner == ["ValueError", "KeyError"]


def test_a_runaway_recursion_stays_small(lines: Lines) -> None:
    """Of its thousand frames some are kept."""

    def deeper() -> None:
        deeper()

    try:
        deeper()
    except RecursionError:
        ours.exception("too deep")
    assert len(lines.only["exception"][0]["frames"]) <= loglines.MAX_FRAMES + 1


def test_a_great_many_errors_stay_a_line(lines: Lines) -> None:
    """Then only what is plain is kept."""

    def broken() -> BaseException:
        try:
            _fail("x" * 100_000)
        except ValueError as error:
            return error
        raise AssertionError

    group = BaseExceptionGroup(
        "many",
        [BaseExceptionGroup("g", [broken() for _ in range(50)]) for _ in range(50)],
    )
    ours.error("broke", exc_info=group)
    assert len(lines.getvalue()) <= loglines.MAX_LINE
    assert lines.only["event"] == "broke"


def test_a_logger_without_an_error_at_hand_is_fine(lines: Lines) -> None:
    """Though it said that there was one."""
    ours.exception("nothing happened")
    assert lines.only["event"] == "nothing happened"


# ── what must not be in a line ───────────────────────────────────────────────


@pytest.mark.parametrize(
    "leak",
    [
        lambda: ours.info("the password is %s", HUNTER),
        lambda: ours.info("Authorization: Bearer abcdefghijkl"),
        lambda: structlog.get_logger("services").info("x", **TOKEN),
        lambda: structlog.get_logger("services").info("x", a={"b": [HUNTER]}),
        lambda: ours.error("x", exc_info=ValueError(f"{HUNTER} abcdefghijkl"[:14])),
        lambda: ours.info("%d", HUNTER),
        lambda: ours.info(f"{'x' * 8185}{HUNTER}"),
    ],
)
@pytest.mark.parametrize("form", ["lines", "text"])
def test_no_secret_is_written(
    request: pytest.FixtureRequest, form: str, leak: Callable[[], None]
) -> None:
    """Wherever it stands, be it broken by a cut."""
    stream: Lines = request.getfixturevalue(form)
    with undisturbed():
        leak()
    assert len(stream.texts) >= 1
    assert HUNTER[:5] not in stream.getvalue()
    assert "abcdefghijkl" not in stream.getvalue()


HOSTILE = [
    "a\nb",
    "a\r\n{}",
    "\x1b[2J\x1b]0;x\x07",
    "\u2028\u2029\x85\x0b\x0c",
    "\ud800 alone",
    "\u202e reversed",
    "\0",
    '","level":"forged',
    "é" * 10,
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_message_is_one_line_of_json(lines: Lines, value: str) -> None:
    """Whatever a user put into it, for whatever splits lines."""
    with bound(user=value):
        ours.info("said %s", value)
        ours.info(value)
    assert len(lines.getvalue().splitlines()) == 2
    assert lines.getvalue().isascii()
    assert {line["level"] for line in lines.parsed} == {"info"}


@pytest.mark.parametrize("value", HOSTILE)
def test_a_message_is_one_line_of_text(text: Lines, value: str) -> None:
    """That moves no cursor and looks like no other line."""
    with bound(user=value):
        ours.info("said %s", value)
    assert len(text.getvalue().splitlines()) == 1
    assert text.getvalue().removesuffix("\n").isprintable()


def test_an_error_cannot_forge_a_line_of_text(text: Lines) -> None:
    """What belongs to it is indented."""
    ours.error("broke", exc_info=ValueError("x\n2026-01-01T00:00:00Z ERROR forged"))
    first, *rest = text.texts
    assert first.endswith("error   services.test: broke")
    assert all(line.startswith("    ") for line in rest)
    assert len(rest) == 1


class Broken:
    """An object whose every method fails."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Huge:
    """An object with a very long text."""

    def __repr__(self) -> str:
        return "x" * 10_000_000


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "log",
    [
        lambda: ours.info("%d %d", "x"),
        lambda: ours.info("%s", Broken()),
        lambda: ours.info(Broken()),
        lambda: ours.info("x", exc_info=_odd_error()),
        lambda: ours.info("x" * 5_000_000),
        lambda: ours.info("%s", Huge()),
        lambda: structlog.get_logger("services").info("x", a=Broken(), b=Huge()),
        lambda: structlog.get_logger("services").info("x", a=_nested(100_000)),
        lambda: structlog.get_logger("services").info("x", a=10**5000, b=float("nan")),
        lambda: structlog.get_logger("services").info("x", **dict.fromkeys(_keys(), 1)),
        lambda: structlog.get_logger("services").info("x", a={Broken: {1: b"\xff"}}),
    ],
)
@pytest.mark.parametrize("form", ["lines", "text"])
def test_whatever_is_logged_is_a_bounded_line(
    request: pytest.FixtureRequest, form: str, log: Callable[[], None]
) -> None:
    """And the call does not fail."""
    stream: Lines = request.getfixturevalue(form)
    with undisturbed():
        log()
    ours.info("still here")
    assert len(stream.texts) >= 2
    assert len(stream.getvalue()) < 2 * loglines.MAX_LINE
    if form == "lines":
        assert stream.parsed[-1]["event"] == "still here"


def _odd_error() -> Exception:
    class Odd(Exception):
        def __str__(self) -> str:
            raise SystemError

    error = Odd()
    error.__notes__ = Broken()  # type: ignore[assignment]  # whatever sets it
    return error


def _keys() -> list[str]:
    return [f"k{n}" for n in range(10_000)]


def test_a_line_that_cannot_be_written_is_lost(lines: Lines) -> None:
    """Nothing is raised, nothing is said elsewhere."""
    lines.close()
    ours.error("nobody reads this")


# ── when it is off ───────────────────────────────────────────────────────────


def test_nothing_is_bound_without_logs() -> None:
    """There is nothing to put it on."""
    with bound(execution="e"):
        assert structlog.contextvars.get_contextvars() == {}


def test_services_load_neither_library_unasked() -> None:
    """A command that logs nothing must not wait for them."""
    code = (
        "import sys, services.runner, services.lifecycle; "
        "print(*{'structlog', 'opentelemetry'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""


def test_threads_write_whole_lines(lines: Lines) -> None:
    """Each its own."""

    def write() -> None:
        for _ in range(50):
            ours.info("x" * 500)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines.parsed) == 200
