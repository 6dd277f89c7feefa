"""The clients, in a process of their own, so that what they cost is on nobody's account.

A job comes as one line of JSON on standard input. When everything is connected and warm `ready` is printed;
each `go` starts them, and what came of it is printed as one line of JSON. Every answer is looked at: one with
another status than was asked for ends it all.
"""

import contextlib
import json
import resource
import select
import ssl
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from bench.grpc_wire import Calls
from bench.job import Job, Result
from bench.wire import Answers, ask, close, connect, trusting


class Clients(Protocol):
    def prepare(self) -> None: ...
    def run(self) -> Result: ...


class Tally:
    """What one or several clients have seen."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.failures = 0
        self.certificates: set[str] = set()

    def result(self) -> Result:
        times = sorted(self.times) or [0.0]
        return Result(
            operations=len(self.times),
            failures=self.failures,
            p50=times[len(times) // 2],
            p99=times[len(times) * 99 // 100],
            certificates=len(self.certificates),
        )


def request_of(job: Job) -> bytes:
    return job.head.encode() + b"x" * job.body


@dataclass
class Client:
    """One of those that keep their connection."""

    connection: ssl.SSLSocket
    answers: Answers
    asked: float = 0.0


class KeptAlive:
    """Small requests by connections that stay; each client sends the next one when it has its answer."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._request = request_of(job)
        self._context = trusting(job.authority)
        self._poll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._tally = Tally()

    def prepare(self) -> None:
        for _ in range(self._job.connections):
            self._join()
        self._go_on(self._job.warm)
        self._tally.times.clear()

    def run(self) -> Result:
        self._go_on(self._job.seconds)
        return self._tally.result()

    def _join(self) -> None:
        connection = connect(self._job.port, self._context)
        connection.setblocking(False)
        self._clients[connection.fileno()] = Client(connection, Answers(self._job.status))
        self._poll.register(connection.fileno(), select.EPOLLIN)

    def _go_on(self, seconds: float) -> None:
        """Until the time is up and each has its last answer."""
        end = time.perf_counter() + seconds
        for client in list(self._clients.values()):
            self._ask(client)
        running = len(self._clients)
        while running:
            for number, _ in self._poll.poll():
                if self._came(self._clients[number]):
                    if time.perf_counter() < end:
                        self._ask(self._clients[number])
                    else:
                        running -= 1

    def _ask(self, client: Client) -> None:
        client.asked = time.perf_counter()
        client.connection.send(self._request)

    def _came(self, client: Client) -> bool:
        """Whether its answer is whole. All that TLS holds is read: the poll knows of the socket only."""
        whole = False
        with contextlib.suppress(ssl.SSLWantReadError):
            while not whole:
                data = client.connection.recv(16384)
                if not data:
                    raise ConnectionResetError("the server closed a connection")
                whole = client.answers.took(data)
        if whole:
            self._tally.times.append(time.perf_counter() - client.asked)
        return whole


class Threads:
    """Clients that wait: each in a thread of its own."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._request = memoryview(request_of(job))
        self._context = trusting(job.authority)
        self._troubles: list[BaseException] = []

    def prepare(self) -> None:
        self._all(self._job.warm)

    def run(self) -> Result:
        return self._all(self._job.seconds).result()

    def _all(self, seconds: float) -> Tally:
        tally, end = Tally(), time.perf_counter() + seconds
        threads = [
            threading.Thread(target=self._guarded, args=(tally, end)) for _ in range(self._job.connections)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._troubles:
            raise self._troubles[0]
        return tally

    def _guarded(self, tally: Tally, end: float) -> None:
        try:
            self._one(tally, end)
        except BaseException as trouble:  # noqa: BLE001 - raised by who waits for the threads
            self._troubles.append(trouble)

    def _one(self, tally: Tally, end: float) -> None:
        raise NotImplementedError


class Bodies(Threads):
    """Large requests or answers by connections that stay."""

    def _one(self, tally: Tally, end: float) -> None:
        answers = Answers(self._job.status)
        with connect(self._job.port, self._context) as connection:
            while time.perf_counter() < end:
                tally.times.append(ask(connection, self._request, answers))


class Newcomers(Threads):
    """A full handshake for every request."""

    def _one(self, tally: Tally, end: float) -> None:
        answers = Answers(self._job.status)
        while (began := time.perf_counter()) < end:
            connection = connect(self._job.port, self._context)
            ask(connection, self._request, answers)
            tally.times.append(time.perf_counter() - began)
            close(connection)


class Visitors(Threads):
    """Some requests by each connection. What fails is counted, and they go on."""

    def _one(self, tally: Tally, end: float) -> None:
        while time.perf_counter() < end:
            try:
                with connect(self._job.port, self._context) as connection:
                    shown = connection.getpeercert()
                    tally.certificates.add(str(shown["serialNumber"]) if shown else "")
                    self._visit(connection, tally, end)
            except OSError:
                tally.failures += 1

    def _visit(self, connection: ssl.SSLSocket, tally: Tally, end: float) -> None:
        answers = Answers(self._job.status)
        for _ in range(self._job.per_connection):
            tally.times.append(ask(connection, self._request, answers))
            if answers.closes or time.perf_counter() > end:
                return


class Idlers(Threads):
    """As many connections as are asked for; each is used once, and stays open until this process ends."""

    OPENERS, FIRST = 4, 20

    def __init__(self, job: Job) -> None:
        super().__init__(replace(job, connections=self.OPENERS))
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._wanted = min(job.connections, most - 500)
        self._open: list[ssl.SSLSocket] = []

    def prepare(self) -> None:
        """Some come and go first: what a server keeps for its first clients is not theirs."""
        wanted, self._wanted = self._wanted, self.FIRST
        self._all(0)
        for connection in self._open:
            close(connection)
        self._open.clear()
        self._wanted = wanted

    def _one(self, tally: Tally, end: float) -> None:  # noqa: ARG002 - they stay for good
        for _ in range(self._wanted // self.OPENERS):
            connection = connect(self._job.port, self._context)
            tally.times.append(ask(connection, self._request, Answers(self._job.status)))
            self._open.append(connection)


class Callers(Threads):
    """gRPC: unary calls, some at a time on each connection."""

    def _one(self, tally: Tally, end: float) -> None:
        with connect(self._job.port, trusting(self._job.authority, "h2")) as connection:
            calls = Calls(connection, self._job.head)
            while time.perf_counter() < end:
                tally.times += calls.round()


KINDS: dict[str, type[KeptAlive | Threads]] = {
    "requests": KeptAlive,
    "bodies": Bodies,
    "handshakes": Newcomers,
    "visits": Visitors,
    "idle": Idlers,
    "calls": Callers,
}


def main() -> None:
    job = Job(**json.loads(sys.stdin.readline()))
    clients: Clients = KINDS[job.kind](job)
    clients.prepare()
    print("ready", flush=True)  # noqa: T201 - what it prints is its answer
    while sys.stdin.readline() == "go\n":
        print(json.dumps(asdict(clients.run())), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
