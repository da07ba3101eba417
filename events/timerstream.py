"""Timers on JetStream: the server sends each message on when its time has come.

A message schedule (NATS ADR-51) goes off within a quarter of a second after its
time, never before it, once, also across the end of the server. It is stored only
if there is none like it yet, so any number of reactors may arm the same.
"""

from typing import TYPE_CHECKING, Any, Self

import msgspec

from events.direct import subjects_of
from events.errors import (
    OutcomeUnknown,
    ServerUnsuitable,
    Unavailable,
    UnknownEvent,
)
from events.names import (
    DUE,
    DUE_ALL,
    EXPECTED_POSITION,
    SCHEDULE,
    SCHEDULE_TARGET,
    SCHEDULES,
    SCHEDULES_ALL,
    due_subject,
    timer_subject,
)
from events.provisioning import provision
from events.pull import Leased, Pull
from events.timers import (
    LEASE,
    MAX_TIMER,
    Alarm,
    Armed,
    Timer,
    Timers,
    check_size,
)
from events.wire import ApiError, Wire, raise_problem

if TYPE_CHECKING:
    from nats.aio.msg import Msg

HEADERS = 1024
"""Bytes for the headers of a timer, and more."""

WRONG_LAST_SEQUENCE = 10071

_stream: dict[str, Any] = {
    "name": SCHEDULES,
    "description": "wakestream: timers, and those that went off",
    "subjects": [SCHEDULES_ALL, DUE_ALL],
    "retention": "workqueue",
    "storage": "file",
    "discard": "old",  # the server wants it so; without a limit nothing is discarded
    "max_msg_size": MAX_TIMER + HEADERS,
    "duplicate_window": int(100e6),
    "allow_direct": True,
    "allow_msg_schedules": True,
}

_consumer: dict[str, Any] = {
    "durable_name": DUE,
    "filter_subject": DUE_ALL,
    "ack_policy": "explicit",
    "ack_wait": int(LEASE * 1e9),
    "max_ack_pending": -1,
    "max_deliver": -1,
}

_timer = msgspec.json.Decoder(Timer)


class JetStreamAlarm(Leased, Alarm):
    """A timer that went off."""

    def __init__(self, wire: Wire, message: "Msg") -> None:
        super().__init__(wire, message)
        self.timer = _read(message.data)

    def __str__(self) -> str:
        return str(self.timer)


class JetStreamTimers(Timers):
    """The timers of one account."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._due = Pull(wire, SCHEDULES, DUE, LEASE, JetStreamAlarm)

    @classmethod
    async def open(cls, wire: Wire, *, replicas: int | None = None) -> Self:
        """Provision stream and consumer; asking again is fine.

        Raises ServerUnsuitable, Unavailable.
        """
        try:
            await provision(wire, _stream, replicas=replicas)
            await wire.api(
                f"CONSUMER.CREATE.{SCHEDULES}.{DUE}.{DUE_ALL}",
                {"stream_name": SCHEDULES, "config": _consumer},
            )
        except ApiError as error:
            raise ServerUnsuitable(
                f"this nats-server cannot keep timers: {error}"
            ) from error
        except OutcomeUnknown as error:
            raise Unavailable(f"timers cannot be opened now: {error}") from error
        return cls(wire)

    async def arm(self, timer: Timer) -> None:
        """Let it go off at its time."""
        headers = {
            SCHEDULE: f"@at {timer.due.isoformat()}",
            SCHEDULE_TARGET: due_subject(timer.user, timer.id),
            EXPECTED_POSITION: "0",
        }
        subject = timer_subject(timer.user, timer.id)
        body = msgspec.json.encode(timer)
        check_size(timer, body)
        try:
            answer = await self._wire.request(subject, body, headers=headers)
            raise_problem(answer.data)
        except OutcomeUnknown as error:
            raise Unavailable(f"{timer} is not armed yet: {error}") from error
        except ApiError as error:
            if error.number != WRONG_LAST_SEQUENCE:  # that: it waits already
                raise Unavailable(f"{timer} is not armed yet: {error}") from error

    async def cancel(self, timer: Timer) -> None:
        """Forget it if it has not gone off."""
        query = {"filter": timer_subject(timer.user, timer.id)}
        try:
            await self._wire.api(f"STREAM.PURGE.{SCHEDULES}", query)
        except (ApiError, OutcomeUnknown) as error:
            raise Unavailable(f"{timer} is not cancelled yet: {error}") from error

    async def armed(self) -> set[Armed]:
        """Return all that wait for their time now."""
        try:
            found = await subjects_of(self._wire, SCHEDULES, SCHEDULES_ALL)
        except OutcomeUnknown as error:
            raise Unavailable(f"timers cannot be read now: {error}") from error
        return set(map(_armed, found))

    async def take(self, limit: int, wait: float) -> list[Alarm]:
        """Lease up to ``limit`` that went off."""
        return [*await self._due.take(limit, wait)]

    async def close(self) -> None:
        """Take no more, and give back what arrived unasked."""
        await self._due.close()


def _read(body: bytes) -> Timer:
    try:
        return _timer.decode(body)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise UnknownEvent(f"a timer cannot be read: {error}") from error


def _armed(subject: str) -> Armed:
    _, user, timer = subject.split(".")
    return user, timer
