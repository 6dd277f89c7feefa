import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rekeyd.workers.channel import Message
from rekeyd.workers.member import WorkerError
from rekeyd.workers.worker import Worker
from support.generations import API_KEY
from support.hands import hand
from support.live import Connection
from support.waiting import eventually


async def test_it_serves_what_is_published_and_not_what_is_only_prepared(tmp_path: Path) -> None:
    async with hand(tmp_path) as worker:
        first = worker.site.leaf
        await worker.serve(1)
        await worker.ask("open")
        second = worker.site.rotate()
        await worker.prepare(2)
        for number, expected in ((2, first), (1, second), (1, first)):
            async with Connection.to(worker.port, worker.site.authority) as client:
                assert client.serial == expected.serial
                assert (await client.ask(key=API_KEY)).status == 200
            await worker.ask("publish", {"number": number})


async def test_what_was_never_prepared_is_not_published(tmp_path: Path) -> None:
    async with hand(tmp_path) as worker:
        await worker.serve(1)
        with pytest.raises(WorkerError, match="KeyError"):
            await worker.ask("publish", {"number": 7})


async def test_what_was_prepared_before_something_else_of_its_number_is_not_published(tmp_path: Path) -> None:
    async with hand(tmp_path) as worker:
        await worker.serve(1)
        await worker.prepare(2)
        with pytest.raises(WorkerError, match="nothing came along"):
            await worker.ask("prepare", {"number": 2})
        with pytest.raises(WorkerError, match="KeyError"):
            await worker.ask("publish", {"number": 2})


async def test_what_is_not_sealed_is_not_taken(tmp_path: Path) -> None:
    async with hand(tmp_path) as worker:
        open_to_change = os.memfd_create("open", os.MFD_ALLOW_SEALING)
        try:
            with pytest.raises(WorkerError, match="not sealed"):
                await worker.ask("prepare", {"number": 1}, descriptor=open_to_change)
        finally:
            os.close(open_to_change)


async def test_it_reads_no_file(tmp_path: Path) -> None:
    async with hand(tmp_path) as worker:
        await worker.serve(1)
        for path in (worker.site.cert, worker.site.key, worker.site.file):
            path.unlink()
        await worker.ask("open")
        async with Connection.to(worker.port, worker.site.authority) as client:
            assert (await client.ask(key=API_KEY)).status == 200


async def test_it_tells_what_it_counted_once(tmp_path: Path) -> None:
    async with hand(tmp_path) as worker:
        await worker.serve(1)
        await worker.ask("open")
        async with Connection.to(worker.port, worker.site.authority) as client:
            await client.ask(key=API_KEY)
        report = await worker.ask("report")
        assert report["checks"] == {"upstream": True, "certificate": True}
        first, second = await worker.ask("counts"), await worker.ask("counts")
        assert '"allowed":1' in first["usage"]
        assert '"allowed"' not in second["usage"]
        names = {family["name"] for family in first["metrics"]}
        assert {"rekeyd_decisions", "rekeyd_connections"} <= names
        assert "rekeyd_generation" not in names


async def test_what_it_tells_is_passed_on_while_somebody_listens(tmp_path: Path) -> None:
    async with hand(tmp_path) as worker:
        await worker.serve(1)
        await worker.ask("open")
        await worker.ask("hear", True)
        async with Connection.to(worker.port, worker.site.authority) as client:
            await client.ask(key=API_KEY)
        await worker.says("heard")
        assert worker.said[0].body[0] == "auth.allowed"
        await worker.ask("hear", False)


async def test_of_signals_one_alone_is_heard_and_asks_for_a_replacement(tmp_path: Path) -> None:
    async with hand(tmp_path) as worker:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            worker.signal(number)
        await worker.says("leaving")
        assert await worker.ask("cut") == 0, "it is still there"


async def test_without_a_supervisor_it_finishes_what_it_has_and_ends(tmp_path: Path) -> None:
    async with hand(tmp_path) as worker:
        await worker.serve(1)
        await worker.ask("open")
        async with Connection.to(worker.port, worker.site.authority) as client:
            await client.send("/stream")
            await client.head()
            worker.member._channel.close()
            pid = worker.member.pid
        await eventually(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z", what="its end")
        assert await worker.member.gone() == "exit status 1"


async def test_it_ends_when_it_is_told_so(tmp_path: Path) -> None:
    async with hand(tmp_path) as worker:
        await worker.serve(1)
        await worker.ask("open")
        assert await worker.ask("drain", 1.0) == 0
        assert (await worker.ask("end")).keys() == {"connections", "metrics", "usage"}
        await eventually(worker.ended.is_set, what="its end")
        assert await worker.member.gone() == "exit status 0"


async def test_an_answer_for_which_there_is_no_memory_is_not_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []

    class Full:
        def answer(self, _: Message, body: Any) -> None:
            if "problem" not in body:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            answers.append(body)

    async def much(_: Message) -> dict[str, str]:
        return {"much": "of it"}

    worker = Worker(-1)
    monkeypatch.setattr(worker, "_channel", Full(), raising=False)
    monkeypatch.setattr(worker, "_does", {"say": much})
    await worker._do(Message("say", 1))
    assert answers == [{"problem": "the answer can't be sent (Cannot allocate memory)"}]
