"""The table of REST: each operation, what it takes, what it answers.

Routes are made of it, and ``/openapi.json``: what is documented is what there is.
"""

from typing import Final

from aiohttp import web

from events.quota import Report
from gateway.web import looking, recurring, shapes, steering
from gateway.web.happening import trigger
from gateway.web.operation import Operation

_AGENTS = "/api/agents"
_ONE = "/api/agents/{id}"
_SCHEDULES = "/api/schedules"
_SIGNALLED: Final = {200: shapes.Accepted, 202: shapes.Queued}
_RESCHEDULED: Final = {200: shapes.ScheduleAccepted, 202: shapes.Queued}

OPERATIONS: Final = (
    Operation(
        method="GET",
        path=_AGENTS,
        name="listAgents",
        about="List executions: one's own; for an admin everybody's.",
        handler=looking.listing,
        query=shapes.Listing,
        answers={200: shapes.AgentPage},
    ),
    Operation(
        method="POST",
        path=_AGENTS,
        name="startAgent",
        about="Start an execution.",
        handler=steering.start,
        body=shapes.Start,
        idempotent=True,
        answers={201: shapes.Accepted, 202: shapes.Queued},
        problems=(409,),
    ),
    Operation(
        method="GET",
        path=f"{_AGENTS}/token",
        name="getFeedToken",
        about="Get a token for the live feed of all that is one's own.",
        handler=looking.own_token,
        answers={200: shapes.Token},
    ),
    Operation(
        method="GET",
        path=_ONE,
        name="getAgent",
        about="Get an execution as it is now.",
        handler=looking.one,
        query=shapes.One,
        answers={200: shapes.AgentDetail},
        problems=(404,),
    ),
    Operation(
        method="DELETE",
        path=_ONE,
        name="killAgent",
        about="End an execution at once, whatever it is doing.",
        handler=steering.signal("kill"),
        query=shapes.Killing,
        idempotent=True,
        answers=_SIGNALLED,
        problems=(404, 409),
    ),
    *(
        Operation(
            method="POST",
            path=f"{_ONE}/{verb}",
            name=f"{verb}Agent",
            about=about,
            handler=steering.signal(verb),
            query=shapes.Whose,
            body=body,
            optional=True,
            idempotent=True,
            answers=_SIGNALLED,
            problems=(404, 409),
        )
        for verb, body, about in (
            ("pause", shapes.Nothing, "Let it rest after what it is doing now."),
            ("resume", shapes.Nothing, "Let it go on."),
            ("cancel", shapes.Ending, "End it in order."),
            ("retry", shapes.Ending, "Let one that failed go on from its last step."),
        )
    ),
    Operation(
        method="POST",
        path=f"{_ONE}/input",
        name="answerAgent",
        about="Answer what an execution asks.",
        handler=steering.answer,
        query=shapes.Whose,
        body=shapes.Answering,
        idempotent=True,
        answers=_SIGNALLED,
        problems=(404, 409),
    ),
    Operation(
        method="GET",
        path=f"{_ONE}/logs",
        name="getLogs",
        about="Read the log lines of an execution.",
        handler=looking.logs,
        query=shapes.Lines,
        answers={200: shapes.LogPage},
        problems=(404,),
    ),
    Operation(
        method="GET",
        path=f"{_ONE}/events",
        name="getEvents",
        about="Read the history of an execution.",
        handler=looking.events,
        query=shapes.After,
        answers={200: shapes.HistoryPage},
        problems=(404,),
    ),
    Operation(
        method="GET",
        path=f"{_ONE}/state",
        name="getState",
        about="See an execution as it was at a version or a time.",
        handler=looking.state,
        query=shapes.At,
        answers={200: shapes.Snapshot},
        problems=(404,),
    ),
    Operation(
        method="GET",
        path=f"{_ONE}/token",
        name="getFeedTokenOfAgent",
        about="Get a token for the live feed of one execution.",
        handler=looking.token,
        query=shapes.Whose,
        answers={200: shapes.Token},
        problems=(404,),
    ),
    Operation(
        method="GET",
        path="/api/agent-types",
        name="listAgentTypes",
        about="List the kinds of agents that can be started.",
        handler=looking.agent_types,
        answers={200: shapes.AgentTypes},
    ),
    Operation(
        method="GET",
        path="/api/limits",
        name="getLimits",
        about="See how far one's own limits are used.",
        handler=looking.limits,
        answers={200: Report},
    ),
    Operation(
        method="POST",
        path="/api/triggers",
        name="trigger",
        about="Say that something happened: wake who waits for it.",
        handler=trigger,
        body=shapes.Happening,
        idempotent=True,
        answers={200: shapes.Triggered, 202: shapes.Triggered},
    ),
    Operation(
        method="GET",
        path=_SCHEDULES,
        name="listSchedules",
        about="List one's own schedules.",
        handler=recurring.listing,
        answers={200: shapes.Schedules},
    ),
    Operation(
        method="POST",
        path=_SCHEDULES,
        name="addSchedule",
        about="Let a start recur.",
        handler=recurring.add,
        body=shapes.Recurrence,
        idempotent=True,
        answers={201: shapes.ScheduleAccepted, 202: shapes.Queued},
        problems=(409,),
    ),
    Operation(
        method="GET",
        path=f"{_SCHEDULES}/{{id}}",
        name="getSchedule",
        about="Get a schedule.",
        handler=recurring.one,
        answers={200: shapes.Scheduled},
        problems=(404,),
    ),
    Operation(
        method="DELETE",
        path=f"{_SCHEDULES}/{{id}}",
        name="removeSchedule",
        about="Remove a schedule; what it started goes on.",
        handler=recurring.change("unschedule"),
        idempotent=True,
        answers=_RESCHEDULED,
        problems=(404,),
    ),
    *(
        Operation(
            method="POST",
            path=f"{_SCHEDULES}/{{id}}/{verb}",
            name=f"{verb}Schedule",
            about=about,
            handler=recurring.change(f"{verb}_schedule"),
            body=shapes.Nothing,
            optional=True,
            idempotent=True,
            answers=_RESCHEDULED,
            problems=(404,),
        )
        for verb, about in (
            ("pause", "Start nothing until it is resumed."),
            ("resume", "Go on with the next time to come."),
        )
    ),
)
"""All of them, in the order in which they are matched and documented."""


def routes() -> list[web.RouteDef]:
    """Where they are called."""
    return [operation.route() for operation in OPERATIONS]
