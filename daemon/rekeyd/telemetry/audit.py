"""The audit: decisions in a file of their own (`logging.audit`).

The rules: nothing in it is dispensable, and what can't be written for a while is kept as far as memory goes
(`sink.py`); it may be rotated away (`destinations.py`). Not to be able to write it at start is a mistake of
the operator's, later on it hinders nobody. It is not brought to the disk line by line: when the machine dies,
what the kernel still held is gone.

Must not know: what a decision is.
"""

from rekeyd.errors import SettingsError
from rekeyd.settings import Parsed
from rekeyd.telemetry.destinations import RotatedFile, reason_against
from rekeyd.telemetry.sink import MIB, Sink


def open_audit(parsed: Parsed, *, shared: bool = False) -> Sink | None:
    """The audit that the settings ask for; None where they don't. Raises SettingsError.

    `shared`: other processes write to it as well.
    """
    logging = parsed.settings.logging
    if logging.audit is None:
        return None
    try:
        destination = RotatedFile(logging.audit, shared=shared)
    except OSError as error:
        raise _unusable(parsed, error) from error
    return Sink(destination, capacity=logging.buffer_mb * MIB, keeps=True)


def check_audit(parsed: Parsed) -> None:
    """Whether `open_audit` would do. Makes no file. Raises SettingsError."""
    path = parsed.settings.logging.audit
    error = reason_against(path) if path is not None else None
    if error is not None:
        raise _unusable(parsed, error)


def _unusable(parsed: Parsed, error: OSError) -> SettingsError:
    message = f"{parsed.settings.logging.audit} can't be written ({error.strerror})"
    fix = "Name a file, not a link to one, in a folder that is there and in which rekeyd may write"
    return SettingsError([parsed.problem("logging.audit", message, fix)])
