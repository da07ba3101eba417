"""The people of a simulation: they start executions and give commands, also twice."""

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from auditor import Sent
from simplans import Plan

from events.execution import Execution
from events.state import State

if TYPE_CHECKING:
    from simworld import World

VERBS = ("pause", "pause", "resume", "resume", "input", "input", "cancel", "kill")
PATIENCE = 30.0
"""Seconds after which a command that was not answered is given again."""

LATEST = 5.0
"""Seconds that a command may be on its way."""


class Person:
    """Cares for one execution."""

    def __init__(self, world: "World", plan: Plan) -> None:
        self._world, self._plan = world, plan
        self._chance = world.chance
        self._key = plan.key
        self._count = 0
        self._pace = self._chance.choice((0.5, 2.0, 5.0))
        self._floor = 0

    @property
    def state(self) -> State:
        """How it stands, as whoever reads the log sees it."""
        history = self._world.log._histories.get(self._key, [])
        return Execution.fold(self._key, history).state

    async def live(self) -> None:
        """Start it, and meddle, until the day is over."""
        chance, meddling = self._chance, self._chance.randint(0, 5)
        await asyncio.sleep(chance.random())
        await self._give("start", **self._start)
        while not self._world.calm:
            await asyncio.sleep(chance.expovariate(1 / self._pace))
            if meddling and not self._world.calm:
                meddling -= 1
                await self._meddle()

    @property
    def _start(self) -> dict[str, Any]:
        return {"agent_type": self._plan.agent.name, "input": "Go."}

    async def _meddle(self) -> None:
        """Give one command or two, waiting for the answer or not."""
        if self._chance.random() < 0.5:
            await self._change_mind()
        for _ in range(self._chance.choice((1, 1, 2))):
            verb = self._chance.choice(VERBS)
            state = self.state
            if state.status == "failed":
                verb = "retry"
            if verb in ("cancel", "kill") and self._chance.random() < 0.6:
                verb = "pause"
            body = self._answer(state) if verb == "input" else {}
            if body is not None:
                await self._give(verb, wait=self._chance.random() < 0.7, **body)

    async def _change_mind(self) -> None:
        """Pause it, and withdraw that."""
        while not self._world.calm and self.state.status != "running":  # noqa: ASYNC110 - the log is a list
            await asyncio.sleep(0.1)
        await self._give("pause", wait=False, prompt=True)
        await asyncio.sleep(self._chance.random() * 0.2)
        await self._give("resume", prompt=True)

    def _answer(self, state: State) -> dict[str, Any] | None:
        """Answer what is asked; None if nothing is."""
        asked = state.request
        if asked is None:
            return None
        answers: dict[str, tuple[Any, ...]] = {
            "question": ("this",),
            "approval": ({"decision": "approve"}, {"decision": "deny"}),
            "doubt": ({"decision": "run_again"}, {"decision": "tell"}),
        }
        answer = self._chance.choice(answers[asked.kind])
        return {"request": asked.request, "answer": answer}

    async def settle(self) -> None:
        """Bring it to its end, or leave it where it waits."""
        while not (state := self.state).final:
            if state.status == "paused":
                if self._plan.parks:
                    return
                await self._give("resume")
            elif state.status == "awaiting_input":
                if self._plan.parks:
                    return
                body = self._answer(state)
                assert body is not None
                await self._give("input", **body)
            await asyncio.sleep(1)

    async def _give(
        self, verb: str, *, wait: bool = True, prompt: bool = False, **body: Any
    ) -> None:
        """Send a command, in one or two copies; wait for its answer if asked to.

        ``prompt``: in one copy, which nothing holds up on its way.
        """
        self._count += 1
        command = f"{self._key.execution}-{verb}-{self._count}"
        world = self._world
        sent = Sent(command_id=command, key=self._key, verb=verb, floor=self._floor)
        world.sent.append(sent)
        encoded = msgspec.json.encode({**body, "command_id": command})
        prompt = prompt or world.calm
        copies = 1 if prompt else self._chance.choice((1, 1, 1, 2))
        for _ in range(copies):
            self._post(verb, encoded, prompt=prompt)
        while wait and not await self._answered(command):
            self._post(verb, encoded, prompt=prompt)

    def _post(self, verb: str, body: bytes, *, prompt: bool) -> None:
        """Send it on its way; copies may be overtaken by what is sent later."""
        late = 0.0 if prompt else self._chance.choice((0.0, 0.01, LATEST))

        def arrive() -> None:
            desk = self._world.desk
            self._world.loop.create_task(
                desk.publish(self._key, verb, body, "commands"),
                context=self._world.loop.outside,
            )

        self._world.later(self._chance.random() * late, arrive)

    async def _answered(self, command: str) -> bool:
        """Wait for the answer; False if none comes."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not self._heard(command):  # noqa: ASYNC110 - answers are a list
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        return True

    def _heard(self, command: str) -> bool:
        told = [a for a in self._world.answers if a.command_id == command]
        self._floor = max([self._floor, *(a.version for a in told)])
        return bool(told)
