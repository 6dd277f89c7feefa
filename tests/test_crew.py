"""Several workers as one."""

import asyncio

from support.generations import API_KEY
from support.supervisor import Supervisor


async def test_who_listens_hears_all_of_them(supervisor: Supervisor) -> None:
    async with supervisor.logs.hub.subscribe() as subscription:
        await supervisor.crew._roster.ask("report")  # what was told before has been heard by now
        async with supervisor.client() as client:
            await client.ask(key=API_KEY)
        heard = await asyncio.wait_for(anext(subscription), 10)
    assert heard.name == "auth.allowed"
    assert b'"key_id":"api_key"' in heard.line
