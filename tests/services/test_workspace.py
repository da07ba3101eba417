import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from events.errors import InvalidInput, ToolFailed
from services.tools.beneath import Opener, best_opener, openat2, walk
from services.tools.workspace import Workspace

SECRET = b"secret of the host"


@pytest.fixture(params=[openat2, walk], ids=["openat2", "walk"])
def opener(request: pytest.FixtureRequest) -> Opener:
    """Both ways of opening; the second is what an old kernel or a filter leaves."""
    chosen: Opener = request.param
    return chosen


@pytest.fixture
def workspace(tmp_path: Path, opener: Opener) -> Iterator[Workspace]:
    """A workspace beside a secret that must never be reached."""
    root = tmp_path / "workspace"
    (root / "folder").mkdir(parents=True)
    (root / "folder/inner.txt").write_bytes(b"inner")
    (root / "a.txt").write_bytes(b"a")
    (tmp_path / "secret").write_bytes(SECRET)
    with Workspace(root, opener) as made:
        yield made


def read(workspace: Workspace, path: str) -> bytes:
    """All of a file."""
    with workspace.file(path) as file:
        return file.read()


def test_openat2_works_here() -> None:
    """The kernel of the test machine is one where the stronger way is used."""
    assert best_opener() is openat2


def test_a_refused_openat2_falls_back_to_the_walk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kernel or filter that refuses the call does not stop the file tools."""

    def refused(_root: int, path: str, _flags: int) -> int:
        raise OSError(38, "Function not implemented", path)

    monkeypatch.setattr("services.tools.beneath.openat2", refused)
    assert best_opener.__wrapped__() is walk


@pytest.mark.parametrize("path", ["a.txt", "./a.txt", "folder/../a.txt", "//a.txt"[2:]])
def test_what_lies_inside_is_read(workspace: Workspace, path: str) -> None:
    """Relative paths work, also with dots in them."""
    assert read(workspace, path) == b"a"


def test_an_absolute_path_inside_is_read(workspace: Workspace) -> None:
    """Commands print absolute paths, and a model uses them."""
    assert read(workspace, str(workspace.root / "a.txt")) == b"a"


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "folder/../../secret",
        "../workspace/../secret",
        "/etc/shadow",
        "/",
        "//etc/passwd",
        "link",
        "absolute",
        "up/secret",
        "a/../../secret",
        "magic/secret",
    ],
)
def test_no_path_leads_outside(workspace: Workspace, path: str) -> None:
    """Dots, absolute paths and links of every sort are refused."""
    root = workspace.root
    (root / "link").symlink_to("../secret")
    (root / "absolute").symlink_to(root.parent / "secret")
    (root / "up").symlink_to("..")
    (root / "magic").symlink_to("/proc/self/cwd")
    with pytest.raises(ToolFailed):
        read(workspace, path)
    with pytest.raises(ToolFailed):
        workspace.write(f"{path}/new" if path in {"up", "/"} else path, b"x")
    assert (root.parent / "secret").read_bytes() == SECRET


def test_magic_links_are_not_followed(tmp_path: Path, opener: Opener) -> None:
    """Even a workspace in /proc gives no way through a process's descriptors."""
    with (
        (tmp_path / "x").open("w") as file,
        Workspace(Path("/proc/self"), opener) as proc,
        pytest.raises(ToolFailed),
    ):
        proc.open(f"fd/{file.fileno()}")


@pytest.mark.parametrize(
    "path", ["a\0b", "\ud800", "x" * 300, "y/" * 3000, "z" * 10**6, "é\n" * 200]
)
def test_junk_is_refused_in_one_short_line(workspace: Workspace, path: str) -> None:
    """NUL, lone surrogates and endless names are told, not raised raw."""
    with pytest.raises(ToolFailed) as reading:
        workspace.file(path)
    with pytest.raises(ToolFailed) as writing:
        workspace.write(path, b"")
    for told in (str(reading.value), str(writing.value)):
        assert len(told) < 500
        assert "\n" not in told
        told.encode()


def test_missing_and_wrong_kinds_are_told(workspace: Workspace) -> None:
    """Each mistake has a message of its own."""
    for path, message in [
        ("nothing", "there is no"),
        ("folder", "use list_dir"),
        ("", "use list_dir"),
        ("a.txt/x", "not a directory"),
    ]:
        with pytest.raises(ToolFailed, match=message):
            workspace.file(path)
    with pytest.raises(ToolFailed, match="not a directory"):
        workspace.folder("a.txt")


def test_special_files_never_block(workspace: Workspace) -> None:
    """A pipe without a writer and a socket are refused at once."""
    os.mkfifo(workspace.root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(workspace.root)  # the address of a socket is short
        server.bind("socket")
        os.chdir(here)
        for name in ("pipe", "socket"):
            with pytest.raises(ToolFailed, match="not a regular file"):
                workspace.file(name)
            with pytest.raises(ToolFailed, match="not a regular file"):
                workspace.write(name, b"x")


def test_devices_are_refused(opener: Opener) -> None:
    """A device is not read, where there is one."""
    with (
        Workspace(Path("/dev"), opener) as devices,
        pytest.raises(ToolFailed, match="regular file"),
    ):
        devices.file("zero")


def test_writing_creates_folders_and_keeps_the_mode(workspace: Workspace) -> None:
    """New folders come into being; an executable script stays one; no draft stays."""
    workspace.write("x/y/z/new.txt", b"new")
    script = workspace.root / "run.sh"
    script.write_bytes(b"old")
    script.chmod(0o4755)
    workspace.write("run.sh", b"#!/bin/sh")
    assert read(workspace, "x/y/z/new.txt") == b"new"
    assert stat.S_IMODE(script.stat().st_mode) == 0o755
    assert not list(workspace.root.rglob(".wake-*"))


def test_writing_to_a_link_names_its_target(workspace: Workspace) -> None:
    """A link is neither followed nor replaced."""
    (workspace.root / "link.txt").symlink_to("a.txt")
    with pytest.raises(ToolFailed, match=r"a\.txt"):
        workspace.write("link.txt", b"x")
    assert read(workspace, "a.txt") == b"a"


def test_writing_over_a_folder_is_refused(workspace: Workspace) -> None:
    """A folder is never replaced by a file."""
    for path in ("folder", ".", "folder/..", ""):
        with pytest.raises(ToolFailed):
            workspace.write(path, b"x")
    assert (workspace.root / "folder/inner.txt").exists()


def test_a_failed_write_leaves_the_old_file(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is full, the old content stands and no draft is left."""

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ToolFailed, match="disk is full"):
        workspace.write("a.txt", b"new")
    assert read(workspace, "a.txt") == b"a"
    assert not list(workspace.root.glob(".wake-*"))


def test_a_swapped_link_never_leaks(workspace: Workspace) -> None:
    """Whoever swaps a link while it is opened gets no secret: 0 of 4,000 reads."""
    root, stop = workspace.root, threading.Event()

    def flip() -> None:
        targets = ("a.txt", "../secret", str(root.parent / "secret"))
        while not stop.is_set():
            for target in targets:
                (root / "draft").symlink_to(target)
                (root / "draft").rename(root / "flip")
            for target in ("folder", ".."):
                (root / "draft").symlink_to(target)
                (root / "draft").rename(root / "way")

    (root / "flip").symlink_to("a.txt")
    (root / "way").symlink_to("folder")
    (root.parent / "inner.txt").write_bytes(SECRET)
    thread = threading.Thread(target=flip)
    thread.start()
    leaks = 0
    try:
        for _ in range(2000):
            for path in ("flip", "way/inner.txt"):
                with suppress(ToolFailed):
                    leaks += read(workspace, path) == SECRET
            with suppress(ToolFailed):
                workspace.write("way/planted", b"x") if _ % 20 == 0 else None
    finally:
        stop.set()
        thread.join()
    assert leaks == 0
    assert not (root.parent / "planted").exists()


def test_what_is_no_directory_is_named(tmp_path: Path) -> None:
    """A workspace that is missing, or a file, is invalid input that names it."""
    (tmp_path / "file").touch()
    for root in (tmp_path / "missing", tmp_path / "file", Path("a\0b")):
        with pytest.raises(InvalidInput, match="workspace"):
            Workspace(root)
    with pytest.raises(InvalidInput, match="missing"):
        Workspace(tmp_path / "missing")


def test_descriptors_are_given_back(workspace: Workspace) -> None:
    """Nothing is left open, neither by success nor by failure."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in ("a.txt", "nothing", "folder", "../secret", "folder/inner.txt/x"):
        with suppress(ToolFailed):
            read(workspace, path)
        with suppress(ToolFailed):
            workspace.write(path, b"x")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    workspace.close()
    workspace.close()
