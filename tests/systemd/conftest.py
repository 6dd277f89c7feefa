"""What these tests share: a machine for each systemd that is to be had, and rekeyd as a service in it.

They come first in the suite, and are so few of thousands that pytest-xdist gives all of them to one process,
which boots each machine once. Where they are spread all the same, one process installs for all, and each
boots its own. What says little of systemd is tried under the older one alone (`ON_THE_OLDER`).
"""

import json
import os
import shutil
from collections.abc import Iterator

import pytest

from support.generations import API_KEY
from support.installation import NotToBeHad, install, made_once, unpack_newer_systemd
from support.machine import NEWER, OLDER, Machine, reason_against
from support.secrets import Ledger
from support.service import FOLDER, UNITS, ServedSite, Service

PATIENCE = 300
"""Seconds for one test; the first one installs rekeyd before."""


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.timeout(PATIENCE))


@pytest.fixture(scope="session", params=[OLDER, NEWER])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Booted once for all tests of a process; skips where none can be."""
    if (reason := reason_against()) is not None:
        pytest.skip(reason)
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    try:
        root = made_once(session / "installed", install)
        options = [f"--bind-ro={root}/usr/local:/usr/local"]
        if request.param == NEWER:
            newer = made_once(session / "systemd", unpack_newer_systemd)
            options.append(f"--overlay-ro=/usr:{newer}/usr:/usr")
    except NotToBeHad as reason:
        pytest.skip(str(reason))
    with Machine.booted(tmp_path_factory.mktemp("machine"), *sorted(options, reverse=True)) as machine:
        yield machine


@pytest.fixture
def service(machine: Machine, ledger: Ledger) -> Iterator[Service]:
    """rekeyd.service with a site, not started yet; what it told is searched for secrets."""
    ledger.add(API_KEY, "a service")
    service = Service(machine, ServedSite.made(machine))
    yield service
    machine.run("systemctl", "stop", "rekeyd*")
    machine.run("systemctl", "reset-failed")
    ledger.transcript("journal").write_text(json.dumps(service.entries()))
    for path in (*machine.path(FOLDER).iterdir(), *machine.path(UNITS).iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    machine.run("systemctl", "daemon-reload")
