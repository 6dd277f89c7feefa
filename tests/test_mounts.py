"""mountinfo: what is mounted where, and what of it can't change."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.reload.mounts import Mount, mount_of, mounts_in

TEXT = """\
27 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 27 0:21 / /proc rw,nosuid - proc proc rw
40 27 0:35 / /srv/with\\040space rw shared:2 master:1 - nfs4 files:/export rw
41 27 8:1 /var/certs/tls.crt /etc/tls/tls.crt ro - ext4 /dev/sda1 rw
42 27 8:1 /var/certs/tls.key//deleted /etc/tls/tls.key ro - ext4 /dev/sda1 rw
43 27 0:50 /..2026_01_02_03_04_05.678/site /etc/site ro - tmpfs tmpfs rw
44 27 0:51 / /etc/volume ro - tmpfs tmpfs rw
45 27 0:52 / /mnt/ssh rw - fuse.sshfs me@there:/ rw
46 27 0:53 / /mnt/block rw - fuseblk /dev/sdb1 rw
"""
MOUNTS = mounts_in(TEXT)


def on(path: str) -> Mount:
    mount = mount_of(Path(path), MOUNTS)
    assert mount is not None
    return mount


def test_every_line_is_a_mount() -> None:
    assert len(MOUNTS) == len(TEXT.splitlines())
    assert MOUNTS[0] == Mount(Path("/"), "/", "ext4")


def test_octal_escapes_are_undone() -> None:
    assert on("/srv/with space/tls.crt") == Mount(Path("/srv/with space"), "/", "nfs4")


def test_the_deepest_mount_holds_a_path() -> None:
    assert on("/etc/volume/tls.crt").point == Path("/etc/volume")
    assert on("/etc/volumes/tls.crt").point == Path("/")


def test_the_latest_of_those_at_one_point_covers_the_others() -> None:
    again = (*MOUNTS, Mount(Path("/etc/volume"), "/", "ext4"))

    found = mount_of(Path("/etc/volume/tls.crt"), again)

    assert found is not None
    assert found.kind == "ext4"


def test_a_file_may_be_a_mount_point() -> None:
    assert on("/etc/tls/tls.crt").root == "/var/certs/tls.crt"


def test_what_was_replaced_where_it_came_from_shows() -> None:
    assert on("/etc/tls/tls.key").is_deleted
    assert not on("/etc/tls/tls.crt").is_deleted


def test_a_dated_folder_of_a_volume_is_told_from_the_volume() -> None:
    assert on("/etc/site/tls.crt").is_dated
    assert not on("/etc/volume/tls.crt").is_dated


@pytest.mark.parametrize(
    ("path", "lacks"),
    [("/srv/with space/a", True), ("/mnt/ssh/a", True), ("/mnt/block/a", False), ("/a", False)],
)
def test_file_systems_without_events_are_known(path: str, lacks: bool) -> None:
    assert on(path).may_lack_events is lacks


def test_lines_that_can_not_be_read_are_left_out() -> None:
    assert mounts_in("\nnonsense\n1 2 3 4 5 - x\n1 2 0:3 / - ext4\n") == ()
    assert mount_of(Path("/a"), ()) is None


def test_this_machines_own_mounts_can_be_read() -> None:
    mounts = mounts_in(Path("/proc/self/mountinfo").read_text())

    found = mount_of(Path("/proc/self/mountinfo"), mounts)
    assert found is not None
    assert found.kind == "proc"


@given(st.text())
def test_no_text_is_an_error(text: str) -> None:
    assert all(mount.kind for mount in mounts_in(text))
