"""Paths in settings: what is a path, and what it is relative to."""

from pathlib import Path

import pytest

from rekeyd.settings import UnusableError
from rekeyd.settings.paths import absolute, absolute_socket, beside, policy_beside, socket_beside

ETC = Path("/etc/rekeyd")


def test_an_absolute_path_is_taken_and_what_is_no_text_is_left_to_others() -> None:
    assert absolute("/a/b") == Path("/a/b")
    assert absolute(Path("/a")) == Path("/a")
    assert absolute(None) is None
    assert absolute(5) == 5


@pytest.mark.parametrize("text", ["", "a/b", "/a\x00b", "/a\n"])
def test_what_no_file_can_be_called_is_turned_down(text: str) -> None:
    with pytest.raises(UnusableError) as caught:
        absolute(text)
    assert caught.value.fix


def test_a_socket_has_a_short_path() -> None:
    assert absolute_socket("/run/s") == Path("/run/s")
    with pytest.raises(UnusableError, match="107 bytes"):
        absolute_socket("/" + "s" * 107)


def test_a_relative_path_begins_at_the_folder() -> None:
    assert beside("a.pem", ETC) == "/etc/rekeyd/a.pem"
    assert beside("/a.pem", ETC) == "/a.pem"
    assert [beside(value, ETC) for value in ("", None, 5)] == ["", None, 5]


def test_of_an_address_only_a_socket_has_a_path() -> None:
    assert socket_beside("unix:s", ETC) == "unix:/etc/rekeyd/s"
    assert socket_beside("UNIX:/s", ETC) == "UNIX:/s"
    assert socket_beside("http://s", ETC) == "http://s"
    assert socket_beside(["unix:s"], ETC) == ["unix:s"]


def test_a_policy_is_a_file_only_with_a_dot_or_a_slash() -> None:
    assert policy_beside("http", ETC) == "http"
    assert policy_beside("http.yaml", ETC) == "/etc/rekeyd/http.yaml"
    assert policy_beside("sub/http", ETC) == "/etc/rekeyd/sub/http"
    assert policy_beside(None, ETC) is None
