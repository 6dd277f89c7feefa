"""The first generation, also where the files are in the middle of a change when the daemon starts.

The rules: a mistake in the settings file ends the start at once, for nobody but an operator mends it. What
the settings file names may be torn, mismatched or missing because a renewal was cut short, or isn't mounted
yet. Where a generation from before is kept (`vault.py`) that is served at once, and everything goes on as
after any reload that was refused. Else the files are read again, on every change and twice a second, until
they are good or `tls.start_wait` is over. `rekeyd check` does not wait. Must not know: what is served, or
what an exit status is.
"""

import asyncio

from rekeyd.errors import SettingsError
from rekeyd.reload.disk import Disk
from rekeyd.reload.outcome import Outcome, findings_of
from rekeyd.reload.patience import may_pass
from rekeyd.reload.reloader import START, Reloader
from rekeyd.reload.triggers import Watch
from rekeyd.settings import Parsed


def settings_to_start_with(disk: Disk, *, kept: bool = False) -> Parsed:
    """What the settings file says, even if what it names can't be read for now. Raises `SettingsError`.

    `kept`: a generation from before is there, so that no file but that of the settings itself must be good.
    """
    try:
        disk.load()
    except SettingsError as error:
        if disk.parsed is None or not (kept or may_pass(findings_of(error.problems))):
            raise
    if disk.parsed is None:
        raise RuntimeError("there is a candidate, and no settings that it is made of")
    return disk.parsed


async def first_generation(reloader: Reloader, disk: Disk) -> Outcome:
    """Ask `reloader` for the first generation; without one, in the outcome, time did not mend the files.

    Its `start_wait` says how long they get. Afterwards a reloader that has none asks no more.
    """
    outcome = await reloader.reload(START)
    if outcome.settling and outcome.generation is None:
        watch = asyncio.create_task(Watch(lambda: disk.paths, reloader.reload).run(), name="start-watch")
        try:
            outcome = await reloader.settled()
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
    if outcome.generation is None:
        await reloader.close()
    return outcome
