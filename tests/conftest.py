"""What all tests share: the ledger of secrets, and the real daemon."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from rekeyd.system.event_loop import VARIABLE, LoopFactory
from support.daemon import WORKERS, Daemon
from support.loops import new_loop
from support.secrets import Ledger
from support.supervisor import Supervisor

# A machine that is busy with something else is no finding.
settings.register_profile("rekeyd", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rekeyd")

StartDaemon = Callable[..., Awaitable[Daemon]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop",
        choices=("uvloop", "asyncio"),
        help="the event loop of the tests and the daemons that they start (what the daemon takes by itself)",
    )
    parser.addoption("--workers", type=int, help="how many workers the daemons have that tests start (1)")


def pytest_configure(config: pytest.Config) -> None:
    if workers := config.getoption("--workers"):
        os.environ[WORKERS] = str(workers)
    if loop := config.getoption("--loop"):
        os.environ[VARIABLE] = loop


def pytest_asyncio_loop_factories() -> Mapping[str, LoopFactory]:
    """Without a word asyncio's in the tests, and in the daemons that they start what those take."""
    return {"loop": new_loop}


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Every secret that the session uses; at its end none of them is in anything that a daemon told."""
    ledger = Ledger(tmp_path_factory.mktemp("transcripts"))
    yield ledger
    leaks = ledger.leaks()
    assert not leaks, "\n".join(leaks)


@pytest.fixture
async def start_daemon(ledger: Ledger) -> AsyncIterator[StartDaemon]:
    """Starts `rekeyd serve -c FILE` with the arguments of `Daemon.running`; stopped with the test."""
    async with AsyncExitStack() as stack:

        async def start(settings: Path, **arguments: Any) -> Daemon:
            return await stack.enter_async_context(Daemon.running(ledger, settings, **arguments))

        yield start


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    """Two workers that serve; gone with the test."""
    supervisor = Supervisor(tmp_path)
    await supervisor.open()
    yield supervisor
    await supervisor.shut()
