"""Histories as they happen, decided by a seed: work, people, failures, retries."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from random import Random

from histories import Story, call

from events import commands as c
from events.errors import Refused
from events.execution import Execution
from events.messages import ToolCall, ToolResult, Usage
from events.names import Key
from events.next_action import RunTools, next_action

TOOLS = ("look", "write", "launch", "ask_user", "await_event", "spawn_agent")
ARGUMENTS = {
    "ask_user": {"question": "Which one?"},
    "await_event": {"event_type": "ci.done", "within": 30},
    "spawn_agent": {"agent": "helper", "prompt": "Help"},
}


def lifelike(chance: Random, key: Key, moves: int = 30) -> Story:
    """Make up a history; the same seed makes the same one."""
    story = Story(key)
    story.start()
    for _ in range(moves):
        story.wait(chance.choice([0.0, 0.5, 20.0]))
        move = chance.choice(_moves(story, chance))
        try:
            move()
        except Refused:
            continue
    return story


def _moves(story: Story, chance: Random) -> list[Callable[[], object]]:
    state = story.load().state
    attempt = state.attempt
    work = [lambda: _work(story, chance, attempt)] * 8
    waits: list[Callable[[], object]] = [
        lambda: story.do(lambda x: x.receive("ci.done", {"ok": True}, "t-1")),
        lambda: _answer(story, chance),
        lambda: _finish_children(story),
    ]
    people: list[Callable[[], object]] = [
        lambda: story.command(c.Pause()),
        lambda: story.command(c.Resume()),
        lambda: story.command(c.Retry(reason="again")),
    ]
    rare: list[Callable[[], object]] = [
        lambda: story.do(
            lambda x: x.fail(attempt, "ModelUnavailable", "busy", retryable=True)
        ),
        lambda: story.do(lambda x: x.recover(attempt, "its runner is gone")),
        lambda: story.command(c.Cancel(reason="enough")),
    ]
    if chance.random() < 0.03:
        rare.append(lambda: story.do(lambda x: x.purge("old")))
    return [*work, *waits * 2, *people, *rare]


def _work(story: Story, chance: Random, attempt: int) -> None:
    state = story.load().state
    if state.runnable:
        story.begin()
        return
    action = next_action(state, story.now)
    if isinstance(action, RunTools):
        some = [ToolResult(call_id=a.id, output="út " * 9) for a in action.calls]
        story.do(lambda x: x.finish_calls(attempt, some))
    elif state.status == "running":
        calls = _calls(chance)
        usage = Usage(input=chance.randrange(99), output=3, cache_read=1)
        cost = chance.choice([None, 0.1, 0.25])
        story.respond(
            *calls, text="Well." * chance.randrange(9), usage=usage, cost=cost
        )


def _calls(chance: Random) -> Iterator[ToolCall]:
    for number in range(chance.choice([0, 1, 1, 2, 3])):
        tool = chance.choice(TOOLS)
        yield call(f"c{number}", tool, ARGUMENTS.get(tool, {"n": number}))


def _answer(story: Story, chance: Random) -> None:
    asked = story.load().state.request
    if asked:
        answer = chance.choice(["yes", {"decision": "approve"}, {"decision": "deny"}])
        story.command(c.Input(request=asked.request, answer=answer))


def _finish_children(story: Story) -> None:
    for child, known in story.load().state.children.items():
        if known.status == "running":
            story.do(partial(_finish, child=child))


def _finish(execution: Execution, child: str) -> None:
    usage = Usage(input=5, output=1)
    execution.finish_child(child, "completed", "s", usage=usage, cost=0.5)


@cache
def interleaved(seed: int, executions: int) -> tuple[tuple[str, bytes], ...]:
    """Subjects and bodies of many such histories, mixed as they come."""
    chance = Random(seed)  # noqa: S311 - a schedule, no secret
    keys = [Key(f"u{n % 5}", f"s{seed}-{n}") for n in range(executions)]
    logs = [lifelike(chance, key, chance.randrange(2, 50)).log for key in keys]
    mixed = []
    while logs:
        log = chance.choice(logs)
        recorded = log.pop(0)
        key = recorded.key
        subject = f"events.{key.user}.{key.execution}.{recorded.route}"
        mixed.append((subject, recorded.body))
        logs = [one for one in logs if one]
    return tuple(mixed)
