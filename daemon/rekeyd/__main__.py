"""The `rekeyd` command, and `python -m rekeyd`."""

import signal


def run() -> None:
    """Take no harm from a reload signal that comes early, then do what was asked."""
    # By default a SIGHUP ends the process, and importing the rest takes half a second.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from rekeyd.cli import entry_point  # noqa: PLC0415 - after the signal

    entry_point()


if __name__ == "__main__":
    run()
