"""One port for several protocols: which one is spoken is known when the handshake is done.

The rule: what the client and we agreed on by ALPN (RFC 7301) chooses; without it HTTP/1.1 is spoken (RFC
9112, 9). Must not know: any protocol.
"""

import asyncio
from collections.abc import Callable

from rekeyd.reload.current import Serving

Factory = Callable[[Serving], asyncio.Protocol]


class Chooser(asyncio.Protocol):
    """Stands in for a connection's protocol until it is known."""

    def __init__(self, serving: Serving, default: Factory, others: dict[str, Factory]) -> None:
        self._serving = serving
        self._default = default
        self._others = others
        self._chosen: asyncio.Protocol | None = None

    @property
    def turned_away(self) -> bool:
        """Whether the chosen protocol let nobody in."""
        return bool(getattr(self._chosen, "turned_away", False))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        agreed = tls.selected_alpn_protocol() if tls is not None else None
        factory = self._others.get(agreed or "", self._default)
        self._chosen = chosen = factory(self._serving)
        transport.set_protocol(chosen)
        chosen.connection_made(transport)
