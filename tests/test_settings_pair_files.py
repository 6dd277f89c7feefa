"""Entries of `tls.certificates`: both files, perhaps a third, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from rekeyd.settings import PairFiles, UnusableError
from rekeyd.settings.pair_files import pair_files, pairs_beside


def test_an_entry_names_two_files_and_perhaps_a_third() -> None:
    assert pair_files({"cert": "/a", "key": "/b"}) == PairFiles(Path("/a"), Path("/b"))
    whole = pair_files({"cert": "/a", "key": "/b", "key_passphrase_file": "/c"})
    assert whole == PairFiles(Path("/a"), Path("/b"), Path("/c"))
    assert pair_files({"cert": "/a", "key": "/b", "key_passphrase_file": None}).key_passphrase_file is None
    assert pair_files(whole) is whole


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "/a",
        [],
        {},
        {"cert": "/a"},
        {"key": "/b"},
        {"cert": "/a", "key": None},
        {"cert": "/a", "key": 5},
        {"cert": "/a", "key": "b"},
        {"cert": "/a", "key": ""},
        {"cert": "/a", "key": "/b", "ca": "/c"},
        {"cert": "/a", "key": ["/b"]},
    ],
)
def test_anything_else_is_turned_down_with_a_remedy(entry: Any) -> None:
    with pytest.raises(UnusableError) as caught:
        pair_files(entry)
    assert caught.value.fix


def test_relative_paths_begin_at_the_folder_and_nonsense_is_left_alone() -> None:
    assert pairs_beside([{"cert": "a", "key": "/b"}, 5, "x"], Path("/etc")) == [
        {"cert": "/etc/a", "key": "/b"},
        5,
        "x",
    ]
    assert pairs_beside("x", Path("/etc")) == "x"
