"""Which files the settings name: what is read, under which key, and what belongs together."""

from pathlib import Path
from typing import Any

from rekeyd.reload.files import LARGEST, LARGEST_KEY_FILE
from rekeyd.reload.folder import Contents, Listing
from rekeyd.reload.named import Pair, files_in, files_named_by, folder_named_by, largest, pairs_named_by
from support.generations import settings_of

ETC = Path("/etc")


def test_every_file_has_a_dotted_key_and_its_absolute_path() -> None:
    settings = settings_of(
        service={"verify_https_client_certificate": True},
        tls={
            "ca_cert": "ca.pem",
            "crl": "crl.pem",
            "key_passphrase_file": "p",
            "certificates": [
                {"cert": "a.pem", "key": "a.key"},
                {"cert": "b.pem", "key": "b.key", "key_passphrase_file": "q"},
            ],
        },
        upstream={"http": "https://127.0.0.1:1", "ca_cert": "up.pem"},
        access={
            "policy": "policy.yaml",
            "keys_file": "keys.yaml",
            "pepper_file": "pepper",
            "jwks_file": "issuer.json",
            "jwt_issuer": "https://issuer.test/",
            "jwt_audience": "qdrant.test",
        },
    )

    assert files_named_by(settings) == {
        "tls.cert": ETC / "tls.crt",
        "tls.key": ETC / "tls.key",
        "tls.key_passphrase_file": ETC / "p",
        "tls.certificates[1].cert": ETC / "a.pem",
        "tls.certificates[1].key": ETC / "a.key",
        "tls.certificates[2].cert": ETC / "b.pem",
        "tls.certificates[2].key": ETC / "b.key",
        "tls.certificates[2].key_passphrase_file": ETC / "q",
        "tls.ca_cert": ETC / "ca.pem",
        "tls.crl": ETC / "crl.pem",
        "upstream.ca_cert": ETC / "up.pem",
        "access.jwks_file": ETC / "issuer.json",
        "access.policy": ETC / "policy.yaml",
        "access.keys_file": ETC / "keys.yaml",
        "access.pepper_file": ETC / "pepper",
    }
    assert pairs_named_by(settings, None) == (
        Pair("tls.cert", "tls.key", "tls.key_passphrase_file"),
        Pair("tls.certificates[1].cert", "tls.certificates[1].key", "tls.key_passphrase_file"),
        Pair(
            "tls.certificates[2].cert", "tls.certificates[2].key", "tls.certificates[2].key_passphrase_file"
        ),
    )


def test_what_is_switched_off_is_not_named() -> None:
    off: dict[str, Any] = {"service": {"enable_tls": False}}
    tls = {
        "certificates": [{"cert": "a", "key": "b"}],
        "certificate_dir": "d",
        "key_passphrase_file": "p",
        "ca_cert": "c",
    }

    assert files_named_by(settings_of(tls=tls, **off)) == {}
    assert folder_named_by(settings_of(tls=tls, **off)) is None
    assert pairs_named_by(settings_of(tls=tls, **off), None) == ()
    asked_of_nobody = files_named_by(settings_of(tls={"ca_cert": "ca.pem", "crl": "crl.pem"}))
    assert asked_of_nobody.keys() == {"tls.cert", "tls.key"}
    without_keys = files_named_by(settings_of(access={"pepper_file": "pepper"}, **off))
    assert without_keys == {}


def test_a_key_file_may_be_larger_than_others() -> None:
    assert largest("access.keys_file") == LARGEST_KEY_FILE > largest("tls.cert") == LARGEST


def test_the_pairs_of_a_folder_come_last_and_are_named_by_their_place_in_it() -> None:
    settings = settings_of(tls={"certificate_dir": "/certs"})
    contents = Contents(Path("/certs"), Listing((), {}), (("a/tls.crt", "a/tls.key"),), ())

    assert folder_named_by(settings) == Path("/certs")
    assert files_in(contents) == {
        "tls.certificate_dir[a/tls.crt]": Path("/certs/a/tls.crt"),
        "tls.certificate_dir[a/tls.key]": Path("/certs/a/tls.key"),
    }
    assert [pair.certificate for pair in pairs_named_by(settings, contents)] == [
        "tls.cert",
        "tls.certificate_dir[a/tls.crt]",
    ]


def test_without_a_default_pair_the_first_of_the_list_comes_first() -> None:
    settings = settings_of(tls={"cert": None, "key": None, "certificates": [{"cert": "a", "key": "b"}]})

    assert [pair.certificate for pair in pairs_named_by(settings, None)] == ["tls.certificates[1].cert"]
