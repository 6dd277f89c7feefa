"""What a reload may change changes for the next request; what it may not is named and stays."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from rekeyd.system.admin_client import ask
from support.daemon import Daemon
from support.generations import API_KEY, Site
from support.live import Connection, configure, live_site, upstream
from support.secrets import Ledger

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEW_KEY = "another-made-up-key-that-may-do-everything"


class Served:
    """One daemon for all: each story begins by writing the settings that it wants."""

    def __init__(self, daemon: Daemon, site: Site) -> None:
        self.daemon = daemon
        self.site = site

    async def reload(self, **sections: Mapping[str, Any]) -> dict[str, Any]:
        """Write the settings, ask for a reload, and give what came of it."""
        configure(self.site, tls={"watch": False}, **sections)
        status, outcome = await asyncio.to_thread(ask, self.site.folder / "admin.sock", "POST", "/reload")
        assert status == 200
        return outcome


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    site = live_site(tmp_path_factory.mktemp("site"), tls={"watch": False})
    async with Daemon.running(ledger, site.file, secrets=[API_KEY, NEW_KEY]) as daemon:
        yield Served(daemon, site)


async def test_a_key_that_was_replaced_is_refused_from_the_next_request_on(served: Served) -> None:
    await served.reload()
    async with Connection.to(served.daemon, served.site.authority) as client:
        assert (await client.ask(key=API_KEY)).status == 200
        applied = await served.reload(service={"api_key": NEW_KEY})
        assert applied["outcome"] == "applied"
        assert applied["parts"]["keys"] == {"changed": ["api_key"]}
        assert (await client.ask(key=API_KEY)).status == 401
        assert (await client.ask(key=NEW_KEY)).status == 200


async def test_two_keys_overlap_so_that_nobody_is_locked_out(served: Served) -> None:
    since = served.daemon.mark()
    await served.reload(service={"alt_api_key": NEW_KEY})
    async with Connection.to(served.daemon, served.site.authority) as client:
        assert (await client.ask(key=API_KEY)).status == 200
        assert (await client.ask(key=NEW_KEY)).status == 200
        for key_id in ("api_key", "alt_api_key"):
            await served.daemon.event("auth.allowed", since=since, key_id=key_id)


async def test_the_upstream_changes_while_a_connection_stays(served: Served) -> None:
    async def other(_request: web.Request) -> web.Response:
        return web.json_response({"other": True})

    await served.reload()
    async with Connection.to(served.daemon, served.site.authority) as client, upstream(other) as address:
        assert "who" in (await client.ask()).json()
        applied = await served.reload(upstream={"http": address})
        assert applied["parts"]["settings"] == {"changed": ["upstream.http"]}
        assert (await client.ask()).json() == {"other": True}
        await served.reload()
        assert "who" in (await client.ask()).json()


async def test_a_smaller_limit_holds_for_the_next_body(served: Served) -> None:
    await served.reload()
    body = b"x" * (2 << 20)
    async with Connection.to(served.daemon, served.site.authority) as client:
        assert (await client.ask(method="PUT", body=body)).status == 200
    await served.reload(service={"max_request_size_mb": 1})
    async with Connection.to(served.daemon, served.site.authority) as client:
        assert (await client.ask(method="PUT", body=body)).status == 413


async def test_the_policy_and_the_open_paths_change(served: Served) -> None:
    await served.reload()
    async with Connection.to(served.daemon, served.site.authority) as client:
        assert (await client.ask("/open", key=None)).status == 401
        assert (await client.ask("/healthz", key=None)).status == 200
        await served.reload(access={"policy": "http", "public": ["/open"]})
        assert (await client.ask("/open", key=None)).status == 200
        assert (await client.ask("/healthz", key=None)).status == 401


async def test_allowed_decisions_are_left_out_of_the_log_and_come_back(served: Served) -> None:
    await served.reload(logging={"decisions": "denied"})
    since = served.daemon.mark()
    async with Connection.to(served.daemon, served.site.authority) as client:
        assert (await client.ask("/left-out")).status == 200
        assert (await client.ask("/told", key=None)).status == 401
        await served.daemon.event("auth.denied", since=since, path="/told")
        await served.reload()
        assert (await client.ask("/told-again")).status == 200
        await served.daemon.event("auth.allowed", since=since, path="/told-again")
    assert served.daemon.told("auth.allowed", since=since, path="/left-out") == []


async def test_what_needs_a_restart_is_named_and_goes_on_as_it_runs(served: Served) -> None:
    await served.reload()
    reloaded = await served.reload(
        service={"http_port": 1, "enable_tls": False, "drain_timeout": 1, "api_key": NEW_KEY}
    )
    assert set(reloaded["restart_needed"]) == {
        "service.http_port",
        "service.enable_tls",
        "service.drain_timeout",
    }
    assert reloaded["outcome"] == "applied"
    async with Connection.to(served.daemon, served.site.authority) as client:
        assert client.serial == served.site.leaf.serial
        assert (await client.ask(key=NEW_KEY)).status == 200
        assert (await client.ask(key=API_KEY)).status == 401
    assert "restart_needed" not in await served.reload()


async def test_settings_that_are_no_good_change_nothing(served: Served) -> None:
    before = await served.reload()
    refused = await served.reload(service={"api_key": NEW_KEY, "max_request_size_mb": 0})
    assert refused["outcome"] == "refused"
    assert refused["generation"] == before["generation"]
    assert "service.max_request_size_mb" in str(refused["findings"])
    async with Connection.to(served.daemon, served.site.authority) as client:
        assert (await client.ask(key=API_KEY)).status == 200
        assert (await client.ask(key=NEW_KEY)).status == 401


async def test_the_last_key_can_not_be_taken_away_by_a_reload(served: Served) -> None:
    await served.reload()
    refused = await served.reload(service={"api_key": ""})
    assert refused["outcome"] == "refused"
    async with Connection.to(served.daemon, served.site.authority) as client:
        assert (await client.ask(key=None)).status == 401
        assert (await client.ask(key=API_KEY)).status == 200


async def test_an_application_that_can_not_be_had_is_refused_and_the_old_upstream_stays(
    served: Served,
) -> None:
    await served.reload()
    refused = await served.reload(upstream={"http": "app:no_such_module:application"})
    assert refused["outcome"] == "refused"
    (finding,) = [f for f in refused["findings"] if f["severity"] == "refuse"]
    assert (finding["part"], finding["rule"]) == ("settings", "context")
    assert "no_such_module" in finding["message"]
    async with Connection.to(served.daemon, served.site.authority) as client:
        assert "who" in (await client.ask()).json()
