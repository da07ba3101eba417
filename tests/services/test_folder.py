import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from events.errors import FolderInUse, Misconfigured
from services.folder import FORMAT, DataFolder

ROOT = Path(__file__).parents[2]

HOLD = """
import sys
from pathlib import Path
from services.folder import DataFolder
with DataFolder.open(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a data folder may come into being."""
    return tmp_path / "data"


def content(path: Path) -> set[str]:
    """The names in a folder."""
    return {entry.name for entry in path.iterdir()}


def test_a_new_folder_is_private_and_says_its_format(path: Path) -> None:
    """A folder that is not there is made, for its owner alone, with a format file."""
    with DataFolder.open(path) as folder:
        assert folder.path == path
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((path / "lock").stat().st_mode) == 0o600
        assert json.loads((path / "format.json").read_bytes())["format"] == FORMAT


def test_a_folder_can_be_opened_again_and_again(path: Path) -> None:
    """What one user left is there for the next; closing twice does nothing."""
    for _ in range(2):
        folder = DataFolder.open(path, wait=0)
        (path / "store").mkdir(exist_ok=True)
        folder.close()
        folder.close()
    assert content(path) == {"lock", "format.json", "store"}


def test_a_relative_path_survives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's path is absolute, whatever was given."""
    monkeypatch.chdir(tmp_path)
    with DataFolder.open(Path("data")) as folder:
        assert folder.path == tmp_path / "data"


def test_one_user_at_a_time(path: Path) -> None:
    """A second opener is refused with the path and the pid that holds it."""
    with DataFolder.open(path), pytest.raises(FolderInUse) as refused:
        DataFolder.open(path, wait=0)
    assert f"data folder {path} " in str(refused.value)
    assert f"process {os.getpid()}" in str(refused.value)


def test_one_user_at_a_time_across_processes(path: Path) -> None:
    """The pid of another process is named; its end frees the folder by itself."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FolderInUse, match=f"process {holder.pid}:"):
            DataFolder.open(path, wait=0)
        holder.kill()
        DataFolder.open(path).close()


def test_an_opener_waits_for_one_who_is_just_ending(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within ``wait`` a folder that becomes free is taken."""
    first = DataFolder.open(path)
    monkeypatch.setattr("services.folder.time.sleep", lambda _: first.close())
    DataFolder.open(path, wait=60).close()


@pytest.mark.parametrize("text", ["", "nonsense\n", "0 0\n", "\0\xff", "99999999999 x"])
def test_a_lock_file_that_says_nothing_still_locks(path: Path, text: str) -> None:
    """A damaged lock file makes the message vaguer, not the lock weaker."""
    with DataFolder.open(path):
        (path / "lock").write_text(text)
        with pytest.raises(FolderInUse, match="in use by another process"):
            DataFolder.open(path, wait=0)


def test_a_deleted_lock_file_is_not_trusted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever locked a file that was deleted meanwhile takes the new one instead."""
    real, locked = fcntl.flock, list[int]()

    def flock(lock: int, operation: int) -> None:
        if not locked:
            (path / "lock").unlink()
        locked.append(lock)
        real(lock, operation)

    monkeypatch.setattr("services.folder.fcntl.flock", flock)
    with DataFolder.open(path) as folder:
        assert len(locked) == 2
        assert os.path.samestat(os.fstat(folder.lock_fd), (path / "lock").stat())


def test_a_newer_format_is_refused(path: Path) -> None:
    """Both versions are named, and what to do; nothing is changed."""
    DataFolder.open(path).close()
    newer = {"format": FORMAT + 1, "wakestream": "9.8.7", "added": ["later"]}
    (path / "format.json").write_text(json.dumps(newer))
    with pytest.raises(Misconfigured) as refused:
        DataFolder.open(path)
    for part in ("9.8.7", f"format {FORMAT + 1}", f"format {FORMAT}:", "pip install"):
        assert part in str(refused.value)
    assert json.loads((path / "format.json").read_text()) == newer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "\xff",
        "[" * 100_000,
        '{"format": 1}',
        '{"format": "1", "wakestream": "1"}',
        '{"format": true, "wakestream": "1"}',
        '{"format": 1e999, "wakestream": "1"}',
        '{"format": 1, "wakestream": "1", "x": ' + "[" * 100_000,
    ],
)
def test_a_damaged_format_file_is_refused(path: Path, text: str) -> None:
    """What cannot be read is not guessed; the folder is free again afterwards."""
    DataFolder.open(path).close()
    good = (path / "format.json").read_text()
    (path / "format.json").write_text(text, encoding="latin-1")
    with pytest.raises(Misconfigured, match="damaged"):
        DataFolder.open(path)
    (path / "format.json").write_text(good)
    DataFolder.open(path, wait=0).close()


def test_a_folder_of_somebody_else_is_left_alone(path: Path) -> None:
    """A folder with other files is refused, and nothing is written to it."""
    path.mkdir()
    (path / "thesis.tex").touch()
    with pytest.raises(Misconfigured, match=r"thesis\.tex"):
        DataFolder.open(path)
    assert content(path) == {"thesis.tex"}


@pytest.mark.parametrize("left", ["lock", "format.json.new", "lost+found"])
def test_an_interrupted_first_start_is_taken_up(path: Path, left: str) -> None:
    """What a killed first start leaves, or a fresh file system, counts as empty."""
    path.mkdir()
    (path / left).touch()
    DataFolder.open(path).close()
    assert content(path) == {"lock", "format.json", left} - {"format.json.new"}


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    """A file, and a path through a file, are refused with a word on what to do."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(Misconfigured, match="cannot be used"):
            DataFolder.open(path)


@pytest.mark.parametrize("path", ["/proc/wakestream", "/tmp/a\0b", "/tmp/" + "x" * 999])  # noqa: S108 - none of them can come into being
def test_what_cannot_be_made_is_refused(path: str) -> None:
    """Where no directory can be made, or none of that name, the reason is said."""
    with pytest.raises(Misconfigured, match="cannot be used"):
        DataFolder.open(Path(path))


def test_a_symlink_in_the_lock_s_place_is_not_followed(path: Path) -> None:
    """Nobody can make us write to a file elsewhere."""
    DataFolder.open(path).close()
    target = path.parent / "target"
    target.write_text("precious")
    (path / "lock").unlink()
    (path / "lock").symlink_to(target)
    with pytest.raises(Misconfigured, match="cannot be used"):
        DataFolder.open(path)
    assert target.read_text() == "precious"


def test_the_lock_is_not_passed_on_to_every_child(path: Path) -> None:
    """Only who is given ``lock_fd`` holds the folder: a tool's process does not."""
    with DataFolder.open(path) as folder:
        assert not os.get_inheritable(folder.lock_fd)
