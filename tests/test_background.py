import asyncio

import pytest
from structlog.testing import capture_logs

from rekeyd.errors import RekeydError
from rekeyd.workers.background import Background


async def test_what_has_begun_is_waited_for_or_called_off() -> None:
    background, done = Background(), asyncio.Event()
    first = background.begin(done.wait())
    done.set()
    await background.over()
    assert first.result() is True
    second = background.begin(asyncio.Event().wait())
    background.call_off()
    await background.over()
    assert second.cancelled()


@pytest.mark.parametrize(("error", "told"), [(RekeydError("no"), 0), (KeyError("it"), 1)])
async def test_what_breaks_is_told_and_an_answer_is_not(error: Exception, told: int) -> None:
    async def breaks() -> None:
        raise error

    background = Background()
    with capture_logs() as lines:
        task = background.begin(breaks())
        await background.over()
        await asyncio.sleep(0)
    assert task.exception() is error
    assert len(lines) == told
    assert all(line["problem"] == "an unexpected KeyError" for line in lines)
