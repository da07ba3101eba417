import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.errors import Misconfigured
from gateway import address
from gateway.address import NAME, Address
from gateway.composition import Place, own_folder, reach
from services.folder import DataFolder, holder

HERE = Address(url="nats://127.0.0.1:1", user="wake", pid=os.getpid())
BELIEVED = b'{"url":"nats://127.0.0.1:1","pid":%d}'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An empty data folder that nobody holds."""
    DataFolder.open(tmp_path / ".wake").close()
    return tmp_path / ".wake"


@pytest.fixture
def held(data: Path) -> Iterator[Path]:
    """A data folder that this process holds."""
    with DataFolder.open(data):
        yield data


def test_it_is_found_as_long_as_it_lasts(held: Path) -> None:
    """By whoever has the folder; then nothing is left of it."""
    with address.published(held, HERE):
        assert address.read(held) == HERE
        assert reach(Place(held)) == HERE
    assert address.read(held) is None
    assert {path.name for path in held.iterdir()} == {"lock", "format.json"}


def test_only_the_owner_may_read_it(held: Path) -> None:
    """From its first moment, whatever lay there before."""
    for name in (NAME, "service.new"):
        (held / name).write_text("{}")
        (held / name).chmod(0o666)
    with address.published(held, HERE):
        assert stat.S_IMODE((held / NAME).stat().st_mode) == 0o600


def test_it_goes_also_when_the_service_fails(held: Path) -> None:
    """And when somebody took it away meanwhile."""
    with pytest.raises(ZeroDivisionError), address.published(held, HERE):
        raise ZeroDivisionError
    assert address.read(held) is None
    with address.published(held, HERE):
        (held / NAME).unlink()


def gone() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("pid", ["gone", "another's", "ours"])
def test_what_a_dead_service_left_counts_for_nothing(data: Path, pid: str) -> None:
    """Even if its pid belongs to another process by now: nobody holds the folder."""
    number = {"gone": gone(), "another's": os.getppid(), "ours": os.getpid()}[pid]
    (data / NAME).write_bytes(BELIEVED % number)
    assert address.read(data) is None
    assert reach(Place(data)) is None


def test_what_is_left_counts_for_nothing_while_another_holds_the_folder(
    held: Path,
) -> None:
    """A run that holds it is no service, whatever pid the dead one had."""
    (held / NAME).write_bytes(BELIEVED % os.getppid())
    assert address.read(held) is None


def test_whoever_takes_the_folder_removes_what_is_left(data: Path) -> None:
    """So it cannot pass for his own, as where all have the same pid."""
    (data / NAME).write_bytes(BELIEVED % os.getpid())
    with own_folder(Place(data), wait=0) as folder:
        assert folder is not None
        assert address.read(data) is None
        assert not (data / NAME).exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[]", b'{"url": 7}'])
def test_damage_is_told_of_only_if_it_matters(data: Path, damage: bytes) -> None:
    """What a power cut left of a dead one's is passed over."""
    (data / NAME).write_bytes(damage)
    assert address.read(data) is None
    with (
        DataFolder.open(data),
        pytest.raises(Misconfigured, match=r"service.json is damaged .* remove it"),
    ):
        address.read(data)


def test_a_folder_that_is_not_there_has_no_service(tmp_path: Path) -> None:
    """And asking makes none."""
    assert address.read(tmp_path / "nix") is None
    assert list(tmp_path.iterdir()) == []


def test_asking_who_holds_a_folder_disturbs_nobody(data: Path) -> None:
    """Nobody, we, and nobody again; it can be held at once after the question."""
    assert holder(data) is None
    for _ in range(20):
        assert holder(data) is None
        with DataFolder.open(data, wait=0):
            assert holder(data) == os.getpid()
