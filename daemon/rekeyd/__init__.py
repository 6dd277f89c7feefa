"""rekeyd: TLS, API keys and a record of every decision, changed while traffic flows."""

from importlib.metadata import version

__version__ = version("rekeyd")
