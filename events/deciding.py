"""What may be decided about an execution from outside a runner.

Deciding looks at ``state``, may refuse, and triggers events; asking twice
triggers nothing. What people may ask for (pause, cancel, …) stands in
``commands.py``, what a runner decides in ``running.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ParamSpec

from eventsourcing.dcb.domain import Selector, Slice, Tagged

from events import catalog as e
from events.commit import GENESIS
from events.errors import AlreadyExists, NotAllowedNow, NotFound, Refused
from events.messages import Usage
from events.names import Key, history_filter
from events.state import State

if TYPE_CHECKING:
    from events.next_action import Action

P = ParamSpec("P")


class Deciding(Slice[e.Event]):
    """An execution's state, and the decisions of lifecycle and reactor.

    ``now`` is the time of the decision being made; nothing here looks at a clock.
    ``last_trigger`` is the last position of TRIGGERS, given like the time; as long
    as it is unknown, no wait for an event can begin.
    ``parameters`` are the schemas of the tools' arguments, as far as whoever decides
    knows them. ``todo`` is what a runner has to do after it, if a runner made it.
    """

    def __init__(self, key: Key) -> None:
        """Start with nothing: version 0."""
        self.key = key
        self.state = State(user=key.user, id=key.execution, chain=GENESIS)
        self.now = datetime.min.replace(tzinfo=UTC)
        self.parameters: Mapping[str, dict[str, Any]] = {}
        self.todo: Action | None = None
        self.last_trigger: int | None = None

    def trigger_event(
        self,
        decision_cls: Callable[P, e.Event],
        tags: Sequence[str] = (),
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Apply an event and keep it for the commit, as the library does.

        Without the generic alias that it builds anew for each: a durable step
        triggers three events.
        """
        decision = decision_cls(*args, **kwargs)
        decision.mutate(self)
        self.new_decisions.append(Tagged(list(tags), decision))

    def consistency_boundary(self) -> Selector:
        """All commits of this execution, whatever their route."""
        return Selector(tags=[history_filter(self.key)])

    def create(self, created: e.Created) -> None:
        """Begin; whoever asks again for the same finds it already so.

        Raises AlreadyExists when the id belongs to a different request, and
        NotAllowedNow when this one was given up before it was carried out.
        """
        if self.state.version == 0:
            self.trigger_event(lambda: created)
        elif self.state.digest != created.digest:
            raise self._taken()

    def _taken(self) -> Refused:
        if not self.state.agent.name:
            return NotAllowedNow(
                f"the start of {self.key} was given up, it was admitted and not "
                "carried out for too long: ask under another id or idempotency key"
            )
        return AlreadyExists(
            f"{self.key} was started by a different request: use another id or "
            "idempotency key, or repeat the request as it was"
        )

    def beget(self, created: e.Created, failed: e.Failed | None = None) -> None:
        """Begin as a subagent, or fail at once; what is there stays as it is."""
        if self.state.version == 0:
            self.trigger_event(lambda: created)
            if failed is not None:
                self.trigger_event(lambda: failed)

    def abandon(self) -> None:
        """Close what was admitted and never created."""
        if self.state.version == 0:
            self.trigger_event(e.StartAbandoned)

    def come_due(self) -> None:
        """Let a start that was scheduled begin."""
        if self.state.scheduled_for and not self.state.final:
            self.trigger_event(e.EventReceived, event_type="schedule")

    def receive(
        self,
        event_type: str,
        payload: Any,
        trigger: str,
        position: int | None = None,
    ) -> None:
        """Wake from a wait if this is what it waits for; a second one finds none.

        ``position`` is the trigger's in TRIGGERS; None: it is newer than the wait.
        """
        awaited = self.state.awaited
        if self.state.final or awaited is None:
            return
        if not awaited.wants(event_type, payload, position):
            return
        self.trigger_event(
            e.EventReceived,
            event_type=event_type,
            payload=payload,
            trigger=trigger,
        )

    def expire_wait(self, deadline: datetime) -> None:
        """Let a wait end at its deadline; the timer of an earlier wait is ignored."""
        awaited = self.state.awaited
        if awaited and awaited.deadline == deadline:
            self.trigger_event(
                e.EventReceived, event_type=awaited.event_type, timed_out=True
            )

    def expire_request(self, request: str) -> None:
        """Let the deadline of a request answer it, unless a person did."""
        asked = self.state.request
        if asked and asked.request == request and not self.state.final:
            self.trigger_event(e.InputReceived, request=request, timed_out=True)

    def finish_child(
        self,
        child: str,
        status: str,
        summary: str,
        *,
        usage: Usage,
        cost: float | None,
        unpriced: int = 0,
    ) -> None:
        """Hear of a subagent's end; lawful at any time before the own end."""
        known = self.state.children.get(child)
        if self.state.final or known is None or known.status != "running":
            return
        self.trigger_event(
            e.ChildFinished,
            child=child,
            status=status,
            summary=summary,
            usage=usage,
            cost=cost,
            unpriced=unpriced,
        )

    def fork(self, forked: e.Forked) -> None:
        """Part from the history that was copied before this; only once from it."""
        self.must_exist()
        if self.state.origin != (forked.source, forked.source_version):
            self.trigger_event(lambda: forked)

    def purge(self, reason: str) -> None:
        """Say that this history is about to be deleted; only after its end."""
        self.must_exist()
        if not self.state.final:
            raise NotAllowedNow(f"{self.key} is {self.state.status}: end it first")
        if not self.state.purged:
            self.trigger_event(e.Purged, reason=reason)

    def note_doubts(self) -> None:
        """Say of the irreversible calls under way that nobody knows what they did."""
        turn = self.state.turn
        for call in turn.calls if turn else ():
            if call.phase == "started":
                self.trigger_event(e.ToolInDoubt, call_id=call.id)

    def must_exist(self) -> None:
        """Raise NotFound before the first commit."""
        if self.state.version == 0:
            raise NotFound(f"there is no execution {self.key}")
