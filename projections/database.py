"""The connection to DuckDB: how it is set up, and what its errors mean to us."""

from pathlib import Path
from typing import Any

import duckdb

from events.errors import Misconfigured, WakeError

MEMORY = "768MB"
"""What DuckDB may hold; larger sorts and groupings go to the disk."""

SPILL = "4GB"
"""What queries may put on the disk meanwhile: the rest is for others."""

CHECKPOINT = "128MB"
"""The log of changes that is put into the tables at once: rarely, and well packed."""

NEEDLESS = "common_subplan"
"""Optimizers that cost more than they bring: this one serializes every plan, with
the rows that are written in it, to find parts of a query that are the same."""


class Outdated(Misconfigured):
    """The read model was made by another version: rebuild it."""


def connect(path: Path, *, files: bool = False) -> duckdb.DuckDBPyConnection:
    """Open a file, or make it; raises Misconfigured and Outdated."""
    config: dict[str, Any] = {
        "threads": 1,
        "checkpoint_threshold": CHECKPOINT,
        "disabled_optimizers": NEEDLESS,
        "memory_limit": MEMORY,
        "max_temp_directory_size": SPILL,
        "enable_external_access": files,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,  # no variable of ours is a table
    }
    with Explained(path):
        connection = duckdb.connect(str(path), config=config)
        connection.execute("SET lock_configuration = true")
        return connection


def log_of(path: Path) -> Path:
    """Where DuckDB keeps what is not in the file yet."""
    return path.with_name(f"{path.name}.wal")


class Explained:
    """Says in our words what DuckDB cannot do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, duckdb.Error | OSError):
            raise _explain(self._path, error) from error


def _explain(path: Path, error: Exception) -> WakeError:
    said = str(error).split("\n", 1)[0]
    if "lock on file" in said:
        return Misconfigured(f"the read model {path} is used by another process")
    if "No space left" in said or "File too large" in said or "ENOSPC" in said:
        return Misconfigured(
            f"the disk is full, so the read model {path} is not written: make room "
            f"({said})"
        )
    if "version number" in said:
        return Outdated(
            f"the read model {path} was made by another DuckDB: rebuild it with "
            f"wake rebuild ({said})"
        )
    return Misconfigured(
        f"the read model {path} cannot be used ({said}): rebuild it with wake rebuild"
    )
