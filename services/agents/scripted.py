"""The model that is there without a key: fixed rules, no language model.

It plans, lists, reads, searches, counts and reports what it really found, and
says that no language model was used. Each reply is a pure function of the
conversation, so a run that is taken up after a crash goes on as it would have.
A prompt whose first line is ``script:`` drives it call by call (see
``script.py``).
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from math import ceil

from events.errors import InvalidInput
from events.messages import (
    AssistantMessage,
    Message,
    Reply,
    Request,
    ToolCall,
    ToolMessage,
    Usage,
)
from services.agents import script
from services.agents.conversation import Call, Offer, Turn, turn_of
from services.agents.model import ignore
from services.agents.report import DISCLAIMER, report, summary, trouble
from services.agents.survey import PHASES, View, next_phase, plan, view_of
from services.agents.wishes import target

CHARACTERS_PER_TOKEN = 4
"""The usual rule of thumb for English text and code."""

MAX_DELAY_MS = 60_000

_DELAY = re.compile(r"scripted(?:\?delay_ms=(\d{1,9}))?")
_WORD = re.compile(r"\S+\s*|\s+")

Said = tuple[str, tuple[Call, ...]]
"""A reply's text and the calls it asks for; none: it is the final answer."""


class Scripted:
    """Answers by rules; ``delay_ms`` makes each reply take so long, for demos.

    Its usage is an estimate, a token for every four characters, of what is new
    since its last reply: rules do not read a conversation again as a language
    model does. It costs nothing.
    """

    def __init__(self, *, delay_ms: int = 0) -> None:
        self.name = f"scripted?delay_ms={delay_ms}" if delay_ms else "scripted"
        self._delay = delay_ms / 1000

    @classmethod
    def named(cls, name: str) -> "Scripted":
        """``scripted`` or ``scripted?delay_ms=50``; raises InvalidInput."""
        match = _DELAY.fullmatch(name)
        delay = int(match[1] or 0) if match else MAX_DELAY_MS + 1
        if delay > MAX_DELAY_MS:
            usual = f"write scripted or scripted?delay_ms=N, N up to {MAX_DELAY_MS}"
            raise InvalidInput(f"unknown model {name!r}: {usual}")
        return cls(delay_ms=delay)

    async def reply(
        self, request: Request, on_text: Callable[[str], None] = ignore
    ) -> Reply:
        """The next reply; asked twice, the same. Text streams word by word."""
        turn = turn_of(request.messages)
        text, calls = (
            _script(turn)
            if script.is_script(turn.prompt)
            else _act(view_of(turn, Offer(request)))
        )
        await asyncio.sleep(self._delay)
        for word in _WORD.findall(text):
            on_text(word)
        return Reply(
            model="scripted",
            text=text,
            tool_calls=_numbered(turn.step, calls),
            usage=_usage(request, text, calls),
            cost=0.0,
            latency_ms=self._delay * 1000,
            finish_reason="tool_calls" if calls else "stop",
        )

    async def aclose(self) -> None:
        """Nothing to let go."""


def _numbered(step: int, calls: Iterable[Call]) -> tuple[ToolCall, ...]:
    """Ids from step and place: unique in the conversation, the same every time."""
    return tuple(
        ToolCall(id=f"s{step}-{place}", name=call.name, arguments=call.arguments)
        for place, call in enumerate(calls, 1)
    )


def _act(view: View) -> Said:
    """Plan, look around phase by phase, write down, answer."""
    if not view.turn.prompt and not view.turn.replies:
        return "Nothing was asked.", ()
    if not any(map(view.offer.has, _all_tools())):
        return f"{DISCLAIMER}\n\nNo tool that I know is offered: I saw nothing.", ()
    first = next_phase(view)
    if first is None:
        return _closing(view)
    phase, calls = first
    todo = _todo(view, plan(view, phase))
    if view.turn.replies == 0 and todo:
        return "I am no language model; I follow fixed rules. A plan first.", todo
    return phase.saying, (*_new(view.turn, todo), *calls)


def _all_tools() -> set[str]:
    return {tool for phase in PHASES for tool in phase.tools}


def _todo(view: View, tasks: list[dict[str, str]]) -> tuple[Call, ...]:
    return view.offer.calls("todo_write", tasks=tasks)


def _new(turn: Turn, calls: Iterable[Call]) -> tuple[Call, ...]:
    return tuple(call for call in calls if not turn.settled(call))


def _closing(view: View) -> Said:
    """Finish the plan, note the outcome, write the file if one was asked for."""
    text = report(view)
    path = target(view.wish, view.found.entries)
    notes = view.offer.calls("metadata_write", notes={"report": summary(view.found)})
    files = view.offer.calls("write_file", path=path, content=text) if path else ()
    calls = (*_todo(view, plan(view, None)), *notes, *files)
    lacking = _new(view.turn, calls)
    if lacking:
        return "I have seen enough; I write down what I found.", lacking
    return text + _written(view, path, files) + _last_troubles(view.turn, calls), ()


def _written(view: View, path: str | None, files: tuple[Call, ...]) -> str:
    if not path:
        return ""
    if not files:
        return f"\n`{path}` was asked for, but `write_file` is not offered.\n"
    answer = view.turn.answer(files[0])
    done = answer is not None and answer.outcome == "success"
    return f"\nThis report is also in `{path}`.\n" if done else ""


def _last_troubles(turn: Turn, calls: Iterable[Call]) -> str:
    lines = [f"- {what}\n" for call in calls if (what := trouble(turn, call))]
    return "\nAt the end this did not work:\n\n" + "".join(lines) if lines else ""


def _script(turn: Turn) -> Said:
    """The step of the script that is due."""
    try:
        steps = script.parse(turn.prompt)
    except script.NotAScriptError as error:
        return f"I cannot follow this script: {error}", ()
    if turn.replies >= len(steps):
        return f"The script ended: {_tally(turn)}.", ()
    step = steps[turn.replies]
    return step.say or "", tuple(Call(*call) for call in step.calls)


def _tally(turn: Turn) -> str:
    outcomes = [a.outcome for answers in turn.answers.values() for a in answers]
    bad = sorted({outcome for outcome in outcomes if outcome != "success"})
    counts = [f", {outcomes.count(outcome)} {outcome}" for outcome in bad]
    return f"{turn.replies} steps, {len(outcomes)} calls{''.join(counts)}"


def _usage(request: Request, text: str, calls: Iterable[Call]) -> Usage:
    """What was read since the last reply and what is said now, estimated."""
    messages = request.messages
    replies = [n for n, m in enumerate(messages) if isinstance(m, AssistantMessage)]
    new = messages[replies[-1] + 1 if replies else 0 :]
    read = sum(map(_length, new)) + (0 if replies else len(request.system))
    said = len(text) + sum(len(call.name) + len(call.arguments) for call in calls)
    return Usage(
        input=ceil(read / CHARACTERS_PER_TOKEN),
        output=ceil(said / CHARACTERS_PER_TOKEN),
    )


def _length(message: Message) -> int:
    return len(message.output if isinstance(message, ToolMessage) else message.text)
