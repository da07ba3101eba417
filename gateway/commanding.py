"""The commands that talk to a running service: start, pause, resume and so on."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.exits import told
from gateway.flags import Data, Id, Json, Nats, User, place_of

if TYPE_CHECKING:
    from gateway.composition import Place
    from services.requests import Answer
    from services.woken import TriggerAnswer

app = typer.Typer(rich_markup_mode=None)

Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; kept in the history.")]
CommandId = Annotated[
    str | None,
    typer.Option(
        "--command-id",
        metavar="ID",
        help="Sent again under the same id, it takes effect once.  [a new one]",
    ),
]


@app.command()
def start(
    prompt: Annotated[str, typer.Argument(help="What the agent is to do.")],
    *,
    agent: Annotated[
        str, typer.Option(metavar="NAME", help="Agent type.")
    ] = "explorer",
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model.  [the agent's]")
    ] = None,
    workspace: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Directory, one that the service allows."),
    ] = None,
    execution: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Its id.  [a new one]")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key", metavar="KEY", help="Asked twice, started once."
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Begin then: 2026-12-01T09:00+01:00, with the zone."
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option("--in", metavar="TIME", help="Begin after 90s, 30m, 2h, 1d."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(metavar="N", help="Fewer steps than usual.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Fewer tokens than usual.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(metavar="DOLLARS", help="At most this much money.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="S", help="Less running time than usual.")
    ] = None,
    await_event: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Wait for this event before it starts."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Only one with these values in its data."),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Wait so long at most: 90s, 30m, 2h, 3d."),
    ] = None,
    command_id: CommandId = None,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Start an execution on a running service; prints its id.

    \b
    Examples:
      wake start "Explore this repository."
      wake start "Fix it." --agent coder --workspace /srv/repo --max-steps 10
      wake start "Nightly report." --idempotency-key report-2026-11-22 --json
      wake start "Say why." --await-event ci.failed --where '{"branch": "main"}'
      wake start "Look again." --in 2h
      wake start "Good morning." --at 2026-12-01T09:00+01:00
    """
    limits = {
        "max_steps": max_steps,
        "max_tokens": max_tokens,
        "max_cost": max_cost,
        "timeout": timeout,
    }
    body: dict[str, Any] = {
        "agent_type": agent,
        "input": prompt,
        "model": model,
        "workspace": absolute(workspace),
        "idempotency_key": key,
        "limits": filled(limits) or None,
        "command_id": command_id,
    }
    with told(as_json=as_json):
        from gateway import sending, times, triggering  # noqa: PLC0415 - they import a lot

        sending.check_numbers(limits)
        body["run_at"] = times.run_at(at, after)
        body["await_event"] = triggering.awaiting(await_event, where, within)
        name = execution or sending.fresh_id(key)
        answer = sending.send(place_of(data, nats), user, name, "start", filled(body))
        _print(answer, answer.execution, as_json=as_json)


def _signal(
    verb: str,
    execution: str,
    body: dict[str, Any],
    data: Any,
    nats: str | None,
    user: str,
    *,
    as_json: bool,
) -> None:
    with told(as_json=as_json):
        from gateway import sending  # noqa: PLC0415 - see start

        answer = sending.send(place_of(data, nats), user, execution, verb, filled(body))
        _print(answer, f"{answer.execution} is {answer.status}", as_json=as_json)


@app.command()
def pause(
    execution: Id,
    *,
    command_id: CommandId = None,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Let an execution rest: at its next commit, or at once if nobody works on it.

    \b
    Example:
      wake pause 0193d5a0-7a5c-7000-8000-0123456789ab
    """
    body = {"command_id": command_id}
    _signal("pause", execution, body, data, nats, user, as_json=as_json)


@app.command()
def resume(
    execution: Id,
    *,
    command_id: CommandId = None,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Let a paused execution go on.

    \b
    Example:
      wake resume 0193d5a0-7a5c-7000-8000-0123456789ab
    """
    body = {"command_id": command_id}
    _signal("resume", execution, body, data, nats, user, as_json=as_json)


@app.command()
def cancel(
    execution: Id,
    *,
    reason: Reason = "",
    command_id: CommandId = None,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """End an execution in order, at its next commit.

    \b
    Example:
      wake cancel 0193d5a0-7a5c-7000-8000-0123456789ab --reason "wrong branch"
    """
    body = {"command_id": command_id, "reason": reason}
    _signal("cancel", execution, body, data, nats, user, as_json=as_json)


@app.command()
def kill(
    execution: Id,
    *,
    reason: Reason = "",
    command_id: CommandId = None,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """End an execution now, whatever it is doing.

    \b
    Example:
      wake kill 0193d5a0-7a5c-7000-8000-0123456789ab
    """
    body = {"command_id": command_id, "reason": reason}
    _signal("kill", execution, body, data, nats, user, as_json=as_json)


@app.command()
def retry(
    execution: Id,
    *,
    reason: Reason = "",
    command_id: CommandId = None,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Let a failed execution go on from its last recorded step.

    \b
    Example:
      wake retry 0193d5a0-7a5c-7000-8000-0123456789ab
    """
    body = {"command_id": command_id, "reason": reason}
    _signal("retry", execution, body, data, nats, user, as_json=as_json)


@app.command("input")
def answer_request(
    execution: Id,
    answer: Annotated[
        str | None,
        typer.Argument(help="JSON, or plain text; without it, what is asked is shown."),
    ] = None,
    *,
    approve: Annotated[
        bool, typer.Option("--approve", help="Let the call run.")
    ] = False,
    deny: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Do not; the reason is told to the model."),
    ] = None,
    edit: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Let it run with these arguments."),
    ] = None,
    run_again: Annotated[
        bool, typer.Option("--run-again", help="Run a call that is in doubt again.")
    ] = False,
    tell: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Do not; tell the model what you know."),
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Which request.  [the open one]"),
    ] = None,
    command_id: CommandId = None,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Show what an execution asks, or answer it.

    An answer that is not what was asked for is refused, and the execution goes on
    waiting. Where no service runs, it goes on with wake run --resume.

    \b
    Examples:
      wake input 0193d5a0-7a5c-7000-8000-0123456789ab
      wake input 0193d5a0-7a5c-7000-8000-0123456789ab "the blue one"
      wake input 0193d5a0-7a5c-7000-8000-0123456789ab --approve
      wake input 0193d5a0-7a5c-7000-8000-0123456789ab --deny "not on a Friday"
      wake input 0193d5a0-7a5c-7000-8000-0123456789ab --edit '{"command": "ls"}'
    """
    with told(as_json=as_json):
        from gateway import answering  # noqa: PLC0415 - see start

        place = place_of(data, nats)
        given = answering.Given(
            text=answer,
            approve=approve,
            deny=deny,
            edit=edit,
            run_again=run_again,
            tell=tell,
        )
        if not given.check():
            _show_request(place, user, execution, as_json=as_json)
            return
        done = answering.answer(
            place, user, execution, given, request=request, command_id=command_id
        )
        _print(done, f"{done.execution} is {done.status}", as_json=as_json)


@app.command()
def trigger(
    event_type: Annotated[
        str, typer.Argument(metavar="TYPE", help="Type of the event, as ci.done.")
    ],
    payload: Annotated[
        str, typer.Argument(metavar="JSON", help="What the event says.")
    ] = "null",
    *,
    everybody: Annotated[
        bool, typer.Option("--all", help="For the executions of all users.")
    ] = False,
    user: User = "local",
    data: Data = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Let something happen: whoever waits for it is woken; prints how many.

    \b
    Examples:
      wake trigger ci.done '{"branch": "main", "ok": true}'
      wake trigger maintenance.over --all --json
    """
    with told(as_json=as_json):
        from gateway import triggering  # noqa: PLC0415 - see start

        place, whose = place_of(data, nats), None if everybody else user
        answer = triggering.trigger(place, whose, event_type, payload)
        woken = answer.woken or 0
        line = f"{woken} execution{'' if woken == 1 else 's'} woken"
        _print(answer, line, as_json=as_json)


def _show_request(place: "Place", user: str, execution: str, *, as_json: bool) -> None:
    from gateway import answering, question  # noqa: PLC0415 - see start
    from gateway.output import put, put_json  # noqa: PLC0415 - see start

    key, state = answering.show(place, user, execution)
    if as_json:
        put_json(question.as_object(state))
        return
    for line in (*question.asked(state), *question.answers(key, state, place)):
        put(line)


def _print(answer: "Answer | TriggerAnswer", line: str, *, as_json: bool) -> None:
    from gateway.output import put, put_json  # noqa: PLC0415 - see start

    if as_json:
        put_json(answer)
    else:
        put(line)


def filled(body: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was not given."""
    return {name: value for name, value in body.items() if value not in (None, "")}


def absolute(workspace: str | None) -> str | None:
    """Name it as the service must: from its root. What leads nowhere it refuses."""
    from pathlib import Path  # noqa: PLC0415 - see start

    return None if workspace is None else str(Path(workspace).absolute())
