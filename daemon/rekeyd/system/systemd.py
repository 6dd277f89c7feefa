"""Tells the service manager how we are: the protocol of sd_notify(3), without a library.

The rules: without `NOTIFY_SOCKET` nothing is done; telling never raises, and never waits longer than
`PATIENCE`; a value can't begin an assignment of its own, so a line break in it becomes a space.

Must not know: what a generation or a listener is.
"""

import os
import socket
import time
from array import array
from collections.abc import Mapping, Sequence

PATIENCE = 0.5
"""Seconds to wait for a service manager whose queue is full; READY=1 must not get lost for nothing."""


def notify(**assignments: str | int) -> bool:
    """Send `assignments`, as `notify(READY=1, STATUS="…")`. Whether the service manager has been told."""
    return _send(assignments, [])


def ready(status: str) -> bool:
    """Serving, for the first time or after `reloading`."""
    return notify(READY=1, STATUS=status)


def reloading() -> bool:
    """A reload has begun; `ready` ends it. The time is what `Type=notify-reload` asks for (systemd 253)."""
    return notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)


def stopping(status: str) -> bool:
    return notify(STOPPING=1, STATUS=status)


def extend(seconds: float) -> bool:
    """Starting or stopping may take so long from now on, whatever the unit's timeout is; never less."""
    return notify(EXTEND_TIMEOUT_USEC=int(seconds * 1e6))


def alive() -> bool:
    """The sign of life that the watchdog waits for."""
    return notify(WATCHDOG=1)


def store(name: str, descriptor: int) -> bool:
    """Have the service manager keep a copy of `descriptor` and hand it to whoever we are after a restart.

    `name` is told then (`LISTEN_FDNAMES`); no colon may be in it. Whether it was told; whether it had room
    (`FileDescriptorStoreMax=`) is not known.
    """
    return _send({"FDSTORE": 1, "FDNAME": name}, [descriptor])


def forget(name: str) -> bool:
    """Have the service manager close all that it keeps under `name`."""
    return _send({"FDSTOREREMOVE": 1, "FDNAME": name}, [])


def _send(assignments: Mapping[str, str | int], descriptors: Sequence[int]) -> bool:
    address = _address(os.environ.get("NOTIFY_SOCKET", ""))
    if address is None or not assignments:
        return False
    message = "\n".join(f"{name}={_one_line(value)}" for name, value in assignments.items())
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(PATIENCE)
            channel.sendmsg([message.encode("utf-8", "backslashreplace")], rights, 0, address)
    except (OSError, ValueError):
        return False
    return True


def _address(name: str) -> str | bytes | None:
    if name.startswith("@"):
        return b"\0" + os.fsencode(name[1:])  # the abstract namespace of unix(7)
    return name if name.startswith("/") else None


def _one_line(value: str | int) -> str:
    return " ".join(str(value).splitlines()).replace("\0", " ")
