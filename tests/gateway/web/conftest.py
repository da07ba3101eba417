"""A gateway with every service behind it, on a server of this folder's tests."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import edges
import pytest
from edges import Caller, Gateway
from nats_server import NatsServer
from onlookers import Writer


@pytest.fixture(scope="session")
def edge_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A real server that only gateways and what is behind them use."""
    server = NatsServer(tmp_path_factory.mktemp("edge"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def gateway(edge_server: NatsServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway, lifecycle, runner, reactor and projector; ended in order."""
    async with edges.gateway(edge_server.url, tmp_path) as one:
        yield one


@pytest.fixture
def ada(gateway: Gateway, tmp_path: Path) -> Caller:
    """A user with a token, and with nothing of earlier tests."""
    return gateway.caller(f"ada-{tmp_path.name[-40:]}")


@pytest.fixture
async def writer(edge_server: NatsServer, gateway: Gateway) -> AsyncIterator[Writer]:
    """Somebody who writes to its log."""
    assert gateway.url
    async with Writer.open(edge_server.url) as one:
        yield one
