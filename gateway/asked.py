"""What the flags of ``wake ls`` and its like come to: requests to the read model."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, TypeVar, get_args

import msgspec

from events.errors import InvalidInput
from gateway.listing import checked
from gateway.shown import ACTIVE, AWAITING, COUNTS, NONE_LIKE, STUCK, Shown
from gateway.times import moment_of, seconds_of
from projections import queries as q
from services.handler import utc_now

T = TypeVar("T")

Query = tuple[str, q.Request, Shown]
"""A method of ``Queries``, what it is asked, and how the answer is shown."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The filters of a list, as they were typed."""

    status: Sequence[str] = ()
    user: str | None = None
    agent: str | None = None
    model: str | None = None
    lane: str | None = None
    parent: str | None = None
    error: str | None = None
    meta: Sequence[str] = ()
    text: str | None = None
    since: str | None = None
    until: str | None = None
    updated_since: str | None = None
    updated_until: str | None = None
    sort: str | None = None
    asc: bool = False
    after: str | None = None

    @property
    def given(self) -> list[str]:
        """The flags that were given."""
        return [
            f"--{field.name.replace('_', '-')}"
            for field in fields(self)
            if getattr(self, field.name)
        ]

    @property
    def plain(self) -> bool:
        """Whether the log alone can answer it."""
        return set(self.given) <= {"--status"}

    def instead(
        self, *, count: bool, active: bool, stuck: bool, awaiting: str | None
    ) -> Query | None:
        """What is asked in place of a list, if so; raises InvalidInput."""
        asked = {"--count": count, "--active": active, "--stuck": stuck}
        flags = [flag for flag, given in asked.items() if given]
        flags += ["--awaiting"] * (awaiting is not None)
        if not flags:
            return None
        if len(flags) > 1:
            raise InvalidInput(f"ask one thing at a time, not {' and '.join(flags)}")
        match flags[0]:
            case "--count":
                return self._count()
            case "--active":
                return self._active()
            case "--stuck":
                return self._stuck()
            case _:
                return self._awaiting(None if awaiting == "all" else awaiting)

    def _count(self) -> Query:
        self.only("--count", "user", "agent", "since", "until")
        request = made(
            q.CountRequest,
            user=self.user,
            agent=self.agent,
            created_from=when(self.since, "--since"),
            created_to=when(self.until, "--until"),
        )
        nothing = COUNTS._replace(none=NONE_LIKE)
        return "count", request, COUNTS if self.plain else nothing

    def _active(self) -> Query:
        self.only("--active", "user", "after")
        request = made(q.ActiveRequest, user=self.user, cursor=self.after)
        return "active", request, ACTIVE

    def _stuck(self) -> Query:
        self.only("--stuck", "user", "agent", "after")
        request = made(
            q.StuckRequest, user=self.user, agent=self.agent, cursor=self.after
        )
        return "stuck", request, STUCK

    def _awaiting(self, event_type: str | None) -> Query:
        self.only("--awaiting", "user", "after")
        request = made(
            q.AwaitingRequest,
            user=self.user,
            event_type=event_type,
            cursor=self.after,
        )
        return "awaiting", request, AWAITING

    def only(self, what: str, *allowed: str) -> None:
        """Raise InvalidInput if another flag was given than those allowed."""
        for flag in self.given:
            if flag.removeprefix("--") not in allowed:
                may = ", ".join(f"--{name}" for name in allowed)
                raise InvalidInput(f"{flag} does not go with {what}: only {may} do")

    def request(self) -> q.ListRequest:
        """What is asked; raises InvalidInput."""
        return made(
            q.ListRequest,
            status=tuple(sorted(checked(self.status))),
            user=self.user,
            agent=self.agent,
            model=self.model,
            lane=self.lane,
            parent=self.parent,
            error=self.error,
            metadata=_pairs(self.meta),
            text=self.text,
            created_from=when(self.since, "--since"),
            created_to=when(self.until, "--until"),
            updated_from=when(self.updated_since, "--updated-since"),
            updated_to=when(self.updated_until, "--updated-until"),
            sort=_sort(self.sort),
            order="asc" if self.asc else "desc",
            cursor=self.after,
        )


def made(kind: type[T], **fields_: Any) -> T:
    """A request, checked as the service would; raises InvalidInput.

    ``None`` is what was not given.
    """
    given = {name: value for name, value in fields_.items() if value is not None}
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error)) from error


def when(text: str | None, flag: str) -> datetime | None:
    """A time, or how long ago it is (``90s``, ``2h``, ``7d``); raises InvalidInput."""
    if text is None:
        return None
    if text[-1:] in {"s", "m", "h", "d"}:
        return utc_now() - timedelta(seconds=seconds_of(text, flag))
    try:
        return moment_of(text, flag)
    except InvalidInput as error:
        raise InvalidInput(f"{error}; or how long ago: 90s, 30m, 2h, 7d") from error


def grouped(by: str) -> tuple[str, ...]:
    """By what usage is summed up; raises InvalidInput."""
    names = tuple(word.strip() for word in by.split(",") if word.strip())
    for name in names:
        if name not in get_args(q.Grouping):
            raise InvalidInput(
                f"--by {name!r:.40}: there are: {', '.join(get_args(q.Grouping))}"
            )
    return names


def _sort(name: str | None) -> str | None:
    if name is None or name in get_args(q.Sort):
        return name
    raise InvalidInput(f"--sort {name!r:.40}: there are: {', '.join(get_args(q.Sort))}")


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise InvalidInput(f"--meta {text!r:.60}: write it as KEY=VALUE")
        pairs[key] = value
    return pairs
