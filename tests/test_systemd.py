import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekeyd.system import systemd


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's end of the notification socket."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(path))
        channel.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield channel


def test_assignments_arrive_as_one_datagram(manager: socket.socket) -> None:
    assert systemd.notify(READY=1, STATUS="generation 1") is True
    assert manager.recv(1000) == b"READY=1\nSTATUS=generation 1"


def test_a_line_break_in_a_value_begins_no_assignment(manager: socket.socket) -> None:
    systemd.notify(STATUS="bad\nMAINPID=1\u2028STOPPING=1\0")
    assert manager.recv(1000).decode() == "STATUS=bad MAINPID=1 STOPPING=1 "


def test_a_reload_is_told_with_the_time_that_notify_reload_asks_for(manager: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    systemd.reloading()
    first, second = manager.recv(1000).decode().splitlines()
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    systemd.ready("generation 2")
    systemd.stopping("draining")
    assert manager.recv(1000) == b"READY=1\nSTATUS=generation 2"
    assert manager.recv(1000) == b"STOPPING=1\nSTATUS=draining"


def test_signs_of_life_and_of_patience_are_told_in_the_words_of_the_protocol(manager: socket.socket) -> None:
    assert systemd.alive()
    assert systemd.extend(1.5)
    assert manager.recv(1000) == b"WATCHDOG=1"
    assert manager.recv(1000) == b"EXTEND_TIMEOUT_USEC=1500000"


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"rekeyd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0{name}")
        channel.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert systemd.notify(READY=1)
        assert channel.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    "address", ["", "/no/such/socket", "@nobody-listens-here", "vsock:2:1", "/" + "x" * 300]
)
def test_without_a_service_manager_nothing_is_done_and_nothing_raised(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert systemd.notify(READY=1) is False
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert systemd.notify(READY=1) is False


def test_a_descriptor_is_given_to_be_kept_by_name_and_taken_back(manager: socket.socket) -> None:
    reading, writing = os.pipe()
    assert systemd.store("generation-1", writing)
    os.close(writing)
    message, [copy], _, _ = socket.recv_fds(manager, 1000, 4)
    assert message == b"FDSTORE=1\nFDNAME=generation-1"
    os.write(copy, b"the same pipe")
    assert os.read(reading, 100) == b"the same pipe"
    os.close(copy)
    os.close(reading)
    assert systemd.forget("generation-1")
    assert manager.recv(1000) == b"FDSTOREREMOVE=1\nFDNAME=generation-1"


def test_a_service_manager_that_does_not_listen_is_not_waited_for_long(manager: socket.socket) -> None:
    before = time.monotonic()
    while systemd.notify(STATUS="x" * 1000):
        assert time.monotonic() - before < 30
    assert time.monotonic() - before < systemd.PATIENCE + 5
