from pathlib import Path
from typing import Any

import pytest

from rekeyd.front import Place
from rekeyd.proof import Pulse, Traffic
from rekeyd.workers.guests import CrewWay, Guests
from rekeyd.workers.member import Member, WorkerError
from support.generations import API_KEY
from support.hands import Hand, hand
from support.live import Connection


class Guest:
    """A supervisor of one worker, as far as its own visits are concerned."""

    def __init__(self, worker: Hand) -> None:
        self.worker = worker
        self.guests = Guests(self.ask_all)
        worker.heard = self.hear

    async def ask_all(self, kind: str, body: object) -> list[tuple[Member, Any]]:
        try:
            return [(self.worker.member, await self.worker.ask(kind, body))]
        except WorkerError as error:
            return [(self.worker.member, error)]

    def hear(self, kind: str, body: list[object]) -> None:
        if kind == "let_in":
            self.guests.let_in(str(body[0]), int(str(body[1])))


@pytest.mark.parametrize("tls", [True, False])
async def test_a_visit_is_known_by_the_worker_that_takes_it_and_is_no_client(
    tmp_path: Path, tls: bool
) -> None:
    async with hand(tmp_path, service={"enable_tls": tls}) as worker:
        await worker.serve(1)
        await worker.ask("open")
        way = CrewWay(
            Place("http", "127.0.0.1", 0, tls=tls), ("127.0.0.1", worker.port), Guest(worker).guests
        )
        serving = worker.serving
        assert await Pulse().reason_for_doubt(serving, [way], 10) is None
        assert await way.traffic() == Traffic(full=False, let_in=0)
        async with Connection.to(worker.port, worker.site.authority if tls else None) as client:
            assert (await client.ask(key=API_KEY)).status == 200
        assert await way.traffic() == Traffic(full=False, let_in=1)


async def test_a_worker_that_is_gone_lets_nobody_in(tmp_path: Path) -> None:
    async with hand(tmp_path) as worker:
        guest = Guest(worker)
        worker.member.kill()
        way = CrewWay(Place("http", "127.0.0.1", 0, tls=True), ("127.0.0.1", worker.port), guest.guests)
        assert await way.traffic() == Traffic(full=False, let_in=0)


async def test_a_worker_that_has_not_opened_yet_lets_nobody_in(tmp_path: Path) -> None:
    async with hand(tmp_path) as worker:
        await worker.serve(1)
        way = CrewWay(
            Place("http", "127.0.0.1", 0, tls=True), ("127.0.0.1", worker.port), Guest(worker).guests
        )
        assert await way.traffic() == Traffic(full=False, let_in=0)
