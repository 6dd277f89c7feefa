"""Where a file really is, and the metadata that gives a change away."""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.reload.trail import follow, survey


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def test_a_plain_file_is_its_own_trail(folder: Path) -> None:
    (folder / "file").touch()

    assert list(follow(folder / "file")) == [folder / "file"]
    assert list(survey([folder / "file"]).directories) == [folder]


def test_a_kubernetes_volume_has_a_trail_of_three(folder: Path) -> None:
    volume = folder / "volume"
    (volume / "..2026_01").mkdir(parents=True)
    (volume / "..2026_01" / "tls.crt").touch()
    (volume / "..data").symlink_to("..2026_01")
    (volume / "tls.crt").symlink_to("..data/tls.crt")

    assert list(follow(volume / "tls.crt")) == [
        volume / "tls.crt",
        volume / "..data",
        volume / "..2026_01" / "tls.crt",
    ]
    assert list(survey([volume / "tls.crt"]).directories) == [volume, volume / "..2026_01"]


def test_certbots_links_lead_to_the_archive(folder: Path) -> None:
    for name in ("live/site", "archive/site"):
        (folder / name).mkdir(parents=True)
    (folder / "live/site/fullchain.pem").symlink_to("../../archive/site/fullchain1.pem")

    assert list(follow(folder / "live/site/fullchain.pem"))[-1] == folder / "archive/site/fullchain1.pem"
    assert set(survey([folder / "live/site/fullchain.pem"]).directories) == {
        folder / "live/site",
        folder / "archive/site",
    }


def test_an_absolute_link_in_the_middle_is_a_hop(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "link").symlink_to(folder / "real")

    assert list(follow(folder / "link" / "file")) == [folder / "link", folder / "real" / "file"]


def test_a_circle_ends(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")

    assert len(list(follow(folder / "a"))) == 41
    assert survey([folder / "a"]).files[str(folder / "a")][1] is None


def test_where_a_directory_is_gone_the_nearest_one_above_is_watched(folder: Path) -> None:
    assert list(survey([folder / "a" / "b" / "file"]).directories) == [folder]


def test_the_root_is_above_everything() -> None:
    assert list(survey([Path("/no-such-directory/file")]).directories) == [Path("/")]


def test_nothing_to_look_at_is_no_error() -> None:
    assert survey([]).files == {}


@pytest.mark.parametrize("change", ["write", "replace", "chmod", "remove", "touch back"])
def test_every_change_shows_in_the_signature(folder: Path, change: str) -> None:
    file = folder / "file"
    file.write_bytes(b"before")
    os.utime(file, ns=(1, 1))
    before = survey([file])

    if change == "write":
        file.write_bytes(b"after!")
    elif change == "replace":
        (folder / "next").write_bytes(b"after!")
        (folder / "next").replace(file)
    elif change == "chmod":
        file.chmod(0)
    elif change == "remove":
        file.unlink()
    else:
        file.write_bytes(b"after!")
        os.utime(file, ns=(1, 1))

    assert survey([file]).files != before.files


def test_a_link_that_leads_elsewhere_shows(folder: Path) -> None:
    (folder / "one").touch()
    os.link(folder / "one", folder / "two")
    (folder / "link").symlink_to("one")
    before = survey([folder / "link"])

    (folder / "link").unlink()
    (folder / "link").symlink_to("two")

    assert survey([folder / "link"]).files != before.files


def test_a_recreated_directory_is_another(folder: Path) -> None:
    (folder / "certs").mkdir()
    before = survey([folder / "certs" / "file"]).directories

    shutil.move(folder / "certs", folder / "old")
    (folder / "certs").mkdir()

    after = survey([folder / "certs" / "file"]).directories
    assert after.keys() == before.keys()
    assert after != before


def test_a_file_that_changed_just_now_is_racy(folder: Path) -> None:
    (folder / "file").touch()

    assert survey([folder / "file"]).racy
    assert not survey([Path("/proc/1/no-such-file"), folder / "absent"]).racy


LINKS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a"]),
        st.sampled_from(["a", "b", "d", "../a", "../d/b", "d/e", "./b", "..", "/", "d//e/", "e/../../b"]),
    ),
    max_size=6,
)


@given(LINKS, st.sampled_from(["a", "d/a", "a/b", "d/e/a", "d/e/x", "b/e/a", "a/../b"]))
def test_a_trail_ends_where_the_kernel_says(links: list[tuple[str, str]], path: str) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        (folder / "d" / "e").mkdir(parents=True)
        for link, target in links:
            with contextlib.suppress(FileExistsError):
                (folder / link).symlink_to(target)
        try:
            there = (folder / path).resolve(strict=True)
        except (OSError, RuntimeError):
            return  # the kernel gets nowhere either
        trail = follow(folder / path)

        assert trail[-1] == there
        assert all(hop.is_symlink() for hop in trail[:-1])


def test_a_thousand_pairs_are_looked_at_in_no_time(folder: Path) -> None:
    files = [folder / f"site-{number}.{kind}" for number in range(1000) for kind in ("crt", "key")]
    for file in files:
        file.touch()
    began = time.process_time()

    assert len(survey(files).files) == 2000
    assert time.process_time() - began < 0.2
