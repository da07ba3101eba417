"""Where a running service listens, written into its data folder.

So ``wake ls`` or ``wake pause`` on the same folder finds it. Readable by the
folder's owner alone: it has the password of this start.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from events.errors import Misconfigured
from services.folder import holder

NAME = "service.json"


class Address(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A nats-server, and who may talk to it; ``system`` logs in to its own account."""

    url: str
    user: str | None = None
    password: str | None = None
    pid: int = 0
    system: tuple[str, str] | None = None


def read(data: Path) -> Address | None:
    """Return the address of the service on a data folder, if one is running.

    What a dead one left counts for nothing, even if its pid came again: a service
    holds its folder. Raises Misconfigured if a running one's cannot be read.
    """
    pid = holder(data)
    if pid is None or not _alive(pid):
        return None
    try:
        address = msgspec.json.decode((data / NAME).read_bytes(), type=Address)
    except OSError:
        return None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Misconfigured(f"{data / NAME} is damaged ({error}): remove it") from error
    return address if address.pid == pid else None


def forget(data: Path) -> None:
    """Remove what a dead service left; for whoever holds the folder."""
    with contextlib.suppress(FileNotFoundError):
        (data / NAME).unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def published(data: Path, address: Address) -> Iterator[None]:
    """Let others find the service as long as this lasts; but not its system account."""
    address = msgspec.structs.replace(address, system=None)
    path = data / NAME
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)  # its mode would stay what it was
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(address))
    draft.replace(path)
    try:
        yield
    finally:
        forget(data)
