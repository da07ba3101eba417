"""``wake limits`` and ``wake user``, on a data folder and beside a service."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import serving

from gateway.cli import main

CONFIG = """
[limits]
default_tier = "free"

[limits.pro]
concurrent = ""
hourly = 3
"""
LONG = "scripted?delay_ms=60000"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in which everything is served, with limits."""
    here = tmp_path_factory.mktemp("limited")
    here.chmod(0o777)
    (here / "wakestream.toml").write_text(CONFIG)
    with serving(here):
        yield here


class Shell:
    """Runs commands in this process, where it is served."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, and what was printed."""
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        told = self._capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    def objects(self, *arguments: str) -> list[Any]:
        """What is printed for programs."""
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """Run a command there."""
    monkeypatch.chdir(place)
    for name in [name for name in os.environ if name.startswith("WAKE")]:
        monkeypatch.delenv(name)
    return Shell(capsys)


def test_limits_before_and_after_a_start(run: Shell) -> None:
    """Who has no account is of the default tier; a refusal is told with its code."""
    (before,) = run.objects("limits", "--user", "ann")
    assert before["tier"] == "free"
    assert before["concurrent"] == {
        "used": 0,
        "limit": 1,
        "remaining": 1,
        "retry_after": None,
    }
    assert run("start", "x", "--model", LONG, "--user", "ann")[0] == 0
    code, out, _ = run("limits", "--user", "ann")
    assert (code, out.splitlines()) == (
        0,
        [
            "ann is free",
            "LIMIT           USED  OF  LEFT  AGAIN",
            "at a time       1     1   0     in 5 s",
            "within an hour  1     10  9     -",
        ],
    )
    code, out, err = run("start", "y", "--user", "ann", "--json")
    assert (code, json.loads(out)["error"]) == (2, "limit_reached")
    assert "ann may have 1 at a time (free)" in err
    (after,) = run.objects("limits", "--user", "ann")
    assert after["concurrent"]["used"] == after["hourly"]["used"] == 1


def test_an_account_counts_from_the_next_command_on(run: Shell) -> None:
    """Its tier as it is configured, until it is removed."""
    assert run.objects("user", "set", "bea", "--tier", "pro") == [
        {"user": "bea", "tier": "pro", "roles": []}
    ]
    for name in "xyz":
        assert run("start", name, "--model", LONG, "--user", "bea")[0] == 0
    code, _, err = run("start", "more", "--user", "bea")
    assert code == 2
    assert "bea started 3 executions within an hour" in err
    (told,) = run.objects("limits", "--user", "bea")
    assert told["concurrent"]["limit"] is None
    assert (told["hourly"]["remaining"], told["tier"]) == (0, "pro")
    assert 0 < told["hourly"]["retry_after"] <= 3600
    assert "no limit" in run("limits", "--user", "bea")[1]
    assert run("user", "rm", "bea")[1] == "bea has no account any more\n"
    (told,) = run.objects("limits", "--user", "bea")
    assert (told["tier"], told["concurrent"]["used"]) == ("free", 3)


def test_accounts_are_listed(run: Shell) -> None:
    """What is not given stays as it is; roles are set as a whole."""
    run("user", "set", "cleo", "--tier", "enterprise", "--role", "admin")
    run("user", "set", "cleo", "--tier", "free")
    (cleo,) = [row for row in run.objects("user", "ls") if row["user"] == "cleo"]
    assert cleo == {"user": "cleo", "tier": "free", "roles": ["admin"]}
    run("user", "set", "cleo", "--role", "a", "--role", "b", "--role", "a")
    code, out, _ = run("user", "ls")
    assert code == 0
    assert out.splitlines()[0].split() == ["USER", "TIER", "ROLES"]
    assert ["cleo", "free", "a,", "b"] in [line.split() for line in out.splitlines()]
    assert run.objects("user", "rm", "cleo") == [{"user": "cleo", "removed": True}]
    assert "cleo" not in run("user", "ls")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("limits", "--user", "a.b"), "user 'a.b' is not allowed"),
        (("limits", "--user", "all"), "reserved"),
        (("user", "set", "a.b", "--tier", "free"), "user 'a.b' is not allowed"),
        (("user", "set", "*", "--tier", "free"), "user '*' is not allowed"),
        (("user", "set", "dan"), "--tier or --role"),
        (("user", "set", "dan", "--tier", "gold"), "free, pro, enterprise"),
        (("user", "set", "dan", "--tier", ""), "no tier ''"),
        (("user", "set", "dan", "--role", "a b"), "role 'a b' is not allowed"),
        (("user", "set", "dan", "--role", ""), "role '' is not allowed"),
        (("user", "rm", "nobody"), "nobody has no account"),
        (("user", "rm", ">"), "user '>' is not allowed"),
    ],
)
def test_what_is_wrong_is_told_and_changes_nothing(
    run: Shell, arguments: tuple[str, ...], said: str
) -> None:
    """In one line that says what to change."""
    before = run.objects("user", "ls")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert run.objects("user", "ls") == before


def test_where_nobody_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accounts can be written before anything is started; limits need a log."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("WAKE")]:
        monkeypatch.delenv(name)
    run = Shell(capsys)
    for arguments in (("limits",), ("user", "ls"), ("user", "rm", "x")):
        code, _, err = run(*arguments)
        assert (code, "there is no wakestream data" in err) == (2, True)
    run("user", "set", "eve", "--tier", "pro")
    assert run.objects("user", "ls") == [{"user": "eve", "tier": "pro", "roles": []}]
    (told,) = run.objects("limits", "--user", "eve")
    assert (told["tier"], told["hourly"]["limit"]) == ("pro", 100)
    (told,) = run.objects("limits", "--user", "local")
    assert told["tier"] is None
