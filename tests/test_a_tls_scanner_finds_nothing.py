"""sslyze, an independent scanner, looks at the real process with default settings.

It is a program of its own here (`sslyze` on the PATH, from an environment of its own), because it pins an
older `cryptography` than the daemon may use.
"""

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import StartDaemon
from support.daemon import Daemon
from support.generations import API_KEY
from support.live import live_site
from support.pki import Authority, KeyKind

SCANNER = shutil.which("sslyze")
STRONGER = {"X448", "secp521r1"}
"""What OpenSSL offers beyond the profile. `ssl` of Python 3.11 to 3.14 can't name the groups of a context."""

pytestmark = [
    pytest.mark.skipif(SCANNER is None, reason="sslyze is not installed"),
    pytest.mark.timeout(180),
]


async def scanned(daemon: Daemon, authority: Authority, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Where it finds the daemon outside of Mozilla's "intermediate" profile, and all that it found."""
    result, believed = folder / "scan.json", folder / "believed.pem"
    believed.write_bytes(authority.pem)
    process = await asyncio.create_subprocess_exec(
        str(SCANNER),
        *("--mozilla_config", "intermediate", "--early_data", "--certinfo_ca_file", str(believed)),
        *("--sni", "localhost", "--json_out", str(result), f"127.0.0.1:{daemon.port}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    _, _, judgement = said.partition("COMPLIANCE AGAINST TLS CONFIGURATION")
    assert '"intermediate" configuration' in judgement, said
    issues = re.findall(r"^ +\* (\w+: .*)$", judgement, re.MULTILINE)
    assert issues or process.returncode == 0, judgement
    (target,) = json.loads(result.read_text())["server_scan_results"]
    return issues, target["scan_result"]


@pytest.mark.parametrize("key", ["p256", "rsa2048"])
async def test_nothing_is_below_mozilla_s_intermediate_profile(
    start_daemon: StartDaemon, tmp_path: Path, key: KeyKind
) -> None:
    site = live_site(tmp_path)
    site.rotate(key=key)
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    issues, found = await scanned(daemon, site.authority, tmp_path)
    for issue in issues:
        assert issue.startswith("tls_curves: "), issue
        assert set(re.findall(r"'(\w+)'", issue)) <= STRONGER, issue
    for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
        assert not found[f"{version}_cipher_suites"]["result"]["accepted_cipher_suites"]
    assert not found["tls_1_3_early_data"]["result"]["supports_early_data"]
    assert not found["session_renegotiation"]["result"]["is_vulnerable_to_client_renegotiation_dos"]
    await daemon.event("tls.handshake_failed")
    assert not daemon.told("library.message")
