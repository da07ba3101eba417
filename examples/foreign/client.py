"""Start an execution, watch it, pause, resume and cancel it: plain nats-py.

Nothing of wakestream is imported; docs/subjects.md says what is sent and heard.

    NATS_URL=nats://127.0.0.1:4222 NATS_USER=alice NATS_PASSWORD=... WAKE_USER=alice \
        python client.py
"""

import asyncio
import json
import os
import uuid
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.subscription import Subscription

USER = os.environ.get("WAKE_USER", "local")
PROMPT = "script:\n" + 'list_dir {"path": "."}\n' * 15 + "say Nobody stopped me."
START = {
    "agent_type": "explorer",
    "input": PROMPT,
    "model": "scripted?delay_ms=300",
}


async def command(client: Client, execution: str, verb: str, **body: Any) -> None:
    """Send a command and print its answer; raises RuntimeError if it is refused."""
    command_id = str(uuid.uuid4())  # sent again under this id, it takes effect once
    answers = await client.subscribe(f"answers.{USER}.{command_id}")
    payload = json.dumps({"command_id": command_id, **body}).encode()
    await client.publish(f"commands.{USER}.{execution}.{verb}", payload)
    answer = json.loads((await answers.next_msg(timeout=10)).data)
    await answers.unsubscribe()
    if not answer["accepted"]:
        raise RuntimeError(f"{verb}: {answer['code']}: {answer['message']}")
    print(f"{verb}: accepted, {answer['status']} at version {answer['version']}")


async def until(feed: Subscription, wanted: str) -> None:
    """Print each commit up to the one that has an event of this type."""
    while True:
        message = await feed.next_msg(timeout=30)
        route = message.subject.rsplit(".", 1)[1]
        commit = json.loads(message.data)
        types = [event["type"] for event in commit["events"]]
        print(f"{commit['version']:>4} {route:<8} {', '.join(types)}")
        if wanted in types:
            return
        if route == "finished":
            raise RuntimeError(f"it ended without {wanted}")


async def main() -> None:
    """Follow first, then start: so that no commit is missed."""
    url = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
    user, password = os.environ.get("NATS_USER"), os.environ.get("NATS_PASSWORD")
    async with await nats.connect(url, user=user, password=password) as client:
        execution = str(uuid.uuid4())
        feed = await client.subscribe(f"feed.{USER}.{execution}.>")
        await command(client, execution, "start", **START)
        await until(feed, "model_responded.v1")
        await command(client, execution, "pause")
        await until(feed, "paused.v1")
        await command(client, execution, "resume")
        await until(feed, "model_responded.v1")
        await command(client, execution, "cancel", reason="seen enough")
        await until(feed, "cancelled.v1")


if __name__ == "__main__":
    asyncio.run(main())
