"""Who waits for what: an index that stays small with a hundred thousand of them.

A wait is kept packed, under the name of its execution. It is found by a hash over
the event type and the plain values of its filter, so that a trigger looks at
those that want it and at no others; whether they do, the core decides. Nothing
here is truth: it is rebuilt from the log, and a wait that is none any more costs
a look.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain as joined
from typing import Any, NamedTuple

import msgspec

from events.catalog import Awaited
from events.cloudevents import Trigger
from events.execution import Wait
from events.names import EVERYBODY, LANES, Key, trigger_subject
from events.spec import Lane

UNKNOWN = -1
"""In place of a lane: only the whole history can tell where it goes on."""


class Waiting(NamedTuple):
    """An execution's wait for an event, and the commit that it began with.

    ``lane`` is None where only the whole history can tell.
    """

    key: Key
    awaited: Awaited
    position: int
    version: int
    chain: str
    lane: Lane | None

    @property
    def wait(self) -> Wait | None:
        """All that waking it takes, if that is known."""
        if self.lane is None:
            return None
        return Wait(self.awaited, self.position, self.version, self.chain, self.lane)

    def beyond(self, position: int) -> "Waiting":
        """Return the same wait for something later."""
        awaited = msgspec.structs.replace(self.awaited, after_trigger=position)
        return self._replace(awaited=awaited)


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """A wait as it is kept; the filter as JSON, which can hold any number."""

    event_type: str
    where: bytes
    after: int
    position: int
    version: int
    chain: bytes
    lane: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Packed)

_Many = dict[str, "str | dict[str, None]"]
"""Names of executions by user: one, or several in the order in which they came."""


class Waits:
    """The waits of all executions."""

    def __init__(self) -> None:
        self._packed: dict[str, bytes] = {}
        self._by_hash: dict[int, str | _Many] = {}
        self._shapes: dict[str, Counter[tuple[str, ...]]] = {}

    def __len__(self) -> int:
        return len(self._packed)

    def add(self, waiting: Waiting) -> None:
        """Let an execution wait for this, and for nothing else."""
        self.drop(waiting.key)
        name, awaited = _name(waiting.key), waiting.awaited
        shape = _shape(awaited.where)
        self._packed[name] = _pack(waiting)
        if shape:
            self._shapes.setdefault(shape[0], Counter())[shape] += 1
        hashed = _hash(awaited.event_type, shape, awaited.where)
        self._put(hashed, waiting.key.user, name)

    def drop(self, key: Key, position: int | None = None) -> None:
        """Let it wait no more; only if that began at ``position``, if given."""
        waiting = self.get(key)
        if waiting is None or position not in (None, waiting.position):
            return
        name, awaited = _name(key), waiting.awaited
        shape = _shape(awaited.where)
        del self._packed[name]
        if shape:
            self._forget(shape)
        self._take(_hash(awaited.event_type, shape, awaited.where), key.user, name)

    def get(self, key: Key) -> Waiting | None:
        """Return what an execution waits for."""
        packed = self._packed.get(_name(key))
        return None if packed is None else _unpack(key, _decoder.decode(packed))

    def wanting(self, trigger: Trigger) -> list[Waiting]:
        """Return those that want a trigger, in the order in which they came."""
        what = trigger.event_type, trigger.payload, trigger.position
        candidates = map(self.get, map(_key, self._candidates(trigger)))
        return [one for one in candidates if one and one.awaited.wants(*what)]

    def missed(self, latest: Mapping[str, int]) -> Iterator[int]:
        """Yield where the waits began whose subjects had a trigger since."""
        for name, packed in self._packed.items() if latest else ():
            wait = _decoder.decode(packed)
            subjects = subjects_of(_key(name).user, wait.event_type)
            if any(latest.get(subject, 0) > wait.after for subject in subjects):
                yield wait.after

    def _candidates(self, trigger: Trigger) -> Iterator[str]:
        payload = trigger.payload if isinstance(trigger.payload, dict) else {}
        shapes = self._shapes
        beginning = [shapes[field] for field in payload if field in shapes]
        for shape in joined(((),), *beginning):
            if all(_is_plain(payload.get(field, {})) for field in shape):
                hashed = _hash(trigger.event_type, shape, payload)
                yield from self._at(hashed, trigger.user)

    def _forget(self, shape: tuple[str, ...]) -> None:
        counts = self._shapes[shape[0]]
        counts[shape] -= 1
        if not counts[shape]:
            del counts[shape]
        if not counts:
            del self._shapes[shape[0]]

    # ── one or many names under a hash ───────────────────────────────────────

    def _put(self, hashed: int, user: str, name: str) -> None:
        there = self._by_hash.get(hashed)
        if there is None:
            self._by_hash[hashed] = name
            return
        if isinstance(there, str):
            there = self._by_hash[hashed] = {there.partition("/")[0]: there}
        mine = there.get(user)
        if mine is None:
            there[user] = name
            return
        if isinstance(mine, str):
            mine = there[user] = {mine: None}
        mine[name] = None

    def _take(self, hashed: int, user: str, name: str) -> None:
        there = self._by_hash[hashed]
        if isinstance(there, str):
            del self._by_hash[hashed]
            return
        mine = there[user]
        if isinstance(mine, dict):
            del mine[name]
        if isinstance(mine, str) or not mine:
            del there[user]
        if not there:
            del self._by_hash[hashed]

    def _at(self, hashed: int, user: str) -> Iterable[str]:
        there = self._by_hash.get(hashed, {})
        if isinstance(there, str):
            mine = there.partition("/")[0] == user or user == EVERYBODY
            return (there,) if mine else ()
        if user == EVERYBODY:
            return joined.from_iterable(map(_names, there.values()))
        return _names(there.get(user, {}))


def subjects_of(user: str, event_type: str) -> tuple[str, str]:
    """Where the triggers come in that somebody's wait can be ended by."""
    return trigger_subject(user, event_type), trigger_subject(EVERYBODY, event_type)


def _name(key: Key) -> str:
    return f"{key.user}/{key.execution}"


def _key(name: str) -> Key:
    return Key(*name.split("/"))


def _pack(waiting: Waiting) -> bytes:
    awaited, lane = waiting.awaited, waiting.lane
    return _encoder.encode(
        _Packed(
            event_type=awaited.event_type,
            where=msgspec.json.encode(awaited.where) if awaited.where else b"",
            after=awaited.after_trigger,
            position=waiting.position,
            version=waiting.version,
            chain=bytes.fromhex(waiting.chain),
            lane=UNKNOWN if lane is None else LANES.index(lane),
        )
    )


def _unpack(key: Key, packed: _Packed) -> Waiting:
    where = msgspec.json.decode(packed.where) if packed.where else {}
    return Waiting(
        key=key,
        awaited=Awaited(
            event_type=packed.event_type, where=where, after_trigger=packed.after
        ),
        position=packed.position,
        version=packed.version,
        chain=packed.chain.hex(),
        lane=None if packed.lane == UNKNOWN else LANES[packed.lane],
    )


def _shape(where: dict[str, Any]) -> tuple[str, ...]:
    """Name the fields of a filter that a hash can be made of."""
    return tuple(sorted(n for n, v in where.items() if _is_plain(v))) if where else ()


def _names(those: str | dict[str, None]) -> Iterable[str]:
    return (those,) if isinstance(those, str) else those


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _hash(event_type: str, shape: tuple[str, ...], values: dict[str, Any]) -> int:
    """Hash what is looked for; equal values of different types may share one."""
    return hash((event_type, shape, *(values[field] for field in shape)))
