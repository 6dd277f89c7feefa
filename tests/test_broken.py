"""Broken connections are told, each for itself and in a flood together, and none is lost."""

from typing import Any

from rekeyd.telemetry.broken import BrokenLog


class Lines:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, level: str, event: str, fields: dict[str, Any]) -> None:
        self.lines.append((level, event, fields))


async def test_each_is_told_with_its_reason() -> None:
    lines = Lines()
    log = BrokenLog(lines)
    log.told("grpc", "192.0.2.1", "PROTOCOL_ERROR: a client that pushes", 3)
    log.close()
    assert lines.lines == [
        (
            "warning",
            "connection.broken",
            {
                "listener": "grpc",
                "client": "192.0.2.1",
                "reason": "PROTOCOL_ERROR: a client that pushes",
                "generation": 3,
            },
        )
    ]


async def test_a_flood_is_told_together_and_the_counts_add_up() -> None:
    lines = Lines()
    log = BrokenLog(lines, clock=lambda: 5.0)
    for _ in range(100):
        log.told("grpc", "192.0.2.1", "it does not speak HTTP/2", 1)
    log.close()
    assert len(lines.lines) < 10
    assert sum(fields.get("count", 1) for _, _, fields in lines.lines) == 100
