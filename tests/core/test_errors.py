"""The tree of errors."""

from collections.abc import Iterator

from events import errors
from events.errors import WakeError

NOT_FINAL = {
    "Retryable",
    "Conflict",
    "OutcomeUnknown",
    "Unavailable",
    "ModelUnavailable",
}


def below(kind: type[WakeError]) -> Iterator[type[WakeError]]:
    """Every error of the module, the root last."""
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from below(child)
    yield kind


def test_every_error_has_a_default_message_of_its_own() -> None:
    """Its docstring; what is told instead is told."""
    kinds = list(below(WakeError))
    assert len({kind.__doc__ for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert kind.__doc__
        assert str(kind()) == kind().args[0]
        assert str(kind()).splitlines()[0] == kind.__doc__.splitlines()[0]
        assert str(kind("told")) == "told"


def test_every_error_has_a_code_of_its_own() -> None:
    """Programs match it, so it never changes."""
    codes = {kind.code for kind in below(WakeError)}
    assert len(codes) == len(list(below(WakeError)))
    assert {"error", "not_allowed_now", "outcome_unknown", "folder_in_use"} < codes


def test_only_what_may_succeed_later_is_not_final() -> None:
    """Asking again in the same way helps with these, and no others."""
    assert {kind.__name__ for kind in below(WakeError) if not kind.final} == NOT_FINAL


def test_the_tree_is_drawn_as_it_is() -> None:
    """Every class stands in the module's docstring."""
    drawn = errors.__doc__ or ""
    assert [k.__name__ for k in below(WakeError) if k.__name__ not in drawn] == []
