"""Commands that are run to their end, as whom, and on what kernel."""

import asyncio
import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

NOBODY = 65534


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


@contextmanager
def as_nobody() -> Iterator[int]:
    """The effective user that can't read what is root's; without root it is who runs the tests."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield os.geteuid()
    finally:
        os.seteuid(before)
