"""Keys that root alone may read reach the service as credentials."""

import os

from support.machine import Machine
from support.secrets import Ledger
from support.service import FOLDER, Service

READER = "a-made-up-key-that-may-read"
MANAGER = "a-made-up-key-that-came-as-a-credential"
DROP_IN = f"""
[Service]
LoadCredential=manager:{FOLDER}/manager
LoadCredentialEncrypted=reader:{FOLDER}/reader.encrypted
"""


async def test_keys_may_be_credentials_in_plaintext_and_encrypted(
    service: Service, machine: Machine, ledger: Ledger
) -> None:
    for name, secret in (("manager", MANAGER), ("reader", READER)):
        ledger.add(secret, "a credential")
        descriptor = os.open(machine.path(f"{FOLDER}/{name}"), os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secret}\n")
    encrypt = ("systemd-creds", "encrypt", "--with-key=host", "--name=reader")
    await machine.ran(*encrypt, f"{FOLDER}/reader", f"{FOLDER}/reader.encrypted")
    machine.path(f"{FOLDER}/reader").unlink()
    service.site.configure(
        service={"api_key": "credential:manager", "read_only_api_key": "credential:reader"}
    )
    await service.drop_in("credentials.conf", DROP_IN)
    await service.systemctl("start")

    async with service.connection() as client:
        assert (await client.ask(key=MANAGER, method="PUT", target="/collections/x")).status == 200
        assert (await client.ask(key=READER)).status == 200
        assert (await client.ask(key=READER, method="PUT", target="/collections/x")).status == 403
        assert (await client.ask(key="a-guess-of-somebody")).status == 401

    await service.systemctl("reload")
