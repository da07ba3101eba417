"""``wake ls``, ``usage``, ``search`` and ``sql``: on a service, and where none runs."""

import asyncio
import csv
import io
import json
import os
import re
import shlex
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import serving
from waking import COMMAND, Ended, environment, start, wake

from events.errors import InvalidInput
from gateway import address
from gateway.asked import Filters, grouped, when
from gateway.composition import connect
from gateway.shown import NONE_LIKE, aligned
from gateway.sqlformats import Csv, named
from projections.queries import Column

LONG = "SELECT range AS number, repeat('x', 20) AS text FROM range(9000)"
FOREVER = "SELECT count(*) FROM range(100_000_000) a, range(100_000) b"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``wake up`` on a folder, with three executions that ended or wait."""
    place = tmp_path_factory.mktemp("looking")
    with serving.serving(place):
        for user, prompt in (
            ("ada", "script:\nsay The milk."),
            ("bob", "script:\nsay Hi."),
        ):
            ended = wake(place, "run", prompt, "--user", user, "--workspace", ".")
            assert ended.code == 0, ended.err
        ended = wake(place, "start", "Wait for the build", "--await-event", "ci.done")
        assert ended.code == 0, ended.err
        yield place


@pytest.fixture(scope="module")
def unserved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that nobody serves."""
    place = tmp_path_factory.mktemp("unserved")
    for user in ("ada", "bob"):
        wake(place, "run", "script:\nsay The milk.", "--user", user, "--workspace", ".")
    return place


def rows(ended: Ended) -> list[dict[str, object]]:
    """What was printed for programs."""
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def test_what_was_just_started_is_listed(served: Path) -> None:
    """At once, every time: the list has all up to the end of the log."""
    for n in range(5):
        ended = wake(served, "start", f"Number {n}", "--await-event", "never")
        listed = rows(wake(served, "ls", "--json", "--limit", "1"))
        assert listed[0]["id"] == ended.out.split()[0]
        assert wake(served, "kill", str(listed[0]["id"])).code == 0


@pytest.mark.parametrize(
    ("flags", "prompts"),
    [
        ("--user ada", ["script:\nsay The milk."]),
        ("--user eve", []),
        ("--status awaiting_event", ["Wait for the build"]),
        ("--text milk", ["script:\nsay The milk."]),
        (
            "--status completed --sort updated_at --asc",
            [
                "script:\nsay The milk.",
                "script:\nsay Hi.",
            ],
        ),
        (
            "--text say --since 1h --agent explorer",
            [
                "script:\nsay Hi.",
                "script:\nsay The milk.",
            ],
        ),
        ("--text say --until 1h", []),
        ("--meta ticket=1", []),
        (
            "--status completed --updated-since 1h --model scripted --limit 1",
            [
                "script:\nsay Hi.",
            ],
        ),
    ],
)
def test_filters(served: Path, flags: str, prompts: list[str]) -> None:
    """Each is what it says."""
    listed = rows(wake(served, "ls", "--json", *shlex.split(flags)))
    assert [row["prompt"] for row in listed] == prompts


def test_a_list_says_how_to_go_on(served: Path) -> None:
    """With what it prints, the same command goes on where it ended."""
    asked = ("ls", "--status", "completed", "--since", "1h", "--limit", "1")
    first = wake(served, *asked)
    *_, last = first.out.splitlines()
    found = re.fullmatch(
        r"there are more: the same with --since (\S+) --after (\S+)", last
    )
    assert found
    since, after = found.groups()
    second = wake(
        *(served, "ls", "--status", "completed", "--since", since, "--after", after),
        "--json",
    )
    assert [row["prompt"] for row in rows(second)] == ["script:\nsay The milk."]
    assert second.err == ""
    refused = wake(served, "ls", "--after", after)
    assert refused.code == 2
    assert "cursor is of another query" in refused.err


def test_counts_and_the_like(served: Path) -> None:
    """In place of a list; for people aligned, for programs an object each."""
    counted = {
        r["status"]: r["executions"]
        for r in rows(wake(served, "ls", "--count", "--json"))
    }
    assert counted["completed"] == 2
    assert wake(served, "ls", "--count").out.startswith("STATUS")
    (active,) = rows(wake(served, "ls", "--active", "--json"))
    assert (active["user"], active["awaiting"]) == ("local", 1)
    none = wake(served, "ls", "--count", "--user", "eve").out
    assert none == wake(served, "ls", "--user", "eve").out == f"{NONE_LIKE}\n"
    assert wake(served, "ls", "--stuck").out == "nothing is stuck\n"
    (waiting,) = rows(wake(served, "ls", "--awaiting", "ci.done", "--json"))
    assert waiting["event_type"] == "ci.done"
    assert len(rows(wake(served, "ls", "--awaiting", "all", "--json"))) == 1
    assert wake(served, "ls", "--awaiting", "x").out == "nothing waits for that\n"


def test_usage_and_search(served: Path) -> None:
    """What was used, and where a text stands."""
    used = rows(wake(served, "usage", "--by", "user,model", "--json"))
    assert [row["user"] for row in used] == ["ada", "bob"]
    assert wake(served, "usage").out.split()[:3] == ["DAY", "STEPS", "TOKENS"]
    assert wake(served, "usage", "--until", "1d").out == "nothing was used\n"
    found = rows(wake(served, "search", "THE MILK", "--json"))
    assert {row["kind"] for row in found} == {"input", "output"}
    only = rows(wake(served, "search", "milk", "--in", "output", "--json"))
    assert [row["kind"] for row in only] == ["output"]
    assert wake(served, "search", "no such text").out == "nothing has that text\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("ls --sort size", "there are: created_at"),
        ("ls --meta ticket", "write it as KEY=VALUE"),
        ("ls --since yesterday", "or how long ago: 90s"),
        ("ls --since 2026-01-01T00:00", "has no zone"),
        ("ls --count --stuck", "one thing at a time"),
        ("ls --stuck --lane x", "--lane does not go with --stuck"),
        ("ls --after nonsense", "this is no cursor"),
        ("ls --limit 0", "greater than or equal to 1"),
        ("ls --user ''", "length >= 1"),
        ("usage --by hour", "there are: day, user, agent, model"),
        ("search x --in steps", "Invalid enum value 'steps'"),
        ("search ''", "length >= 1"),
        ("sql ''", "length >= 1"),
        ("sql 'SELECT 1' --limit 0", ">= 1"),
        ("sql 'SELECT 1' --timeout 0", "> 0"),
        ("sql 'SELECT 1' --timeout nan", "> 0"),
        ("sql 'SELECT 1' --format xml", "there are: table, json, csv, parquet"),
        ("sql 'SELECT 1' --format parquet", "name it with --output"),
        ("sql 'SELECT 1' --json --format csv", "give one of them"),
        ("sql 'DROP TABLE logs'", "nothing can be changed here"),
        ("sql \"FROM read_text('/etc/passwd')\"", "disabled by configuration"),
        ("sql 'SELECT 1; SELECT 2'", "one SELECT"),
        (f"sql '{FOREVER}' --timeout 0.2", "stopped after 0.2 s"),
        ("sql 'SELECT 1' --output no/such/dir.csv", "No such file or directory"),
    ],
)
def test_what_is_refused(served: Path, arguments: str, said: str) -> None:
    """In a line that says what to change; for programs it is one object."""
    ended = wake(served, *shlex.split(arguments))
    assert ended.code in {2, 5}
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_sql_in_every_form(served: Path, tmp_path: Path) -> None:
    """The same rows as a table, as JSON, as CSV, and with their types as Parquet."""
    sql = (
        'SELECT "user", 1.50::DECIMAL(9,2) AS price, NULL AS nothing, \'\' AS "empty", '
        "DATE '2026-01-02' AS day FROM executions WHERE status = 'completed' ORDER BY 1"
    )
    table = wake(served, "sql", sql).out.splitlines()
    assert table[0].split() == ["user", "price", "nothing", "empty", "day"]
    assert table[1].split() == ["ada", "1.50", "-", "2026-01-02"]
    objects = rows(wake(served, "sql", sql, "--json"))
    assert objects[1] == {
        "user": "bob",
        "price": "1.50",
        "nothing": None,
        "empty": "",
        "day": "2026-01-02",
    }
    commas = wake(served, "sql", sql, "--format", "csv").out
    assert commas.splitlines() == [
        "user,price,nothing,empty,day",
        'ada,1.50,,"",2026-01-02',
        'bob,1.50,,"",2026-01-02',
    ]
    target = tmp_path / "rows.parquet"
    assert wake(served, "sql", sql, "--output", str(target)).code == 0
    found = duckdb.connect().execute("FROM read_parquet($f)", {"f": str(target)})
    assert [str(d[1]) for d in found.description][1::3] == ["DECIMAL(9,2)", "DATE"]
    assert len(found.fetchall()) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


def test_sql_that_finds_nothing(served: Path, tmp_path: Path) -> None:
    """Has its columns and no rows, in whatever form, and is no failure."""
    nothing = "SELECT 1 AS a, 'x' AS long_one WHERE false"
    forms = {"table": "a  long_one\n", "json": "", "csv": "a,long_one\n"}
    for form, expected in forms.items():
        ended = wake(served, "sql", nothing, "--format", form)
        assert (ended.code, ended.out, ended.err) == (0, expected, "")
    target = tmp_path / "none.parquet"
    assert wake(served, "sql", nothing, "--output", str(target)).code == 0
    found = duckdb.connect().execute("FROM read_parquet($f)", {"f": str(target)})
    assert [d[0] for d in found.description] == ["a", "long_one"]
    assert found.fetchall() == []


def test_sql_from_stdin_with_a_limit(served: Path) -> None:
    """What is cut off is said on stderr."""
    ended = wake(served, "sql", "-", "--json", "--limit", "2", stdin=b"FROM range(3)")
    assert rows(ended) == [{"range": 0}, {"range": 1}]
    assert "there are more than 2 rows" in ended.err


def test_a_file_that_is_there_stays(served: Path, tmp_path: Path) -> None:
    """Unless it is to be overwritten; a query that fails leaves nothing."""
    target = tmp_path / "rows.csv"
    target.write_text("mine")
    flags = ("--output", str(target))
    refused = wake(served, "sql", "SELECT 1 AS a", *flags)
    assert (refused.code, target.read_text()) == (2, "mine")
    assert "--force overwrites it" in refused.err
    failed = wake(served, "sql", "SELECT error('no')", *flags, "--force")
    assert (failed.code, target.read_text()) == (2, "mine")
    assert wake(served, "sql", "SELECT 1 AS a", *flags, "--force").code == 0
    assert target.read_bytes() == b"a\r\n1\r\n"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("where", [".", "/", "folder", "pipe", "to_pipe"])
def test_what_is_no_file_is_not_written(
    served: Path, tmp_path: Path, where: str
) -> None:
    """A folder, a pipe or a device is refused and stays, also with --force."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    output = str(Path(tmp_path, where)) if where != "." else where
    ended = wake(served, "sql", "SELECT 1", "--output", output, "--force")
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert "is no file" in ended.err
    assert stat.S_ISFIFO((tmp_path / "to_pipe").stat().st_mode)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_may_have_any_name(served: Path, tmp_path: Path, suffix: str) -> None:
    """One as long as a name may be, too; what is longer is refused in a line."""
    longest = tmp_path / ("a" * (255 - len(suffix)) + suffix)
    ended = wake(served, "sql", "SELECT 1 AS a", "--output", str(longest))
    assert ended.code == 0, ended.err
    assert [file.name for file in tmp_path.iterdir()] == [longest.name]
    ended = wake(served, "sql", "SELECT 1", "--output", f"{tmp_path}/a{longest.name}")
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert "File name too long" in ended.err


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_stdout_without_room_is_no_traceback(served: Path, form: str) -> None:
    """One line says it, and the exit code says that the environment must change."""
    ended = _in_a_shell(served, 'exec "$@" > /dev/full', LONG, "--format", form)
    assert (ended.code, ended.err.count("\n")) == (5, 1), ended.err
    assert "stdout cannot be written: No space left on device" in ended.err


def test_that_rows_are_lost_is_said_before_that_there_are_more(served: Path) -> None:
    """No word about the limit hides that those within it did not come out."""
    rest = ("FROM range(3)", "--limit", "2")
    ended = _in_a_shell(served, 'exec "$@" > /dev/full', *rest)
    assert (ended.code, ended.err.count("\n")) == (5, 1), ended.err
    assert "stdout cannot be written" in ended.err


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet"])
def test_a_file_without_room_is_not_there(
    served: Path, tmp_path: Path, suffix: str
) -> None:
    """What was written of it is removed, and one line says why."""
    output = tmp_path / f"rows{suffix}"
    small = 'ulimit -f 16; exec "$@"'
    ended = _in_a_shell(served, small, LONG, "--output", str(output))
    assert (ended.code, ended.err.count("\n")) == (5, 1), ended.err
    assert f"--output {output} cannot be written: File too large" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_room_is_not_there(served: Path, tmp_path: Path) -> None:
    """Also where its rows had room on their way, and only the file has none."""
    wide = "SELECT " + ", ".join(f"{n} AS c{n}" for n in range(200))
    output = tmp_path / "rows.parquet"
    small = 'ulimit -f 8; exec "$@"'
    ended = _in_a_shell(served, small, wide, "--output", str(output))
    assert (ended.code, ended.err.count("\n")) == (5, 1), ended.err
    assert f"--output {output} cannot be written: " in ended.err
    assert list(tmp_path.iterdir()) == []


def _in_a_shell(place: Path, script: str, *arguments: str) -> Ended:
    """Run ``wake sql`` for many rows as a shell's script says."""
    command = ("sh", "-c", script, "sh", *COMMAND, "sql", "--limit", "9999")
    ended = subprocess.run(
        [*command, *arguments],
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_ctrl_c_stops_the_query(served: Path) -> None:
    """Not only the waiting: the service works on it no more."""
    before = _unheard(served)
    process = start(served, "sql", FOREVER, "--timeout", "600")
    while _busy(served) == 0:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    while _unheard(served) == before:
        pass
    assert _busy(served) == 0


@pytest.mark.parametrize("background", [False, True])
def test_what_is_told_to_end_leaves_nothing_half_written(
    served: Path, tmp_path: Path, *, background: bool
) -> None:
    """SIGTERM, as ``timeout`` sends it: no file, and no part of one.

    What a script starts in the background ignores SIGINT, and ends all the same.
    """
    output = tmp_path / "rows.csv"
    flags = ("--limit", "10000000", "--timeout", "600", "--output", str(output))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if background else None
    try:
        process = start(served, "sql", "FROM range(10_000_000)", *flags)
    finally:
        signal.signal(signal.SIGINT, before or signal.getsignal(signal.SIGINT))
    while not any(part.stat().st_size for part in tmp_path.iterdir()):
        assert process.poll() is None
    process.terminate()
    try:
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, err.count("\n")) == (143, 1), err
    assert list(tmp_path.iterdir()) == []


def _stats(place: Path) -> dict[str, object]:
    async def asked() -> bytes:
        login = address.read(place / ".wake")
        assert login is not None
        wire = await connect(login)
        try:
            return (await wire.request("$SRV.STATS.queries")).data
        finally:
            await wire.close()

    told = json.loads(asyncio.run(asked()))
    return next(e for e in told["endpoints"] if e["name"] == "sql")


def _unheard(place: Path) -> object:
    return _stats(place)["num_errors"]


def _busy(place: Path) -> int:
    data: Any = _stats(place)["data"]
    return int(data["in_hand"])


def test_where_nothing_serves(unserved: Path) -> None:
    """The read model in the folder is brought up to date, and asked here."""
    assert len(rows(wake(unserved, "ls", "--json"))) == 2
    assert not (unserved / ".wake" / "readmodel.duckdb").exists(), "the log answered"
    assert [
        r["user"] for r in rows(wake(unserved, "ls", "--user", "ada", "--json"))
    ] == ["ada"]
    wake(unserved, "run", "script:\nsay More.", "--user", "eve", "--workspace", ".")
    counted = wake(unserved, "sql", "SELECT count(*) AS n FROM executions", "--json")
    assert rows(counted) == [{"n": 3}]
    assert len(rows(wake(unserved, "search", "milk", "--json"))) == 4
    refused = wake(unserved, "sql", "DROP TABLE logs")
    assert (refused.code, refused.err) == (
        2,
        "wake: a query is one SELECT; nothing can be changed here\n",
    )


def test_where_nothing_ran(tmp_path: Path) -> None:
    """It is said, and nothing is made."""
    assert wake(tmp_path, "sql", "SELECT 1").code == 2
    assert wake(tmp_path, "usage").code == 2
    assert "start with wake run" in wake(tmp_path, "ls", "--user", "ada").out
    assert list(tmp_path.iterdir()) == []


# ── without a process ────────────────────────────────────────────────────────


def test_only_what_is_typed_is_asked() -> None:
    """No flag, no condition."""
    assert Filters().plain
    assert Filters(status=("failed",)).plain
    assert not Filters(after="x").plain
    with pytest.raises(InvalidInput, match="there are"):
        grouped("day,hour")
    assert grouped("") == ()
    assert when(None, "--since") is None


def test_columns_have_different_names() -> None:
    """As DuckDB would name them."""
    columns = [Column(name=n, type="INTEGER") for n in ("a", "a", "a_1", "a", "")]
    names = [column.name for column in named(columns)]
    assert names[0] == "a"
    assert len(set(names)) == 5


def test_csv_reads_back_as_it_was() -> None:
    """Line ends, quotes and commas are within their field, also in a heading."""
    values = ["a\nb", "c\rd", "\r\n", '"', ",", " s ", "'", 'x,\n"', "", "é"]
    written = bytearray()
    form = Csv(written.extend)
    form.begin([Column(name=f"{v}#", type="VARCHAR") for v in values])
    form.row(values)
    text = io.StringIO(written.decode(), newline="")
    heads, row = csv.reader(text, strict=True)
    assert (heads, row) == ([f"{v}#" for v in values], values)


def test_columns_stand_under_each_other() -> None:
    """Numbers to the right; nothing that a value has acts on a terminal."""
    lines = list(aligned([("ID", "N"), ("a\x1b[2J", "1,000"), ("bcd", "7")], None))
    assert "\x1b" not in "".join(lines)
    assert lines[1].endswith("1,000")
    assert lines[2].endswith("    7")
    assert all(len(line) <= 6 for line in aligned([("ID", "N"), ("abcdef", "1")], 6))
