"""What tests share: a real nats-server, and the log on both of its adapters."""

import asyncio
import gc
import signal
import warnings
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import form
import pytest
from bells import Bell, JetStreamBell, MemoryBell
from hypothesis import HealthCheck, settings
from logs import JetStreamLog, Log, MemoryLog
from nats_server import NatsServer
from registers import Buckets, JetStreamBuckets, MemoryBuckets
from timetables import JetStreamTable, MemoryTable, Table


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the fault suite, which has a short form and a long one.

    ``make test`` runs the short form, ``make faults`` the long one (``--long``;
    a test asks ``request.config.getoption("--long")``).
    """
    group = parser.getgroup("faults", "the fault suite")
    group.addoption("--long", action="store_true", help="its long form")
    group.addoption("--seeds", type=int, help="how many worlds to simulate")
    group.addoption("--seed", type=int, help="simulate this world only, again")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[
    None, pytest.TestReport, pytest.TestReport
]:
    """Let pass between processes what hostile tests log: it may be no UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode(errors="replace").decode()) for name, text in report.sections
    ]
    return report


def pytest_configure(config: pytest.Config) -> None:
    """Tell the tests their form before any of them is imported."""
    form.choose(config)
    # A suite that a shell began in the background ignores Ctrl-C, and so would
    # whatever the tests start, and are to end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile(
        "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("busy")  # how fast an example was says nothing of ours


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A real server; it is synchronous, so it belongs to no event loop."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server that a test may stop, kill and damage."""
    folder = tmp_path / "own"
    folder.mkdir()
    server = NatsServer(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def jetstream_log(nats_server: NatsServer) -> AsyncIterator[JetStreamLog]:
    """An empty log on the shared server."""
    log = JetStreamLog(nats_server.url)
    await log.open()
    yield log
    await log.close()
    await nothing_runs()


@pytest.fixture
async def own_log(own_server: NatsServer) -> AsyncIterator[JetStreamLog]:
    """An empty log on a server of its own."""
    log = JetStreamLog(own_server.url)
    await log.open()
    yield log
    await log.close()
    await nothing_runs()
    with warnings.catch_warnings():
        # nats-py leaves the socket of a reconnect that failed to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
async def memory_log() -> AsyncIterator[MemoryLog]:
    """An empty log in memory."""
    yield MemoryLog()
    await nothing_runs()


@pytest.fixture(params=["memory", "jetstream"])
def log(request: pytest.FixtureRequest) -> Log:
    """Each adapter in turn, empty."""
    chosen: Log = request.getfixturevalue(f"{request.param}_log")
    return chosen


@pytest.fixture
def memory_bell() -> MemoryBell:
    """Timers in memory, none of them armed."""
    return MemoryBell()


@pytest.fixture
async def jetstream_bell(nats_server: NatsServer) -> AsyncIterator[JetStreamBell]:
    """Timers on the shared server, none of them armed."""
    bell = JetStreamBell(nats_server.url)
    await bell.open()
    yield bell
    await bell.close()


@pytest.fixture(params=["memory", "jetstream"])
def bell(request: pytest.FixtureRequest) -> Bell:
    """Each adapter of the timers in turn."""
    chosen: Bell = request.getfixturevalue(f"{request.param}_bell")
    return chosen


@pytest.fixture
def memory_table() -> MemoryTable:
    """A timetable in memory, without schedules."""
    return MemoryTable()


@pytest.fixture
async def jetstream_table(nats_server: NatsServer) -> AsyncIterator[JetStreamTable]:
    """A timetable on the shared server, without schedules."""
    table = JetStreamTable(nats_server.url)
    await table.open()
    yield table
    await table.close()


@pytest.fixture(params=["memory", "jetstream"])
def table(request: pytest.FixtureRequest) -> Table:
    """Each adapter of the timetable in turn."""
    chosen: Table = request.getfixturevalue(f"{request.param}_table")
    return chosen


@pytest.fixture
def memory_buckets() -> MemoryBuckets:
    """Buckets in memory, with nothing in them."""
    return MemoryBuckets()


@pytest.fixture
async def jetstream_buckets(nats_server: NatsServer) -> AsyncIterator[JetStreamBuckets]:
    """Buckets on the shared server, with nothing in them."""
    buckets = JetStreamBuckets(nats_server.url)
    await buckets.open()
    yield buckets
    await buckets.close()


@pytest.fixture(params=["memory", "jetstream"])
def buckets(request: pytest.FixtureRequest) -> Buckets:
    """Each adapter of the buckets in turn."""
    chosen: Buckets = request.getfixturevalue(f"{request.param}_buckets")
    return chosen


async def nothing_runs() -> None:
    """Show that no task was left behind; a cancelled one needs a moment to end."""
    for _ in range(20):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    assert not left
