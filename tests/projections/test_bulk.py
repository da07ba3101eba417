"""Very many rows at once: what the file that is built takes, however long a row is."""

from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from events.names import LOGS
from projections.delta import Delta
from projections.fold import BEGINNING
from projections.opened import no_rows
from projections.rows import LogRow
from projections.store import Store
from projections.tables import MANY, ROOM

AT = datetime(2026, 1, 1)  # noqa: DTZ001 - UTC, as all rows are


@pytest.mark.parametrize("length", [10, ROOM, 5 * ROOM])
def test_a_row_may_be_of_any_length(tmp_path: Path, length: int) -> None:
    """JSON that is kept whole outgrows what is set aside for a row, and is there."""
    rows = no_rows()
    for number in range(MANY):
        line = LogRow(number, "ada", "one", "info", "told", "b", "said", None, AT)
        rows[LogRow].append(line)
    rows[LogRow][7] = LogRow(
        7, "ada", "one", "info", "told", "b", "said", f'"{"é" * length}"', AT
    )
    path = tmp_path / "readmodel.duckdb"
    store = Store.create(path, dict.fromkeys(BEGINNING, "made"), bulk=True)
    store.commit(Delta({**BEGINNING, LOGS: MANY}, cold=rows))
    store.pack()
    store.close()
    with duckdb.connect(str(path), read_only=True) as connection:
        found = connection.execute(
            "SELECT count(*), max(length(context)), max(written_at) FROM logs"
        ).fetchone()
    assert found == (MANY, length + 2, AT)
