"""The settings as a whole: all sections in one value, and what follows from how they are declared.

Owns: `Settings`, the list of all keys, and in what two settings differ. Must not know: any key by name
(`sections`), or where values come from (YAML, environment).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic.fields import FieldInfo

from rekeyd.settings.judgement import Judge
from rekeyd.settings.kinds import Kind
from rekeyd.settings.section import Section
from rekeyd.settings.sections import (
    Access,
    Admin,
    Cluster,
    Connections,
    Logging,
    Metrics,
    Service,
    State,
    Tls,
    Upstream,
)

_S = TypeVar("_S", bound=Section)


class Settings(Section):
    """Everything that is configured, valid as a whole. Secrets are `SecretStr`, paths are absolute."""

    service: Service = Service()
    tls: Tls = Tls()
    judge: Judge = Judge()
    connections: Connections = Connections()
    upstream: Upstream = Upstream()
    access: Access = Access()
    admin: Admin = Admin()
    state: State = State()
    metrics: Metrics = Metrics()
    logging: Logging = Logging()
    cluster: Cluster = Cluster()

    def value(self, key: str) -> Any:
        """The value of a dotted key."""
        found: Any = self
        for name in key.split("."):
            found = getattr(found, name)
        return found

    def with_values(self, values: Mapping[str, Any]) -> "Settings":
        """A copy with other values, sound ones, for these dotted keys of sections without sections."""
        changed: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            section, _, name = key.rpartition(".")
            changed.setdefault(section, {})[name] = value
        copies = {name: getattr(self, name).model_copy(update=update) for name, update in changed.items()}
        return self.model_copy(update=copies)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is declared of one key; `key` is dotted."""

    key: str
    default: Any
    meaning: str
    kind: Kind
    reloadable: bool
    qdrant: bool


@cache
def describe() -> tuple[Setting, ...]:
    """Every key, in the order of its declaration."""
    return tuple(_settings_of(Settings, ""))


@cache
def sections() -> frozenset[str]:
    """The dotted names of all sections."""
    keys = [described.key for described in describe()]
    return frozenset(key[:end] for key in keys for end, mark in enumerate(key) if mark == ".")


def restart_needed(old: Settings, new: Settings) -> tuple[str, ...]:
    """The dotted keys that differ and that a reload can't change."""
    fixed = (described.key for described in describe() if not described.reloadable)
    return tuple(key for key in fixed if old.value(key) != new.value(key))


def as_running(wanted: Settings, running: Settings) -> Settings:
    """`wanted`, but with the values of `running` where a reload can't change them."""
    return _mixed(wanted, running, "")


def _mixed(wanted: _S, running: _S, prefix: str) -> _S:
    reloadable = {described.key for described in describe() if described.reloadable}
    fixed = {
        name: _mixed(value, getattr(running, name), f"{prefix}{name}.")
        if isinstance(value, Section)
        else getattr(running, name)
        for name, value in wanted
        if f"{prefix}{name}" not in reloadable
    }
    return wanted.model_copy(update=fixed)


def _settings_of(section: type[Section], prefix: str) -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _settings_of(field.annotation, f"{prefix}{name}.")
        else:
            yield _setting_of(f"{prefix}{name}", field)


def _setting_of(key: str, field: FieldInfo) -> Setting:
    marks = field.json_schema_extra
    if not isinstance(marks, dict):
        raise TypeError(f"{key} is not declared with setting()")
    return Setting(
        key=key,
        default=field.default,
        meaning=field.description or "",
        kind=next(extra for extra in field.metadata if isinstance(extra, Kind)),
        reloadable=bool(marks["reloadable"]),
        qdrant=bool(marks["qdrant"]),
    )
