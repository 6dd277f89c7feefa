"""What the kernel calls the other end of a connection, as people write it. Must not know: what is spoken."""


def address_of(peername: object) -> str:
    """A client's address without its port; `local` where it has none, as over a unix socket.

    An IPv4 address is given as such, also where an IPv6 socket took it in (RFC 4291, 2.5.5.2).
    """
    return str(peername[0]).removeprefix("::ffff:") if isinstance(peername, tuple) else "local"
