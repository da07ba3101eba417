"""Rows of an SQL answer as a Parquet file, with the types that they had.

Rows come as lines of JSON, each an object with the columns by their number.
"""

import errno
import re
from collections.abc import Sequence
from pathlib import Path

import duckdb

from events.errors import InvalidInput
from projections.queries import Column
from projections.sqlrows import LARGEST
from projections.sqltext import in_python

WHOLE = {"HUGEINT": "DECIMAL(38,0)", "UHUGEINT": "DECIMAL(38,0)", '"NULL"': "VARCHAR"}
"""Types that Parquet has not, and what loses nothing of them."""

INTERRUPTED = "Query interrupted"
"""What DuckDB makes of the KeyboardInterrupt that a signal raised while it worked."""

_NOT_THERE = re.compile(r'(\bU?HUGEINT|"NULL")(?=[\[,)]|$)')
"""Such a type, also within another; what has a blank behind it is a field's name."""


def write(lines: Path, columns: Sequence[Column], target: Path) -> None:
    """Make a file of what another has; raises InvalidInput, OSError."""
    read = {str(n): _read_as(c.type) for n, c in enumerate(columns)}
    cast = ", ".join(
        f'CAST("{n}" AS {_written_as(c.type)}) AS {_quoted(c.name)}'
        for n, c in enumerate(columns)
    )
    path = str(target).replace("'", "''")
    connection = duckdb.connect(config={"threads": 1, "memory_limit": "512MB"})
    try:
        connection.execute(
            f"COPY (SELECT {cast} FROM read_json(?, format = 'newline_delimited', "
            f"columns = {read}, maximum_object_size = {2 * LARGEST})) "
            f"TO '{path}' (FORMAT parquet)",
            [str(lines)],
        )
    except duckdb.IOException as error:
        raise OSError(errno.EIO, str(error)) from error  # the disk: all else was tried
    except duckdb.Error as error:
        raise InvalidInput(f"this is nothing for Parquet ({error})") from error
    except RuntimeError as error:
        if str(error) != INTERRUPTED:
            raise
        raise KeyboardInterrupt from error
    finally:
        connection.close()


def _read_as(type_: str) -> str:
    """Lists that came as such are read as such, everything else as its text."""
    return type_ if type_.endswith("]") and in_python(type_) else "VARCHAR"


def _written_as(type_: str) -> str:
    return _NOT_THERE.sub(lambda found: WHOLE[found[1]], type_)


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
