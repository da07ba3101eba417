"""Which directories and files a command may name: the operator's allow-list."""

from collections.abc import Sequence
from pathlib import Path

from events.errors import InvalidInput


class Allowed:
    """Directories that a command may name, they and all below.

    Compared by real paths, so that no link leads out of them. ``own`` has a
    directory for each user, which only that user may name. What is ``closed`` (the
    log) may not be named, unless it is in ``own``.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        own: Path | None = None,
        closed: Path | None = None,
    ) -> None:
        self._roots = [root.resolve() for root in roots]
        self._own = None if own is None else own.resolve()
        self._closed = None if closed is None else closed.resolve()
        special = (self._own, self._closed)
        self._folders = [*self._roots, *(f for f in special if f is not None)]

    def workspace(self, named: str, user: str) -> str:
        """Return the real path of a workspace; raises InvalidInput."""
        path = self._within(named, "workspace", user)
        try:
            there = path.is_dir()
        except OSError as error:
            raise InvalidInput(
                f"workspace {named!r:.200} cannot be looked at ({error.strerror}): "
                "let the operator make it readable here"
            ) from error
        if not there:
            raise InvalidInput(f"workspace {named!r:.200} is no directory here")
        return str(path)

    def model(self, name: str, user: str) -> str:
        """Return a model's name; one that reads a file only if the file is allowed."""
        kind, separator, file = name.partition(":")
        if separator and kind == "cassette":
            return f"cassette:{self._within(file, 'cassette', user)}"
        return name

    def _within(self, named: str, what: str, user: str) -> Path:
        try:
            path = Path(named).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidInput(f"{what} {named!r:.200} is no path: {error}") from error
        if Path(named).is_absolute() and self._may(path, user):
            return path
        roots = ", ".join(map(str, self._roots))
        here = f"name an absolute path below one of {roots}, or " if roots else ""
        raise InvalidInput(
            f"{what} {named!r:.200} is not allowed: {here}let the operator add it to "
            "workspaces.allowed"
        )

    def _may(self, path: Path, user: str) -> bool:
        """Let the innermost of the directories that it is in decide."""
        around = [folder for folder in self._folders if path.is_relative_to(folder)]
        inmost = max(around, key=lambda folder: len(folder.parts), default=None)
        if inmost is not None and inmost == self._own:
            return path.is_relative_to(inmost / user)
        return inmost is not None and inmost != self._closed
