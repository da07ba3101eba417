"""What is kept of a history before it is deleted."""

import os
import stat
from pathlib import Path

import pytest
from histories import Story, call

from events.commit import Recorded
from events.errors import Corrupt, InvalidInput, Misconfigured
from services.archive import Archive, read


@pytest.fixture
def history() -> list[Recorded]:
    """A finished one."""
    story = Story()
    story.running()
    story.respond(call("a"), text="line\n\x85\u2028break")
    story.finish("a")
    story.respond(text="done")
    return story.log


def test_it_is_read_back_byte_for_byte(tmp_path: Path, history: list[Recorded]) -> None:
    """Bodies as they were stored, positions and routes; nobody else may read it."""
    file = Archive.open(tmp_path / "new").keep(history)
    assert read(file) == history
    lines = file.read_bytes().split(b"\n")
    assert lines[1:-1] == [recorded.body for recorded in history]
    chain = history[-1].commit.chain
    assert file == tmp_path / "new" / "ada" / f"run-1-{chain[:16]}.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_twice_gives_the_same_file(tmp_path: Path, history: list[Recorded]) -> None:
    """And nothing else; another history of that id gets another."""
    archive = Archive.open(tmp_path)
    first = archive.keep(history)
    assert archive.keep(history) == first
    other = archive.keep(history[:-1])
    assert sorted(first.parent.iterdir()) == sorted([first, other])


@pytest.mark.parametrize("damage", ["cut", "flip", "swap", "short", "empty", "about"])
def test_damage_shows(damage: str, tmp_path: Path, history: list[Recorded]) -> None:
    """By the chain, and by what the first line says."""
    file = Archive.open(tmp_path).keep(history)
    raw = file.read_bytes()
    lines = raw.split(b"\n")
    file.write_bytes(
        {
            "cut": raw[: len(raw) // 2],
            "flip": raw.replace(b"done", b"Done"),
            "swap": b"\n".join([lines[0], lines[2], lines[1], *lines[3:]]),
            "short": b"\n".join(lines[:-2]) + b"\n",
            "empty": b"",
            "about": b"{}\n" + raw,
        }[damage]
    )
    with pytest.raises(Corrupt):
        read(file)


def test_what_is_not_like_the_history_stops_the_deletion(
    tmp_path: Path, history: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that says yes and writes something else."""
    archive = Archive.open(tmp_path)
    other = archive.keep(history[:-1])
    stored = other.read_bytes()
    monkeypatch.setattr(Path, "read_bytes", lambda _file: stored)
    with pytest.raises(Corrupt, match="is not deleted"):
        archive.keep(history)


def test_a_full_disk_stops_it_and_leaves_no_half(
    tmp_path: Path, history: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said of which history."""

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    archive = Archive.open(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Misconfigured, match=r"ada/run-1 is not deleted.*No space"):
        archive.keep(history)
    assert list((tmp_path / "ada").iterdir()) == []


def test_a_place_that_will_not_do_is_refused_at_once(tmp_path: Path) -> None:
    """Relative, a file, without a parent, not writable, among what is deleted."""
    (tmp_path / "file").write_text("")
    (tmp_path / "inside").symlink_to(tmp_path / "ws" / "ada")
    (tmp_path / "ws" / "ada").mkdir(parents=True)
    for folder, what in (
        (Path("backup"), r"is relative.*/backup'"),
        (tmp_path / "file", "cannot be written"),
        (tmp_path / "no" / "such", "cannot be written"),
        (Path("/proc/here"), "cannot be written"),
        (tmp_path / "a\0b", "embedded null|cannot be written"),
        (tmp_path / "ws" / "keep", "among the workspaces"),
        (tmp_path / "inside", "among the workspaces"),
    ):
        with pytest.raises(InvalidInput, match=what):
            Archive.open(folder, closed=tmp_path / "ws")
