import asyncio
import json
import threading
from typing import Any

import pytest

from rekeyd.telemetry.hub import MISSED, SUBSCRIBERS, Heard, Hub, TooManySubscribersError


def told(event: str = "auth.denied", **fields: Any) -> dict[str, Any]:
    return {"timestamp": "2026-11-23T18:00:00Z", "level": "warning", "event": event, "generation": 3} | fields


def content(heard: Heard) -> dict[str, Any]:
    assert heard.line.endswith(b"}\n")
    assert heard.line.count(b"\n") == 1
    event: dict[str, Any] = json.loads(heard.line)
    assert event["event"] == heard.name
    return event


async def test_each_listener_hears_the_event_as_it_was_told() -> None:
    hub = Hub()
    async with hub.subscribe() as one, hub.subscribe() as other:
        event = told(path="/x", status=401)
        hub.publish(event)
        assert content(await anext(one)) == content(await anext(other)) == event


async def test_nothing_is_wanted_before_the_first_and_after_the_last_listener() -> None:
    hub = Hub()
    assert not hub.wanted
    async with hub.subscribe():
        async with hub.subscribe():
            assert hub.wanted
        assert hub.wanted
    assert not hub.wanted
    hub.publish(told())


async def test_what_libraries_say_is_not_passed_on() -> None:
    hub = Hub()
    async with hub.subscribe() as subscription:
        hub.publish(told("library.message", message="anything"))
        hub.publish(told("reload.applied"))
        assert (await anext(subscription)).name == "reload.applied"


async def test_a_slow_listener_is_told_how_many_it_missed_where_they_would_have_stood() -> None:
    hub = Hub(capacity=2000)
    async with hub.subscribe() as slow:
        for number in range(100):
            hub.publish(told(number=number))
        kept = []
        while (heard := await anext(slow)).name != MISSED:
            kept.append(content(heard)["number"])
        missed = content(heard)
        hub.publish(told(number=100))
        assert content(await anext(slow))["number"] == 100
    assert kept == list(range(len(kept)))
    assert 0 < len(kept) < 20
    assert missed == {
        "timestamp": "2026-11-23T18:00:00Z",
        "level": "warning",
        "event": MISSED,
        "generation": 3,
        "count": 100 - len(kept),
    }


async def test_after_a_loss_nothing_is_kept_until_the_listener_has_caught_up() -> None:
    hub = Hub(capacity=2000)
    async with hub.subscribe() as slow:
        for number in range(50):
            hub.publish(told(number=number))
        first = content(await anext(slow))["number"]
        hub.publish(told(number=50))  # there is room, but it would stand before what was lost
        rest = [await anext(slow)]
        while rest[-1].name != MISSED:
            rest.append(await anext(slow))
    assert first == 0
    assert content(rest[-1])["count"] + len(rest) == 51


async def test_a_slow_listener_takes_nothing_from_a_quick_one() -> None:
    hub = Hub(capacity=2000)
    async with hub.subscribe() as quick, hub.subscribe():
        for number in range(200):
            hub.publish(told(number=number))
            assert content(await anext(quick))["number"] == number


async def test_a_listener_that_is_closed_reads_what_it_heard_and_then_its_end() -> None:
    hub = Hub()
    subscription = hub.subscribe()
    hub.publish(told(number=1))
    subscription.close()
    hub.publish(told(number=2))
    assert [content(heard)["number"] async for heard in subscription] == [1]


async def test_closing_wakes_whoever_waits() -> None:
    subscription = Hub().subscribe()
    waiting = asyncio.ensure_future(anext(subscription, None))
    await asyncio.sleep(0)
    subscription.close()
    assert await asyncio.wait_for(waiting, 5) is None


async def test_giving_up_waiting_loses_no_event() -> None:
    hub = Hub()
    async with hub.subscribe() as subscription:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(subscription)
        hub.publish(told(number=1))
        assert content(await anext(subscription))["number"] == 1


async def test_events_may_come_from_other_threads() -> None:
    hub = Hub()
    async with hub.subscribe() as subscription:
        thread = threading.Thread(target=hub.publish, args=[told("reload.refused")])
        thread.start()
        heard = await asyncio.wait_for(anext(subscription), 5)
        thread.join()
    assert heard.name == "reload.refused"


async def test_there_are_never_more_listeners_than_there_may_be() -> None:
    hub = Hub()
    first, *_ = [hub.subscribe() for _ in range(SUBSCRIBERS)]
    with pytest.raises(TooManySubscribersError, match="16 listen already"):
        hub.subscribe()
    first.close()
    hub.subscribe()
