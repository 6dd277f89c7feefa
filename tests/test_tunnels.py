"""What is known of all tunnels together, and how they end with the daemon."""

import asyncio

from rekeyd.ledger import Ledger
from rekeyd.listeners.tunnel.tunnels import Tunnels
from rekeyd.telemetry.tunnels import Carried


class Tunnel:
    """It says goodbye, or it does not."""

    def __init__(self, tunnels: Tunnels, carried: Carried, *, polite: bool = True) -> None:
        self.tunnels = tunnels
        self.carried = carried
        self.polite = polite
        self.cuts: list[str] = []
        tunnels.came(self)

    def finish(self) -> None:
        if self.polite:
            asyncio.get_running_loop().call_soon(self.tunnels.went, self, "stopped")

    def cut(self, why: str) -> None:
        self.cuts.append(why)
        self.tunnels.went(self, why)


async def test_what_was_carried_is_kept_when_a_tunnel_is_gone() -> None:
    tunnels = Tunnels(Ledger(), lambda: None)
    first = Tunnel(tunnels, Carried("out", "node-2", 1, 10, 20))
    Tunnel(tunnels, Carried("out", "node-2", 1, 1, 2))
    Tunnel(tunnels, Carried("in", "", 1, 5, 5))
    assert len(tunnels) == 3
    assert set(tunnels.carried()) == {Carried("out", "node-2", 2, 11, 22), Carried("in", "", 1, 5, 5)}
    tunnels.went(first, "closed")
    assert set(tunnels.carried()) == {Carried("out", "node-2", 1, 11, 22), Carried("in", "", 1, 5, 5)}
    await tunnels.drain(0)
    assert set(tunnels.carried()) == {Carried("out", "node-2", 0, 11, 22), Carried("in", "", 0, 5, 5)}
    assert tunnels.ended == {("out", "closed"): 1, ("out", "stopped"): 1, ("in", "stopped"): 1}


async def test_who_does_not_end_in_time_is_cut() -> None:
    tunnels = Tunnels(Ledger(), lambda: None)
    polite = Tunnel(tunnels, Carried("out", "node-2", 1))
    rude = Tunnel(tunnels, Carried("out", "node-2", 1), polite=False)
    assert await tunnels.drain(0.05) == 1
    assert (polite.cuts, rude.cuts) == ([], ["stopped"])
    assert len(tunnels) == 0
    assert await tunnels.drain(5) == 0
