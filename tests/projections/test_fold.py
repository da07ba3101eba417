"""The fold of any history gives the rows that the execution itself says."""

import importlib.util
import sys
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, settings
from rowbook import RowBook, drift, settle

from events.names import commit_subject
from events.rawlog import Raw

MACHINE = Path(__file__).parents[1] / "core" / "test_machine.py"


def _machine() -> Any:
    """The machine that makes histories which are hostile, but lawful."""
    spec = importlib.util.spec_from_file_location("the_machine", MACHINE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["the_machine"] = module
    spec.loader.exec_module(module)
    return module.ExecutionMachine


class FoldMachine(_machine()):  # type: ignore[misc] # loaded by its path
    """Writes every commit to one log, and folds that in pieces, with restarts."""

    def __init__(self) -> None:
        self.log: list[Raw] = []
        self.seen: dict[Any, int] = {}
        self.book = RowBook()
        self.fold = self.book.fold()
        self.chance = Random(0)  # noqa: S311 - a schedule, no secret
        super().__init__()
        self.forks = 1  # so that no history has the name of the first

    def _watch(self) -> None:
        super()._watch()
        key = self.story.key
        for recorded in self.story.log[self.seen.get(key, 0) :]:
            subject = commit_subject(key, recorded.route)
            raw = Raw(len(self.log) + 1, subject, recorded.body)
            self.log.append(raw)
            self.fold.apply(raw)
            if self.chance.random() < 0.3:
                self._commit()
            if self.chance.random() < 0.1:
                self.fold = self.book.fold()  # what was not committed comes again
                for again in self.log:
                    self.fold.apply(again)
        self.seen[key] = len(self.story.log)

    def _commit(self) -> None:
        self.book.commit(settle(self.fold, self.log))

    def teardown(self) -> None:
        """Every row is what it must be, before and after a rebuild."""
        super().teardown()
        self._commit()
        assert not drift(self.book, self.log, self.seen), drift(
            self.book, self.log, self.seen
        )
        again = RowBook()
        fold = again.fold()
        for raw in self.log:
            fold.apply(raw)
        again.commit(settle(fold, self.log))
        assert not drift(again, self.log, self.seen), drift(again, self.log, self.seen)


TestFold = FoldMachine.TestCase
TestFold.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],  # the machine may be busy
)
