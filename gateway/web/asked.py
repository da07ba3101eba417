"""What is said on a websocket: the orders of a client, and the answers to them.

Messages of the feed are in ``projections/notices.py``; ``docs/live.md`` shows all.
"""

from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal, get_args

import msgspec
from msgspec import Meta

from events.errors import InvalidInput, WakeError
from projections.notices import KINDS, Kind

ALL: Final = "*"
"""In place of an execution: all of a user's."""

Id = Annotated[str, Meta(max_length=64)]
Token = Annotated[str, Meta(max_length=8 * 1024)]


class AlreadySubscribed(WakeError):
    """That is subscribed to already on this websocket."""


class Auth(
    msgspec.Struct, frozen=True, kw_only=True, tag="auth", forbid_unknown_fields=True
):
    """Say who asks; said again in time, a later token keeps the socket open."""

    token: Token
    id: Id | None = None


class Subscribe(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag="subscribe",
    forbid_unknown_fields=True,
):
    """Follow one execution, or all (``*``) of one's own.

    ``after`` is a cursor, or 0 for the beginning; without it, from now on. An admin
    names the ``user`` whose they are. ``id`` comes back with the answer.
    """

    execution: Id
    user: Id | None = None
    after: Annotated[str, Meta(max_length=64)] | Literal[0] | None = None
    kinds: Annotated[tuple[Kind, ...], Meta(min_length=1, max_length=16)] = KINDS
    id: Id | None = None


class Unsubscribe(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag="unsubscribe",
    forbid_unknown_fields=True,
):
    """Follow something no more."""

    execution: Id
    user: Id | None = None
    id: Id | None = None


class Ping(
    msgspec.Struct, frozen=True, kw_only=True, tag="ping", forbid_unknown_fields=True
):
    """See whether the other side is there."""

    id: Id | None = None


Order = Auth | Subscribe | Unsubscribe | Ping
ORDERS: Final = ", ".join(str(o.__struct_config__.tag) for o in get_args(Order))

_decoder = msgspec.json.Decoder(Order)


def order_of(text: str) -> Order:
    """Read an order; raises InvalidInput, naming what is wrong."""
    try:
        order: Order = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInput(
            f"this is no order ({error}): send a JSON object whose type is one of "
            f"{ORDERS}"
        ) from error
    return order


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what is answered; ``id`` is the order's."""

    id: str | None = None


class Ready(Answer, frozen=True, kw_only=True, tag="ready"):
    """The token is good, until then."""

    user: str
    expires: datetime


class Subscribed(Answer, frozen=True, kw_only=True, tag="subscribed"):
    """What comes after ``cursor`` follows."""

    execution: str
    user: str
    cursor: str


class Live(Answer, frozen=True, kw_only=True, tag="live"):
    """All that was missed has been sent; from here on it comes as it happens."""

    execution: str
    user: str
    cursor: str


class Unsubscribed(Answer, frozen=True, kw_only=True, tag="unsubscribed"):
    """Nothing more of it comes."""

    execution: str
    user: str


class Pong(Answer, frozen=True, kw_only=True, tag="pong"):
    """We are there."""


class Refused(Answer, frozen=True, kw_only=True, tag="error"):
    """That was not done; ``code`` is for programs."""

    code: str
    message: str
    execution: str | None = None

    MANY: ClassVar[int] = 100
    """After so many a client is shown the door: it understands nothing."""


encode = msgspec.json.Encoder().encode
