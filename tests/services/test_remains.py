"""Removing a directory, whatever an agent left in it."""

import os
from pathlib import Path

import pytest

from services.remains import has_remains, remove


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The directory of an execution, below a root."""
    folder = tmp_path / "root" / "ada" / "run-1"
    folder.mkdir(parents=True)
    return folder


def gone(own: Path) -> int:
    """Remove it; returns the bytes."""
    root = own.parents[1]
    assert has_remains(root, "ada", "run-1")
    freed = remove(root, "ada", "run-1")
    assert not has_remains(root, "ada", "run-1")
    assert not os.path.lexists(own)
    assert remove(root, "ada", "run-1") == 0
    return freed


def test_files_and_folders_go_and_their_bytes_are_told(own: Path) -> None:
    """What lies beside it stays."""
    (own / "a").write_bytes(b"x" * 1000)
    (own / "sub" / "deep").mkdir(parents=True)
    (own / "sub" / "deep" / "b").write_bytes(b"y" * 500)
    other = own.parent / "run-2"
    other.mkdir()
    assert gone(own) == 1500
    assert other.is_dir()


def test_links_are_removed_and_never_followed(own: Path, tmp_path: Path) -> None:
    """To directories, to files, to itself and to nothing."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (own / "sub").mkdir()
    for place in (own, own / "sub"):
        (place / "dir").symlink_to(outside)
        (place / "file").symlink_to(outside / "kept")
        (place / "loop").symlink_to(place)
        (place / "nothing").symlink_to("/nowhere")
        (place / "hard").hardlink_to(outside / "kept")
    assert gone(own) == 0  # a file that has other names is not free
    assert (outside / "kept").read_text() == "kept"


def test_a_link_in_its_place_is_no_way_elsewhere(own: Path, tmp_path: Path) -> None:
    """Only the link goes; a link in place of the user's directory is refused."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    own.rmdir()
    own.symlink_to(outside)
    gone(own)
    user, root = own.parent, own.parents[1]
    user.rmdir()
    user.symlink_to(tmp_path)
    with pytest.raises(OSError, match="ada"):
        remove(root, "ada", "outside")
    assert (outside / "kept").read_text() == "kept"


def test_no_depth_is_too_deep(own: Path) -> None:
    """Deeper than a path can be long, than processes have descriptors, than stacks."""
    here = os.open(own, os.O_RDONLY)
    for _ in range(1_200):
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    gone(own)


def test_what_is_locked_is_opened(own: Path) -> None:
    """A directory that its owner may not enter, nor change."""
    for name, mode in (("none", 0), ("read", 0o500), ("blind", 0o300)):
        folder = own / name / "below"
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
        folder.chmod(mode)
        folder.parent.chmod(mode)
    own.chmod(0)
    gone(own)


def test_strange_names_and_kinds_go_too(own: Path) -> None:
    """Bytes that are no text, pipes, and what looks like our own."""
    (own / os.fsdecode(b"\xff\xfe\n")).write_text("x")
    (own / ".wake-0000").mkdir()
    (own / "-rf *").mkdir()
    os.mkfifo(own / "pipe")
    gone(own)


def test_where_there_is_nothing_there_is_nothing_to_do(tmp_path: Path) -> None:
    """No root, no user, no execution."""
    assert remove(tmp_path / "no", "ada", "run-1") == 0
    (tmp_path / "ada").mkdir()
    assert remove(tmp_path, "ada", "run-1") == 0
    assert not has_remains(tmp_path, "ada", "run-1")
