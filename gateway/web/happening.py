"""Triggers over REST: something happened outside."""

from events import cloudevents
from events.names import EVERYBODY
from gateway.web import shapes
from gateway.web.operation import Call, Result
from gateway.web.problems import Forbidden
from gateway.web.steering import idempotency_key
from services.handler import utc_now
from services.ids import new_id

SOURCE = "api"
"""Where the CloudEvents of this gateway come from."""


async def trigger(call: Call) -> Result:
    """Wake who waits for it: 200 and how many, or 202 when nobody says so in time."""
    asked: shapes.Happening = call.body
    if asked.everybody and not call.who.admin:
        raise Forbidden("only an admin may wake everybody's executions")
    user = EVERYBODY if asked.everybody else call.who.user
    key = idempotency_key(call)
    name = f"{SOURCE} {call.who.user} {key or new_id(utc_now())}"
    event = cloudevents.write(name, SOURCE, asked.event_type, asked.payload)
    answer = await call.edge.desk.tell(user, asked.event_type, event, name)
    if answer is None:
        return Result(payload=shapes.Triggered(duplicate=True))
    status = 202 if answer.woken is None else 200
    return Result(
        payload=shapes.Triggered(trigger=answer.trigger, woken=answer.woken),
        status=status,
    )
