"""``docs/read-model.md`` names every table, view and column, as they are."""

import re
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from projections.queries import (
    CancelRequest,
    RebuildRequest,
    SqlRequest,
    VerifyRequest,
)
from projections.row import columns
from projections.rows import ROWS
from projections.schema import statements
from projections.selects import SELECTS
from projections.views import VIEWS

TEXT = (Path(__file__).parents[2] / "docs" / "read-model.md").read_text("utf-8")
DESCRIBED = re.compile(r"^### `(\w+)`\n\n(.+)\n\n((?:\|.*\n)+)", re.MULTILINE)


def described() -> dict[str, tuple[str, list[list[str]]]]:
    """What the document says: table → what it is, and its rows."""
    found = {}
    for name, means, table in DESCRIBED.findall(TEXT):
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in table.splitlines()
        ]
        found[name] = (means, lines[2:])
    return found


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.table)
def test_tables(kind: type) -> None:
    """Each column with its type and its meaning, in order."""
    means, lines = described()[kind.table]  # type: ignore[attr-defined] # a Row
    assert means == kind.__doc__
    assert lines == [[f"`{c.name}`", c.type, c.means] for c in columns(kind)]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_views(view) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - a View
    """Each column of a view, as the database has it."""
    means, lines = described()[view.name]
    connection = duckdb.connect()
    for statement in statements():
        connection.execute(statement)
    has = connection.execute(f"DESCRIBE {view.name}").fetchall()
    assert means == view.means
    assert lines == [[f"`{name}`", kind, view.columns[name]] for name, kind, *_ in has]


def test_nothing_else_is_described() -> None:
    """What is not there any more is not in the document."""
    there = {kind.table for kind in ROWS} | {view.name for view in VIEWS}
    assert described().keys() == there


def test_the_picture_has_every_table() -> None:
    """And each of them is drawn."""
    picture = TEXT.split("<!-- picture -->")[1].split("<!-- end -->")[0]
    for kind in ROWS:
        assert kind.table in picture


def test_every_query_is_described() -> None:
    """Its subject, and each of its fields as they are on the wire."""
    table = TEXT.split("<!-- queries -->")[1].split("<!-- end -->")[0]
    rows = [line.strip("|").split("|") for line in table.strip().splitlines()[2:]]
    said = {row[0].strip(" `"): set(re.findall(r"`(\w+)`", row[2])) for row in rows}
    orders = [RebuildRequest, VerifyRequest]
    kinds: list[Any] = [*SELECTS, SqlRequest, CancelRequest, *orders]
    fields = {
        kind.subject: {field.encode_name for field in msgspec.structs.fields(kind)}
        for kind in kinds
    }
    common = {"min_position", "wait"}
    assert said == {subject: names - common for subject, names in fields.items()}
