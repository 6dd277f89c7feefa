"""`tls.certificate_dir`: what is a pair, what is half of one, and what is neither."""

from pathlib import Path

import pytest

from rekeyd.reload.files import UnreadableError
from rekeyd.reload.folder import Contents, Listing, contents_of, sorted_out

FOLDER = Path("/certs")


def found(*files: str, **folders: tuple[str, ...]) -> Contents:
    return sorted_out(FOLDER, Listing(tuple(sorted(files)), folders))


def halves(contents: Contents) -> list[str]:
    assert all(half.message and half.fix for half in contents.halves)
    return [half.name for half in contents.halves]


@pytest.mark.parametrize("ending", ["crt", "pem", "cert"])
def test_a_certificate_and_a_key_of_one_name_are_a_pair(ending: str) -> None:
    contents = found(f"a.example.org.{ending}", "a.example.org.key")

    assert contents.pairs == ((f"a.example.org.{ending}", "a.example.org.key"),)
    assert contents.halves == ()


@pytest.mark.parametrize("names", [("tls.crt", "tls.key"), ("fullchain.pem", "privkey.pem")])
def test_a_folder_within_holds_one_pair_and_other_files_mean_nothing(names: tuple[str, str]) -> None:
    contents = found(a=(*names, "ca.crt", "cert.pem", "chain.pem", "README"))

    assert contents.pairs == ((f"a/{names[0]}", f"a/{names[1]}"),)
    assert contents.halves == ()


def test_a_folder_within_without_such_files_means_nothing() -> None:
    assert found(archive=("x.crt", "notes.txt"), empty=()).pairs == ()
    assert found(archive=("x.crt", "notes.txt"), empty=()).halves == ()


def test_pairs_come_in_the_order_of_their_names() -> None:
    contents = found("b.crt", "b.key", "d.pem", "d.key", a=("tls.crt", "tls.key"), c=("tls.crt", "tls.key"))

    assert [certificate for certificate, _ in contents.pairs] == ["a/tls.crt", "b.crt", "c/tls.crt", "d.pem"]


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (("a.crt",), "a.key"),
        (("a.pem", "b.crt", "b.key"), "a.key"),
        (("a.key",), "a.crt"),
        (("tls.crt", "other.txt"), "tls.key"),
    ],
)
def test_half_a_pair_is_told_with_what_is_missing(files: tuple[str, ...], missing: str) -> None:
    [half] = found(*files).halves

    assert half.name == files[0]
    assert missing in half.message


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "fullchain.pem", "privkey.pem"])
def test_half_a_pair_in_a_folder_within_is_told(name: str) -> None:
    assert halves(found(a=(name,))) == [f"a/{name}"]


def test_two_certificates_for_one_key_are_told_and_the_first_kind_is_taken() -> None:
    contents = found("a.pem", "a.crt", "a.key")

    assert contents.pairs == (("a.crt", "a.key"),)
    assert halves(contents) == ["a.pem"]


def test_an_authority_beside_the_pairs_is_passed_over() -> None:
    """As cert-manager and Kubernetes secrets have it."""
    assert found("ca.crt", "tls.crt", "tls.key").halves == ()
    assert found("ca.crt", "ca.key").pairs == (("ca.crt", "ca.key"),)


def test_other_files_mean_nothing() -> None:
    contents = found("README", "a.csr", "dhparam.txt", "a.crt.bak")

    assert (contents.pairs, contents.halves) == ((), ())


def test_a_folder_is_listed_through_links_and_without_what_is_hidden(tmp_path: Path) -> None:
    """As Kubernetes mounts a secret: files are links into `..data`, which is a link to a dated folder."""
    dated = tmp_path / "..2026_11_23"
    dated.mkdir()
    (dated / "tls.crt").touch()
    (dated / "tls.key").touch()
    (tmp_path / "..data").symlink_to(dated.name)
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "live").mkdir(parents=True)
    (elsewhere / "live" / "fullchain.pem").touch()
    (elsewhere / "live" / "privkey.pem").touch()
    (tmp_path / "site").symlink_to("elsewhere/live")
    (tmp_path / ".hidden.crt").touch()

    contents = contents_of(tmp_path)

    assert contents.pairs == (("site/fullchain.pem", "site/privkey.pem"), ("tls.crt", "tls.key"))
    assert contents.folders == (tmp_path, tmp_path / "elsewhere", tmp_path / "site")
    assert contents.halves == ()


def test_a_folder_that_is_not_there_or_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="does not exist"):
        contents_of(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(UnreadableError, match="is a file"):
        contents_of(tmp_path / "file")
