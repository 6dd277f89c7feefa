"""Commands that are run to their end."""

import asyncio
import ctypes
import os
from collections.abc import Mapping


async def ran(*command: str, environ: Mapping[str, str] | None = None) -> bytes:
    """What a command writes on its standard output; AssertionError unless it ends with 0 within 50 s."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environ or {})},
    )
    out, err = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode == 0, err.decode(errors="replace")
    return out


def kernel_has_landlock() -> bool:
    """With all that is asked of it here (ABI 3: truncating)."""
    version = ctypes.CDLL(None).syscall(444, None, ctypes.c_long(0), ctypes.c_long(1))
    return bool(version >= 3)
