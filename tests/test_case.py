"""What the judge looks at: how certificates are called, and whose place they take."""

from dataclasses import replace

from rekeyd.trust.case import Case, moment
from rekeyd.trust.certificates import Origin
from rekeyd.trust.generation import Finding, Part, Severity
from support.generations import candidate_of, material_of
from support.judging import NOW, generation_of
from support.pki import Authority

CA = Authority()


def test_a_certificate_is_called_by_its_serial_and_among_others_by_its_file_too() -> None:
    one, two = (
        replace(material_of(CA.issue(name, serial=number)), origin=Origin(f"/certs/{name}.pem"))
        for number, name in ((0xA1, "a"), (0xB2, "b"))
    )

    assert Case.of(candidate_of(one), None, NOW).called(one) == "the certificate with serial A1"
    called = Case.of(candidate_of(one, two), None, NOW).called(two)
    assert called == "/certs/b.pem: the certificate with serial B2"


def test_each_certificate_stands_beside_the_one_whose_place_it_takes() -> None:
    old, new, newcomer = CA.issue("a"), CA.issue("a"), CA.issue("b")

    case = Case.of(candidate_of(newcomer, new), generation_of(old), NOW)

    assert list(case.pairs()) == [(material_of(newcomer), None), (material_of(new), material_of(old))]
    assert Case.of(candidate_of(new), None, NOW).predecessors == (None,)


def test_a_part_that_could_not_be_read_is_known() -> None:
    fault = Finding("empty", Severity.REFUSE, Part.CLIENT_CA, "the file is empty")
    case = Case.of(candidate_of(CA.issue(), faults=(fault,)), None, NOW)

    assert case.unread(Part.CLIENT_CA)
    assert not case.unread(Part.SERVER_CERTIFICATE)


def test_a_moment_is_written_in_utc() -> None:
    assert (
        moment(NOW.replace(year=2026, month=1, day=2, hour=3, minute=4, second=5))
        == "2026-01-02 03:04:05 UTC"
    )
