"""Streams under two numbers, and those that are remembered."""

from rekeyd.http2.streams import Stream, Streams


def test_numbers_at_the_upstream_grow_in_the_order_in_which_streams_are_let_through() -> None:
    streams = Streams()
    first, second, third = (Stream(number, 0.0) for number in (3, 9, 11))
    for stream in (first, second, third):
        streams.open(stream)
    assert [streams.let_through(stream) for stream in (second, first)] == [1, 3]
    assert streams.of_upstream(3) is first
    assert streams.get(9) is second
    assert not streams.is_idle_upstream(3)
    assert streams.is_idle_upstream(5)
    assert streams.is_idle_upstream(2)


def test_a_stream_that_is_closed_is_known_under_neither_number() -> None:
    streams = Streams()
    stream = Stream(1, 0.0)
    streams.open(stream)
    streams.let_through(stream)
    streams.close(stream)
    assert (streams.get(1), streams.of_upstream(1), len(streams), stream.gone) == (None, None, 0, True)


def test_streams_that_ended_otherwise_are_remembered_for_a_while() -> None:
    streams = Streams()
    for number in range(1, 4001, 2):
        streams.remember(number)
    assert streams.is_remembered(3999)
    assert not streams.is_remembered(1)
