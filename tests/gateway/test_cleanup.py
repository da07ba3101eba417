"""``wake cleanup`` as an operator meets it."""

import json
from pathlib import Path

import pytest
import serving
import waking
from waking import wake

from gateway.wording import size
from services import archive

SAYS = "script:\nsay Done."


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A data folder with two executions that ended."""
    for user in ("local", "ada"):
        assert wake(tmp_path, "run", SAYS, "--user", user).code == 0
    return tmp_path


def listed(place: Path) -> list[str]:
    """The ids that ``wake ls`` shows."""
    lines = wake(place, "ls", "--json").out.splitlines()
    return [json.loads(line)["id"] for line in lines]


def test_what_is_young_stays(place: Path) -> None:
    """Thirty days, if nothing else is said."""
    ended = wake(place, "cleanup")
    assert (ended.code, ended.out) == (0, "nothing ended more than 30 days ago\n")
    assert len(listed(place)) == 2


def test_first_said_then_done(place: Path) -> None:
    """What a dry run names is deleted, and archived before if that is asked."""
    names = listed(place)
    dry = wake(place, "cleanup", "--days", "0", "--dry-run")
    assert dry.code == 0
    assert all(f"{name} would be deleted: completed" in dry.out for name in names)
    assert dry.out.splitlines()[-1].startswith("2 executions would be deleted, ")
    assert listed(place) == names
    histories = {name: waking.history(place, name) for name in names}
    kept = place / "kept"
    ended = wake(place, "cleanup", "--days", "0", "--archive", str(kept), "--json")
    *swept, tally = map(json.loads, ended.out.splitlines())
    assert {one["execution"] for one in swept} == set(names)
    assert all(one["deleted"] for one in swept)
    assert (tally["executions"], tally["files"], tally["left"]) == (2, 2, 0)
    assert tally["bytes"] == sum(one["bytes"] for one in swept)
    for one in swept:
        bodies = [json.loads(r.body) for r in archive.read(Path(one["archive"]))]
        assert bodies == histories[one["execution"]]
    assert listed(place) == []
    gone = wake(place, "show", names[0])
    assert gone.code == 2
    assert "there is no execution" in gone.err
    assert wake(place, "cleanup", "--days", "0").out.startswith("nothing ended")


def test_beside_a_service_that_runs(tmp_path: Path) -> None:
    """It finds it by the folder; what has not ended stays, log lines go as asked."""
    with serving.serving(tmp_path):
        started = [
            wake(tmp_path, "start", SAYS, *more).out.strip()
            for more in ((), ("--model", "scripted?delay_ms=60000"))
        ]
        wake(tmp_path, "watch", started[0])
        own = tmp_path / ".wake" / "workspaces" / "local" / started[0]
        own.mkdir(parents=True, exist_ok=True)
        (own / "file").write_text("x" * 2048)
        ended = wake(tmp_path, "cleanup", "--days", "0", "--logs-days", "0", "--json")
        *swept, tally = map(json.loads, ended.out.splitlines())
        assert [one["execution"] for one in swept] == [started[0]]
        assert swept[0]["workspace_bytes"] == 2048
        assert tally["log_lines"] > 0
        assert listed(tmp_path) == [started[1]]
        assert not own.exists()
        told = wake(tmp_path, "logs", started[1], "--json")
        assert told.out == ""
        wake(tmp_path, "kill", started[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--days", "-1"), "--days"),
        (("--days", "99999999999999999999"), "--days"),
        (("--days", "1.5"), "--days"),
        (("--logs-days", "-1"), "--logs-days"),
        (("--archive", "backup"), "is relative"),
        (("--archive", "/proc/none"), "cannot be written"),
        (("--archive", "{place}/.wake/workspaces/x"), "among the workspaces"),
        (("--archive", "{place}/wakestream.toml"), "cannot be written"),
    ],
)
def test_bad_input_deletes_nothing(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """It says which flag is wrong, before anything is opened."""
    (tmp_path / ".wake" / "workspaces").mkdir(parents=True)
    (tmp_path / "wakestream.toml").write_text("")
    given = [text.format(place=tmp_path) for text in arguments]
    ended = wake(tmp_path, "cleanup", *given)
    assert ended.code == 2
    assert said in ended.err
    assert list((tmp_path / ".wake").iterdir()) == [tmp_path / ".wake" / "workspaces"]


def test_where_nothing_is_there_is_nothing_to_clean(tmp_path: Path) -> None:
    """A folder that is not there is a slip, and is not made."""
    ended = wake(tmp_path, "cleanup", "--data", "no")
    assert ended.code == 2
    assert "there is no wakestream data" in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1_023_999, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (10**16, "9,094.9 TiB"),
    ],
)
def test_bytes_for_people(count: int, said: str) -> None:
    """In the largest unit that leaves a small number."""
    assert size(count) == said
