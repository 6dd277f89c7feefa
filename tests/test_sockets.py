import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

from rekeyd.errors import SettingsError
from rekeyd.system.sockets import (
    NOT_SENT,
    Sockets,
    accepted,
    bind,
    descriptors_handed_over,
    sockets_of,
)
from support.daemon import SOURCE_ROOT


def another(listening: socket.socket) -> int:
    """A descriptor of a socket, for somebody who takes it over."""
    return os.dup(listening.fileno())


def told_by(manager: dict[str, str], count: int) -> str:
    """What a child makes of its environment, that has `count` sockets from descriptor 3 on."""
    program = f"""
        import os
        os.environ.update({manager!r})
        if os.environ.get("LISTEN_PID") == "own":
            os.environ["LISTEN_PID"] = str(os.getpid())
        from rekeyd.system.sockets import descriptors_handed_over
        handed = descriptors_handed_over(os.environ, os.getpid())
        kept = [name for name in os.environ if name.startswith("LISTEN_")]
        print(handed, [os.get_inheritable(number) for _, number in handed], kept)
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        numbers = [os.dup(listening.fileno()) for _ in range(count)]
        for at, number in enumerate(sorted(numbers)):
            assert number >= 3 + at

        def hand_over() -> None:
            for at, number in enumerate(sorted(numbers)):
                os.dup2(number, 3 + at)

        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            preexec_fn=hand_over,
            close_fds=False,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
        )
        for number in numbers:
            os.close(number)
    assert done.stderr == ""
    return done.stdout.strip()


def test_what_the_service_manager_hands_over_has_its_names_and_is_not_handed_on() -> None:
    environ = {"LISTEN_PID": "own", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:grpc"}
    assert told_by(environ, 2) == "[('http', 3), ('grpc', 4)] [False, False] []"


def test_without_names_there_are_none() -> None:
    assert told_by({"LISTEN_PID": "own", "LISTEN_FDS": "1"}, 1) == "[('', 3)] [False] []"


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": "own", "LISTEN_FDS": "-1"}]
)
def test_what_is_meant_for_another_process_is_left_alone(environ: dict[str, str]) -> None:
    assert told_by(environ, 1) == "[] [] []"


def test_a_socket_that_is_handed_over_is_used_whatever_the_settings_name() -> None:
    with bind("127.0.0.1", 0) as other:
        sockets = sockets_of([("rekeyd.socket", another(other))])
        with sockets.listen("http", "192.0.2.1", 1) as listening:
            assert listening.getsockname() == other.getsockname()
            assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == NOT_SENT
            assert sockets.given == {"http": listening}
        with sockets.listen("http", "127.0.0.1", 0) as bound:
            assert bound.getsockname() != other.getsockname()


def test_what_nobody_asks_for_is_named_and_closed() -> None:
    with bind("127.0.0.1", 0) as other:
        sockets = sockets_of([("grpc", number := another(other))])
        assert sockets.left == ["grpc"]
        sockets.close_left()
        assert sockets.left == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_two_of_one_name_are_refused() -> None:
    with (
        bind("127.0.0.1", 0) as one,
        bind("127.0.0.1", 0) as two,
        pytest.raises(SettingsError, match="as 'http' is there twice"),
    ):
        sockets_of([("http", another(one)), ("http", another(two))])


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: socket.socket(socket.AF_UNIX), "is no socket of TCP"),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "is no socket of TCP"),
        (lambda: socket.socket(socket.AF_INET), "does not listen"),
    ],
)
def test_what_is_no_listening_socket_of_tcp_is_refused(
    make: Callable[[], socket.socket], complaint: str
) -> None:
    with make() as other, pytest.raises(SettingsError, match=complaint) as refused:
        sockets_of([("grpc", another(other))])
    assert "grpc" in str(refused.value)


def test_a_file_is_refused() -> None:
    number = os.memfd_create("no socket")
    try:
        with pytest.raises(SettingsError, match="is no socket"):
            sockets_of([("http", number)])
    finally:
        os.close(number)


def test_without_a_service_manager_sockets_are_bound_where_the_settings_say() -> None:
    sockets = Sockets()
    with sockets.listen("http", "127.0.0.1", 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        assert sockets.left == []


def test_nothing_is_handed_over_in_an_environment_without_a_word_of_it() -> None:
    environ = {"PATH": "/bin"}
    assert descriptors_handed_over(environ, os.getpid()) == []
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize("count", ["1000000", "9" * 30])
def test_what_is_told_of_and_not_there_is_named(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rekeyd.system.sockets.FIRST", 900_000)
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}
    with pytest.raises(SettingsError, match=r"LISTEN_FDS.*no descriptor 900000"):
        descriptors_handed_over(environ, os.getpid())


def handed_over(host: str, port: int) -> socket.socket:
    """A socket that somebody else bound, and that was handed over once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, dualstack_ipv6=":" in host)
    sockets_of([("http", os.dup(listening.fileno()))]).close_left()
    return listening


@pytest.mark.parametrize("listens", [bind, handed_over])
@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("::", "::ffff:127.0.0.1")])
def test_a_connection_has_from_the_start_what_is_set_for_all(
    listens: Callable[[str, int], socket.socket], host: str, address: str
) -> None:
    with listens(host, 0) as at:
        at.setblocking(False)
        with pytest.raises(BlockingIOError):
            accepted(at)
        with socket.create_connection(("127.0.0.1", at.getsockname()[1])) as client:
            sock, whose = accepted(at)
            with sock:
                assert whose[:2] == (address, client.getsockname()[1])
                assert (sock.family, sock.type) == (at.family, at.type)
                assert sock.gettimeout() == 0
                assert not sock.get_inheritable()
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == NOT_SENT
