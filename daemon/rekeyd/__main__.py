"""`python -m rekeyd`."""

from rekeyd.cli import entry_point

entry_point()
