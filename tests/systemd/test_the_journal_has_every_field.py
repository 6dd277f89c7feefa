"""What the service logs are entries of the journal, and can be asked for by what is in them."""

import json

from support.generations import API_KEY
from support.pki import write_torn
from support.service import Service

READER = "a-made-up-key-that-only-reads"
REFUSED = "7eb9fc86ebb74795a81c1042e6db6fdb"
"""README, "Logs"."""


async def test_a_denial_is_found_by_its_event_and_by_whose_key_it_was(service: Service) -> None:
    service.site.configure(service={"read_only_api_key": READER})
    await service.systemctl("start")
    async with service.connection() as client:
        assert (await client.ask(key=READER)).status == 200
        assert (await client.ask("/collections/x", method="DELETE", key=READER)).status == 403
        assert (await client.ask("/collections/x", method="DELETE", key=API_KEY)).status == 200

    (denied,) = await service.asked_for("EVENT=auth.denied", "REKEYD_KEY_ID=read_only_api_key")

    assert denied["GENERATION"] == "1"
    assert denied["REKEYD_METHOD"] == "DELETE"
    assert denied["REKEYD_PATH"] == "/collections/x"
    assert denied["REKEYD_STATUS"] == "403"
    assert denied["PRIORITY"] == "4"
    assert denied["SYSLOG_IDENTIFIER"] == "rekeyd"
    assert denied["_PID"] == str(service.pid)


async def test_a_refused_reload_is_found_by_its_message_id(service: Service) -> None:
    await service.systemctl("start")
    write_torn(service.site.cert, service.site.leaf.chain_pem)
    await service.systemctl("reload", check=False)

    (refused,) = await service.asked_for(f"MESSAGE_ID={REFUSED}")

    assert refused["EVENT"] == "reload.refused"
    assert "truncated_pem" in refused["REKEYD_FINDINGS"]


async def test_by_setting_it_is_lines_of_json_on_standard_output(service: Service) -> None:
    service.site.configure(logging={"format": "json"})
    await service.systemctl("start")
    await service.event("daemon.started")

    lines = [json.loads(line) for line in service.told().splitlines() if line.startswith("{")]

    assert "daemon.started" in {line["event"] for line in lines}
    assert not service.entries("EVENT=daemon.started")
