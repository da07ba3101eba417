"""Which directories and files a command may name: the operator's allow-list."""

from collections.abc import Sequence
from pathlib import Path

from events.errors import InvalidInput


class Allowed:
    """Directories that a command may name, they and all below.

    Compared by real paths, so that no link leads out of them.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = [root.resolve() for root in roots]

    def workspace(self, named: str) -> str:
        """Return the real path of a workspace; raises InvalidInput."""
        path = self._within(named, "workspace")
        if not path.is_dir():
            raise InvalidInput(f"workspace {named!r:.200} is no directory here")
        return str(path)

    def model(self, name: str) -> str:
        """Return a model's name; one that reads a file only if the file is allowed."""
        kind, separator, file = name.partition(":")
        if separator and kind == "cassette":
            return f"cassette:{self._within(file, 'cassette')}"
        return name

    def _within(self, named: str, what: str) -> Path:
        try:
            path = Path(named).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidInput(f"{what} {named!r:.200} is no path: {error}") from error
        if Path(named).is_absolute() and any(
            path.is_relative_to(root) for root in self._roots
        ):
            return path
        roots = ", ".join(map(str, self._roots)) or "none"
        raise InvalidInput(
            f"{what} {named!r:.200} is not allowed: name an absolute path below one of "
            f"{roots}, or let the operator add it to workspaces.allowed"
        )
