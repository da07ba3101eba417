"""Processes, and a server of their own for each test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fleet import ACCOUNTS, Fleet
from nats_server import NatsServer
from nursery import Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where processes come from."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server with a system account, to be killed."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = NatsServer(folder, ACCOUNTS)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def fleet(
    tmp_path: Path, nursery: Nursery, server: NatsServer
) -> AsyncIterator[Fleet]:
    """No process yet."""
    async with Fleet.open(tmp_path, nursery, server) as fleet:
        yield fleet
