"""The database's tables and views, as SQL; what their columns mean is in ``rows.py``.

A kind of row that changes has two tables, ``<table>_hot`` and ``<table>_done``, and
a view over both by the plain name: people and queries use only that. No table but
the small hot ones is ever searched when something is written, which is why writing
costs the same however long the history is (``docs/adr/0017``).
"""

from hashlib import sha256
from typing import Final, get_args

from events.catalog import AnyEvent
from projections.row import Row, columns
from projections.rows import HOT, ROWS, ExecutionRow
from projections.texts import LENGTH
from projections.views import VIEWS

RULES = 1
"""To be raised when rows would come out differently though no column changed."""

LOOKUP = "executions_by_id"
"""The one index: who comes back is found by its id."""

CHECKPOINTS: Final = """\
CREATE TABLE checkpoints (
  stream VARCHAR NOT NULL, made VARCHAR NOT NULL, position BIGINT NOT NULL
)"""

ABOUT: Final = "CREATE TABLE about (schema VARCHAR NOT NULL)"


def hot(kind: type[Row]) -> str:
    """The table of rows that may still change."""
    return f"{kind.table}_hot"


def done(kind: type[Row]) -> str:
    """The table of rows that change no more."""
    return f"{kind.table}_done" if kind in HOT else kind.table


def statements() -> list[str]:
    """Make an empty read model."""
    made = [ABOUT, CHECKPOINTS]
    for kind in ROWS:
        fields = ", ".join(f'"{c.name}" {c.type}' for c in columns(kind))
        tables = (hot(kind), done(kind)) if kind in HOT else (done(kind),)
        made += [f"CREATE TABLE {table} ({fields})" for table in tables]
        if kind in HOT:
            union = f"SELECT * FROM {hot(kind)} UNION ALL SELECT * FROM {done(kind)}"
            made.append(f"CREATE VIEW {kind.table} AS {union}")
    made.append(f"CREATE INDEX {LOOKUP} ON {done(ExecutionRow)} (execution)")
    made += [f"CREATE VIEW {view.name} AS {view.sql}" for view in VIEWS]
    return made


def fingerprint() -> str:
    """What a file must have been made by; another one is rebuilt.

    Events count too: one that was put aside as unknown may be known now. They are
    those that a commit may hold; a class that is merely loaded is none of them.
    """
    tags = sorted(str(kind.__struct_config__.tag) for kind in get_args(AnyEvent))
    parts = [str(RULES), str(LENGTH), *tags, *statements()]
    return sha256("\n".join(parts).encode()).hexdigest()[:16]
