"""The secret that tokens are signed with: configured, or made for a data folder."""

import os
import secrets
from pathlib import Path

from events.errors import Misconfigured, NotFound
from gateway.settings import Settings
from gateway.web.keys import KeyFile
from gateway.web.tokens import Tokens

NAME = "gateway.secret"
"""The file of the data folder that keeps the one that was made."""

LARGEST = 4 * 1024


def tokens_of(settings: Settings, *, make: bool) -> Tokens:
    """Verify and mint tokens as configured; raises Misconfigured, NotFound.

    Where no secret is configured, the data folder's; with ``make``, it gets one if
    it has none. With a file of keys, a secret for this process alone will do.
    """
    gateway = settings.gateway
    keys = KeyFile(gateway.jwks_file) if gateway.jwks_file else None
    if gateway.secret is not None:
        secret = gateway.secret.reveal()
    elif keys is not None:
        secret = secrets.token_hex(32)
    else:
        secret = _kept(settings.data, make=make)
    return Tokens(secret, audience=gateway.audience, issuer=gateway.issuer, keys=keys)


def _kept(data: Path, *, make: bool) -> str:
    path = data / NAME
    if not path.exists():
        if not make:
            raise NotFound(
                f"there is no {path}: a gateway makes it when it first serves on this "
                "folder (wake up --port 8787); or set WAKE_GATEWAY_SECRET as it does"
            )
        _make(path)
    return _read(path)


def _make(path: Path) -> None:
    """Write a new secret, whole or not at all; who else does so at once is first."""
    draft = path.with_name(f"{NAME}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        finally:
            draft.unlink()
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written: {error.strerror}") from error


def _read(path: Path) -> str:
    try:
        with path.open() as file:
            text = file.read(LARGEST).strip()
            mode = os.fstat(file.fileno()).st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}") from error
    if mode & 0o077:
        raise Misconfigured(f"{path} can be read by others: chmod 600 {path}")
    if not text:
        raise Misconfigured(f"{path} is empty: remove it, and a new one is made")
    return text
