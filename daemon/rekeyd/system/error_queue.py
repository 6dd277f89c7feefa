"""Keeps what one TLS connection left behind from breaking another.

OpenSSL puts errors into a queue of the thread, and `SSL_get_error` believes that what it finds there belongs
to the call before it (SSL_get_error(3): the queue must be empty). CPython empties the queue where a call
failed. But where a peer answers a close_notify with a fatal alert, `SSL_shutdown` succeeds *and* leaves an
error: the next connection of the thread that has nothing to read is then told of an alert that it never got,
and ends. Anybody who gets as far as a handshake could end the connections of others. So `unwrap` takes out
what it left.

Must not know: what a connection is for.
"""

import contextlib
import ssl

_SILENT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
"""A connection on which nobody ever speaks: asked to read, it fails, which empties the queue."""


def empty() -> None:
    """Forget the errors that lie in the queue of this thread."""
    with contextlib.suppress(ssl.SSLError):
        _SILENT.read(1)


class TidyObject(ssl.SSLObject):
    """A connection whose end is no other's."""

    def unwrap(self) -> None:
        super().unwrap()
        empty()


def tidy(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same context, whose connections are `TidyObject`s from now on."""
    context.sslobject_class = TidyObject
    return context
