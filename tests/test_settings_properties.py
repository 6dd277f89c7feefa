"""Whatever an operator writes, `parse` gives settings or problems, and never says a secret."""

import contextlib
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rekeyd.errors import SettingsError
from rekeyd.settings import describe, parse
from rekeyd.settings.qdrant import IGNORED

# How long a loaded machine takes to make examples says nothing about the settings.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SECRET = "sw0rdfish-sw0rdfish"
KEYS = sorted({described.key for described in describe()} | IGNORED)
WORDS = sorted({word for key in KEYS for word in key.split(".")})

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5)
    | st.dates()
    | st.just(SECRET)
    | st.text(max_size=3).map(lambda text: SECRET + text)
    | st.sampled_from(
        ["unix:x", "demo", "http://h", "http://u:" + SECRET + "@h", "qdrant", "10.0.0.0/8", "/x"]
    )
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | scalars, inner, max_size=3)
    ),
    max_leaves=5,
)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, name = key.split(".")
        section = tree
        for part in path:
            section = section.setdefault(part, {})
        section[name] = value
    return tree


def told(source: bytes, environ: dict[str, str] | None = None) -> str:
    try:
        parsed = parse(source, file=Path("f.yaml"), environ=environ or {}, cwd=Path("/"))
    except SettingsError as error:
        return str(error) + repr(error)
    return "\n".join([*parsed.ignored, *map(str, parsed.warnings), repr(parsed.warnings)])


@unhurried
@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=6))
def test_any_value_of_any_key_is_taken_or_told_and_not_repeated(flat: dict[str, Any]) -> None:
    with contextlib.suppress(yaml.YAMLError):  # a few structures can't be written
        assert SECRET not in told(yaml.dump(nested(flat), allow_unicode=True).encode(errors="surrogatepass"))


@unhurried
@given(values)
def test_any_structure_is_taken_or_told(structure: Any) -> None:
    with contextlib.suppress(yaml.YAMLError):
        assert told(yaml.dump(structure).encode()) is not None


@unhurried
@given(st.binary() | st.text(alphabet="ab:-[]{}&*!|>'\"%@`#? \n\t,0.~").map(str.encode))
def test_any_bytes_are_taken_or_told(source: bytes) -> None:
    assert told(source) is not None


@unhurried
@given(
    st.dictionaries(
        st.sampled_from(KEYS).map(lambda key: "REKEYD__" + key.replace(".", "__").upper())
        | st.text(max_size=12).map("QDRANT__{}".format),
        st.text(max_size=12) | st.text(max_size=4).map(lambda text: text + SECRET),
        max_size=4,
    )
)
def test_any_environment_is_taken_or_told_and_not_repeated(environ: dict[str, str]) -> None:
    assert SECRET not in told(b"upstream: {http: demo}\nservice: {insecure: true}", environ)
