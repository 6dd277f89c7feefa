"""Listening sockets: those that the service manager holds for us, and those that we bind ourselves.

The rules: a socket is known by its name (`http`, `grpc`, `p2p`, as `FileDescriptorName=` of a socket unit
has it); one that was handed over is used whatever address the settings name, for whoever wrote the unit meant
it; it must listen for streams of TCP, and there is one for each name. What was handed over stays open in the
service manager, so that nobody is turned away while we restart. What is set on each holds for the connections
that it accepts: the kernel holds `NOT_SENT` bytes for a client, no more, sends what there is at once, and
looks after a client that has long been silent.

The protocol is that of sd_listen_fds(3). Must not know: what is served.
"""

import contextlib
import os
import socket
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from rekeyd.errors import Problem, SettingsError

FIRST = 3
"""The first descriptor that is handed over (sd_listen_fds(3), SD_LISTEN_FDS_START)."""
NOT_SENT = 128 * 1024
"""Bytes that the kernel may hold unsent for one client. Without a bound it takes megabytes at a time, and a
slow client that reads all the while would seem to take nothing for minutes."""
_BACKLOG = 4096
_UNNAMED = frozenset({"", "unknown"})
"""What is told where a unit gives no name; else a unit's own name ends in `.socket`."""
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def descriptors_handed_over(environ: MutableMapping[str, str], pid: int) -> list[tuple[str, int]]:
    """Name and number of each descriptor from the service manager, in its order.

    They are not passed on to children, nor is the word of them: it is taken out of `environ`. Raises
    SettingsError where one isn't there.
    """
    told = {name: environ.pop(name, "") for name in _VARIABLES}
    if told["LISTEN_PID"] != str(pid) or not told["LISTEN_FDS"].isdecimal():
        return []
    count = int(told["LISTEN_FDS"])
    names = told["LISTEN_FDNAMES"].split(":") if told["LISTEN_FDNAMES"] else []
    numbers = range(FIRST, FIRST + count)
    for number in numbers:
        _keep_from_children(number, count)
    return list(zip([*names, *[""] * count][:count], numbers, strict=True))


def _keep_from_children(number: int, count: int) -> None:
    try:
        os.set_inheritable(number, False)
    except OSError:
        what = f"says that {count} descriptors are handed over, and there is no descriptor {number}"
        fix = "Leave it to the service manager (see sd_listen_fds(3)), or unset it"
        raise SettingsError([Problem("the environment", "LISTEN_FDS", what, fix)]) from None


@dataclass(slots=True)
class Sockets:
    """Where listeners get their sockets from. `handed` are those from the service manager, by name."""

    handed: dict[str, socket.socket] = field(default_factory=dict)
    given: dict[str, socket.socket] = field(default_factory=dict)
    """All that a listener has asked for, by its name."""

    def listen(self, name: str, host: str, port: int) -> socket.socket:
        """The socket of a listener: the one that was handed over, else one that is bound to `host`.

        Raises:
            OSError: the address can't be had.
        """
        listening = self.handed.pop(name, None) or bind(host, port)
        self.given[name] = listening
        return listening

    @property
    def left(self) -> list[str]:
        """Names for which nobody has asked."""
        return list(self.handed)

    def close_left(self) -> None:
        """Nobody will ask for what is left: whoever connects there would wait in vain."""
        for listening in self.handed.values():
            listening.close()
        self.handed.clear()


def sockets_of(descriptors: Iterable[tuple[str, int]]) -> Sockets:
    """Take over listening sockets, each with its name. Raises SettingsError for what is none of TCP."""
    handed: dict[str, socket.socket] = {}
    with contextlib.ExitStack() as undo:
        for told, number in descriptors:
            name = "http" if told in _UNNAMED or told.endswith(".socket") else told
            if name in handed:
                raise _unfit(name, "is there twice", "Write one ListenStream= for each name")
            handed[name] = undo.enter_context(_socket_at(number, name))
            _check_that_it_listens(handed[name], name)
            _set_for_connections(handed[name])
        undo.pop_all()
    return Sockets(handed)


def _socket_at(number: int, name: str) -> socket.socket:
    try:
        return socket.socket(fileno=number)
    except OSError:
        raise _unfit(name, "is no socket") from None


def _check_that_it_listens(listening: socket.socket, name: str) -> None:
    if listening.family not in {socket.AF_INET, socket.AF_INET6} or listening.type != socket.SOCK_STREAM:
        raise _unfit(name, "is no socket of TCP")
    if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise _unfit(name, "does not listen")


def _unfit(name: str, what: str, fix: str = "Write `ListenStream=PORT` and `Accept=no`") -> SettingsError:
    return SettingsError([Problem("the socket unit", "", f"what it hands over as {name!r} {what}", fix)])


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket; an IPv6 host takes IPv4 as well where it is the wildcard.

    Raises:
        OSError: the address can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    wildcard = host == "::"
    listening = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=wildcard)
    _set_for_connections(listening)
    return listening


def accepted(listening: socket.socket) -> tuple[socket.socket, Any]:
    """The next connection, non-blocking, and whose it is.

    Raises:
        OSError: there is none, or it can't be had.
    """
    sock, address = listening.accept()
    sock.setblocking(False)
    return sock, address


def _set_for_connections(listening: socket.socket) -> None:
    """Each that is accepted has it from the start, which spares three calls for each."""
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with contextlib.suppress(OSError):  # a kernel without it goes without
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)
