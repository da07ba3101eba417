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

NAME = "service.json"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A nats-server, and who may talk to it."""

    url: str
    user: str | None = None
    password: str | None = None
    pid: int = 0

    @property
    def alive(self) -> bool:
        """The process that wrote it is still there."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def read(data: Path) -> Address | None:
    """Return the address of the service on a data folder, if one is running."""
    try:
        address = msgspec.json.decode((data / NAME).read_bytes(), type=Address)
    except OSError:
        return None
    except msgspec.DecodeError as error:
        raise Misconfigured(f"{data / NAME} is damaged ({error}): remove it") from error
    return address if address.alive else None


@contextmanager
def published(data: Path, address: Address) -> Iterator[None]:
    """Let others find the service as long as this lasts."""
    path = data / NAME
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(address))
    draft.replace(path)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
