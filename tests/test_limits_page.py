"""docs/limits.md: its figures are the defaults, its examples what is answered."""

import json
import re
from pathlib import Path

import msgspec
import pytest
from clerks import START, clerk
from logs import MemoryLog
from rationing import Office
from registers import MemoryBuckets

from events import quota as rules
from events.inbox import MemoryInbox
from events.names import ASKED_BY, TIER, Key
from gateway import rations
from gateway.admitting import tiers_of
from gateway.configuration import load
from gateway.settings import LimitsOfTiers
from gateway.sources import FILE
from services.accounts import decoded

TEXT = (Path(__file__).parents[1] / "docs" / "limits.md").read_text()


def block(name: str) -> str:
    """What stands between the comment of that name and the end."""
    found = re.search(
        rf"<!-- {name} -->\n```\w*\n(.*?)```\n<!-- end -->", TEXT, re.DOTALL
    )
    assert found, name
    return found[1]


def test_the_table_of_tiers_has_the_defaults() -> None:
    """Every tier, every figure."""
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) s \| (\d+) \| (\w+) \|$",
        TEXT,
        re.MULTILINE,
    )
    told = {
        name: (*map(int, figures), first == "yes") for name, *figures, first in rows
    }
    assert told == {
        name: (*tier.allotment, *map(int, tier.schedules), tier.priority)
        for name, tier in tiers_of(LimitsOfTiers()).items()
    }


def test_the_configuration_of_the_page_is_one(tmp_path: Path) -> None:
    """It is read as the page says."""
    found = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert found
    (tmp_path / FILE).write_text(found[1])
    limits = load({}, {}, tmp_path).settings.limits
    assert limits.default_tier == "free"
    assert (limits.enterprise.concurrent, limits.enterprise.hourly) == (50, None)


async def test_the_refusal_of_the_page_is_what_is_answered(
    memory_log: MemoryLog,
    memory_buckets: MemoryBuckets,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To the letter; and so is what ``wake limits`` shows then."""
    office = Office(memory_log.journal, memory_buckets)
    async with clerk(
        MemoryInbox(), office.journal, user="alice", admission=office.admission
    ) as to:
        for number, name in enumerate(("one", "two"), 1):
            body = {**START, "command_id": f"c-{number}"}
            await to.inbox.publish(
                Key("alice", name),
                "start",
                msgspec.json.encode(body),
                door="gateway",
                headers={ASKED_BY: "alice", TIER: "free"},
            )
            answer = await to.hear()
    assert msgspec.to_builtins(answer) == json.loads(block("refused"))
    report = await office.admission.limits("alice", "free")
    rations.show(report, as_json=False)
    assert capsys.readouterr().out == block("shown")


def test_the_values_of_the_page_are_what_is_stored() -> None:
    """Each bucket's, read by what reads it."""
    rows = dict(
        re.findall(r"^\| `(QUOTAS|ACCOUNTS)` \| `(.*)` \|$", TEXT, re.MULTILINE)
    )
    quota = rules.decoded(rows["QUOTAS"].encode(), "alice")
    assert json.loads(rules.encoded(quota)) == json.loads(rows["QUOTAS"])
    account = decoded(rows["ACCOUNTS"].encode(), "alice")
    assert json.loads(msgspec.json.encode(account)) == json.loads(rows["ACCOUNTS"])
