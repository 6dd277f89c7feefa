"""Text and environment in, settings or every problem out.

Owns: the order of the steps, and how a failed validation is told. Must not know: any key by name.

`parse` reads no file: whether what a path names is there is judged by whoever reads it, with
`Parsed.problem` to say so in the same words.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from rekeyd.errors import Problem, SettingsError
from rekeyd.settings.credentials import NOWHERE, Credential, credentials_folder, secret_of
from rekeyd.settings.fields import sendable
from rekeyd.settings.kinds import UnusableError
from rekeyd.settings.peer_rules import PEER_RULES, PEER_WARNINGS
from rekeyd.settings.rules import RULES, SECRET_WARNINGS, WARNINGS, Rule
from rekeyd.settings.schema import Settings, as_running, describe, restart_needed
from rekeyd.settings.sources import Origin, Sources, nested
from rekeyd.settings.yaml_source import read_yaml


@dataclass(frozen=True, slots=True)
class Parsed:
    """Settings that can be used, and what should be said about them.

    `ignored` are sorted names that belong to Qdrant and are not used: dotted keys (a section alone when it is
    left out whole) and variables of the environment. `warnings` stop nothing. `restart_needed` are the keys
    whose new values wait for a restart (see `under`). `credentials` is the folder of what `credential:NAME`
    names.
    """

    settings: Settings
    ignored: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    restart_needed: tuple[str, ...] = ()
    file: str = ""
    credentials: Path = NOWHERE
    origins: Mapping[str, Origin] = field(default_factory=dict, repr=False)

    def problem(self, key: str, message: str, fix: str) -> Problem:
        """A problem with the value of a key, told with the file and line, or the variable, that set it.

        What follows a bracket says which part of the value is meant: `tls.certificates[2].key`.
        """
        origin = self.origins.get(key.partition("[")[0], Origin(self.file))
        return origin.problem(key, message, fix)


def under(parsed: Parsed, running: Settings) -> Parsed:
    """What these settings come to in a process that was started with `running`.

    What a reload can't change stays as it runs and is named in `restart_needed`. Raises SettingsError where
    the two don't go together: the keys are removed, say, and `service.insecure` waits for a restart.
    """
    waiting = restart_needed(running, parsed.settings)
    mixed = replace(parsed, settings=as_running(parsed.settings, running), restart_needed=waiting)
    if problems := tuple(_check((*RULES, *PEER_RULES), mixed, set())):
        raise SettingsError(problems)
    return mixed


def credentials_of(settings: Settings) -> dict[str, Path]:
    """The files of the secrets that are credentials and were not read, by dotted key."""
    values = (
        (described.key, settings.value(described.key)) for described in describe() if described.kind.secret
    )
    return {key: value.path for key, value in values if isinstance(value, Credential)}


def with_credentials(parsed: Parsed, contents: Mapping[str, bytes]) -> tuple[Parsed, tuple[Problem, ...]]:
    """`parsed` with what is in the files of `credentials_of` in their place, and what is wrong with that.

    A secret that can't be used, or whose bytes are not there, is left out: with problems, or with bytes
    missing, the settings must not be served.
    """
    known: dict[str, SecretStr | None] = {}
    problems: list[Problem] = []
    for key in credentials_of(parsed.settings):
        known[key] = None
        if key in contents:
            try:
                known[key] = SecretStr(sendable(secret_of(contents[key])))
            except UnusableError as error:
                problems.append(replace(parsed.problem(key, error.message, error.fix), rule="credential"))
    if not known:
        return parsed, ()
    read = replace(parsed, settings=parsed.settings.with_values(known))
    told = dict.fromkeys((*parsed.warnings, *_check(SECRET_WARNINGS, read, set())))
    return replace(read, warnings=tuple(told)), tuple(problems)


class UnfitSettingsError(SettingsError):
    """Settings with problems. `parsed` holds what can be used of them, so that the files that those name can
    be looked at too, and every problem told at once; it must not be served."""

    def __init__(self, problems: Sequence[Problem], parsed: Parsed) -> None:
        super().__init__(problems)
        self.parsed = parsed


def parse(source: bytes, *, file: Path, environ: Mapping[str, str], cwd: Path | None = None) -> Parsed:
    """Read settings from the bytes of `file`, overridden by `environ`.

    `cwd` is where relative paths in the environment (and a relative `file`) begin; None is the process's own
    working directory. Raises SettingsError with every problem at once; unless the text is not even YAML it is
    an UnfitSettingsError.
    """
    here = cwd if cwd is not None else Path.cwd()
    sources = Sources(credentials_folder(environ))
    sources.add_file(read_yaml(source, str(file)), file=str(file), folder=(here / file).parent)
    sources.add_environment(environ, cwd=here)
    settings, unfit = _validate(sources)
    parsed = Parsed(
        settings,
        tuple(sorted(sources.ignored)),
        file=str(file),
        credentials=sources.credentials,
        origins=sources.origins,
    )
    doubtful = sources.doubtful | unfit.keys()
    broken = _check((*RULES, *PEER_RULES), parsed, doubtful)
    if problems := [*sources.problems, *chain(*unfit.values()), *broken]:
        raise UnfitSettingsError(problems, parsed)
    return replace(
        parsed, warnings=tuple(_check((*WARNINGS, *SECRET_WARNINGS, *PEER_WARNINGS), parsed, doubtful))
    )


def _check(rules: Iterable[Rule], parsed: Parsed, doubtful: set[str]) -> Iterator[Problem]:
    for rule in rules:
        if doubtful.isdisjoint(rule.keys):
            yield from _placed(rule.check(parsed.settings), parsed)


def _placed(problems: Iterable[Problem], parsed: Parsed) -> Iterator[Problem]:
    return (parsed.problem(problem.key, problem.message, problem.fix) for problem in problems)


def _validate(sources: Sources) -> tuple[Settings, dict[str, list[Problem]]]:
    """The settings, without the keys whose values won't do, and the problems of each of those keys."""
    unfit: dict[str, list[Problem]] = {}
    for detail in _errors(sources.values):
        key = _key_of(detail, sources.values)
        problem = sources.origins[key].problem(key, *_words(key, detail, sources.values[key]))
        if problem not in unfit.setdefault(key, []):  # pydantic tells each member of a union
            unfit[key].append(problem)
    fit = {key: value for key, value in sources.values.items() if key not in unfit}
    return Settings.model_validate(nested(fit)), unfit


def _errors(values: Mapping[str, Any]) -> list[ErrorDetails]:
    try:
        Settings.model_validate(nested(values))
    except ValidationError as error:
        return error.errors(include_url=False, include_input=False)  # the input may be a secret
    return []


def _key_of(detail: ErrorDetails, values: Mapping[str, Any]) -> str:
    """The dotted key within whose value pydantic found an error."""
    place = [str(part) for part in detail["loc"]]
    keys = (".".join(place[:end]) for end in range(1, len(place) + 1))
    return next(key for key in keys if key in values)


def _words(key: str, detail: ErrorDetails, value: Any) -> tuple[str, str]:
    cause = detail.get("ctx", {}).get("error")
    kind = next(described.kind for described in describe() if described.key == key)
    if not isinstance(cause, UnusableError):
        return kind.objection(value)
    index = next((part for part in detail["loc"] if isinstance(part, int)), None)
    return cause.message if index is None else f"entry {index + 1} {cause.message}", cause.fix
