"""Which event loop runs it all: uvloop where there is one, else asyncio's own.

The rule: one place chooses, and `REKEYD_LOOP` (`uvloop` or `asyncio`) may choose otherwise, so that both can
be tested. A loop that was asked for by name and isn't there is a mistake, never replaced in silence.

Must not know: what runs on it.
"""

import asyncio
from collections.abc import Callable, Mapping
from importlib import import_module

from rekeyd.errors import Problem, SettingsError

VARIABLE = "REKEYD_LOOP"
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory(environ: Mapping[str, str]) -> LoopFactory:
    """What makes the loop.

    Raises:
        SettingsError: the variable names no loop, or one that is not installed.
    """
    wanted = environ.get(VARIABLE, "")
    if wanted not in {"", "uvloop", "asyncio"}:
        raise _wrong(f"there is no event loop {wanted!r}", "Set it to uvloop or asyncio, or not at all")
    if wanted == "asyncio":
        return asyncio.new_event_loop
    try:
        made: LoopFactory = import_module("uvloop").new_event_loop
    except ImportError:
        if wanted:
            raise _wrong("uvloop is not installed", "Install it, or unset the variable") from None
        return asyncio.new_event_loop
    return made


def _wrong(message: str, fix: str) -> SettingsError:
    return SettingsError([Problem(VARIABLE, "", message, fix)])
