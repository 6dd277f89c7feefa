"""The command line: commands, what they print, and exit statuses (README, "Commands").

The only module that ends the process. Must not know: how anything is done.
"""

import argparse
import asyncio
import datetime as dt
import getpass
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from rekeyd import __version__
from rekeyd.checking import check, socket_named_in
from rekeyd.commands import keys_line
from rekeyd.commands.explain import explain
from rekeyd.commands.key_store import Store
from rekeyd.commands.token import (
    SIGNING_KEYS,
    UnfitTokenError,
    Wish,
    collection_in,
    make_token,
    settings_in,
)
from rekeyd.confinement import confine
from rekeyd.demo import Stage, state_directory
from rekeyd.errors import SettingsError
from rekeyd.formats.moments import parse_duration
from rekeyd.reload.current import Current
from rekeyd.reload.disk import Disk
from rekeyd.reload.outcome import Result
from rekeyd.reload.starting import settings_to_start_with
from rekeyd.reload.vault import Vault, is_kept
from rekeyd.system import process
from rekeyd.system.admin_client import NoDaemon, ask
from rekeyd.system.event_loop import loop_factory
from rekeyd.system.sockets import descriptors_handed_over, sockets_of
from rekeyd.telemetry import console
from rekeyd.telemetry.audit import open_audit
from rekeyd.telemetry.journal import event_of
from rekeyd.telemetry.logs import configure, open_log
from rekeyd.telemetry.status import status_lines

_Command = Callable[[argparse.Namespace], int]

GOOD, BAD, SETTINGS_WRONG, NO_DAEMON = 0, 1, 2, 3
_LONGEST_LINE = 8192
DEFAULT_FILE = Path("/etc/rekeyd/rekeyd.yaml")


def entry_point() -> None:
    """The `rekeyd` command."""
    try:
        status = main(sys.argv[1:])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = BAD
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    sys.exit(status)


def main(arguments: Sequence[str]) -> int:
    """Run one command; the exit status."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    chosen.config_given = getattr(chosen, "config", None) is not None
    chosen.config = chosen.config if chosen.config_given else DEFAULT_FILE
    run: _Command | None = getattr(chosen, "run", None)
    if run is None:
        parser.print_help()
        return SETTINGS_WRONG
    try:
        return run(chosen)
    except SettingsError as error:
        _complain(error)
        return SETTINGS_WRONG
    except BrokenPipeError:
        raise
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return BAD


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rekeyd", description="TLS and API keys in front of a service that has none."
    )
    parser.add_argument("--version", action="version", version=f"rekeyd {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="")

    def add(
        name: str, does: str, run: _Command, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=does, description=does, parents=parents)
        command.set_defaults(run=run)
        return command

    file = argparse.ArgumentParser(add_help=False)
    file.add_argument("-c", "--config", type=Path, metavar="FILE", help=f"settings ({DEFAULT_FILE})")
    daemon = argparse.ArgumentParser(add_help=False)
    daemon.add_argument("--socket", type=Path, metavar="PATH", help="admin socket (else as FILE says)")

    demo = add("demo", "see it work: a local CA, keys, a certificate that changes every 15 s", _demo)
    demo.add_argument("--port", type=int, default=0, help="port to listen on (any free one)")
    demo.add_argument("--state", type=Path, metavar="DIR", help="where its files go")
    add("serve", "run the daemon in the foreground", _serve, file)
    _add_check(add("check", "judge settings, certificates and keys without serving them", _check, file))
    reload = add(
        "reload", "ask the running daemon to reload, and tell what came of it", _reload, file, daemon
    )
    reload.add_argument("--wait", action="store_true", help="wait for the outcome (always done)")
    status = add("status", "ask the running daemon how it is", _status, file, daemon)
    status.add_argument("--json", action="store_true", help="all of it, as JSON")
    _add_token(add("token", "make a token, signed with a static key", _token, file))
    keys = add("keys", "make, list, rotate, retire and recognise API keys", _keys)
    keys_line.add_arguments(keys, file, daemon)
    _add_worker(commands.add_parser("worker"))
    logs = add("logs", "turn JSON log lines into the human form", _logs)
    logs.add_argument("file", nargs="?", type=Path, metavar="FILE", help="log file (stdin)")
    return parser


def _add_check(check: argparse.ArgumentParser) -> None:
    check.add_argument(
        "--explain", metavar="'METHOD /path'", help="say which rule decides about such a request, and who may"
    )


def _add_worker(worker: argparse.ArgumentParser) -> None:
    """Not for people: the daemon starts it, once for each of its workers."""
    worker.add_argument("descriptor", type=int)
    worker.set_defaults(run=_work)


def _work(chosen: argparse.Namespace) -> int:
    from rekeyd.workers.worker import work  # noqa: PLC0415 - likewise

    return work(chosen.descriptor)


def _add_token(token: argparse.ArgumentParser) -> None:
    token.add_argument("--access", choices=("r", "m"), help="to everything: read, or manage")
    token.add_argument(
        "--collection",
        action="append",
        default=[],
        type=_read_by(collection_in),
        metavar="NAME=r|rw|prw",
        help="to one collection, and no others; may be repeated",
    )
    token.add_argument(
        "--expires",
        type=_read_by(parse_duration),
        default="1h",
        metavar="TIME",
        help="how long it lives: 90s, 15m, 1h, 30d, 2w (%(default)s)",
    )
    token.add_argument("--subject", metavar="TEXT", help="whose it is, for the record")
    token.add_argument("--key", choices=SIGNING_KEYS, help="what signs it (the first that is set)")


def _read_by(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """As argparse wants it, which keeps the words of this error alone."""

    def convert(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _serve(chosen: argparse.Namespace) -> int:
    return _run_server(chosen.config)


def _demo(chosen: argparse.Namespace) -> int:
    stage = Stage(chosen.state or state_directory(os.environ), port=chosen.port)
    stage.set()
    return _run_server(stage.settings_file, stage)


def _run_server(file: Path, stage: Stage | None = None) -> int:
    from rekeyd.server import Server  # noqa: PLC0415 - half a second that no other command need take

    process.settle()
    make_loop = loop_factory(os.environ)
    handed = descriptors_handed_over(os.environ, os.getpid())
    vault = Vault({name: number for name, number in handed if is_kept(name)}, os.environ)
    sockets = sockets_of([each for each in handed if not is_kept(each[0])])
    disk = Disk(file, {} if stage else os.environ)
    parsed = settings_to_start_with(disk, kept=vault.holds_one)
    settings, shared = parsed.settings, parsed.settings.service.workers != 1
    confined = confine(settings, os.environ, *([stage.directory] if stage else []))
    current = Current()
    logs = configure(
        format=settings.logging.format,
        level=settings.logging.level,
        generation=lambda: current.number,
        audit=open_audit(parsed, shared=shared),
        sink=open_log(parsed, sys.stdout.fileno(), os.environ, shared=shared),
    )
    confined.tell()

    async def run() -> int:
        server = Server(disk, settings, current, logs, sockets, vault)
        if stage is None:
            return await server.run()
        act = asyncio.create_task(_perform(stage, server.started))
        try:
            return await server.run()
        finally:
            act.cancel()

    try:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            return runner.run(run())
    except Exception as error:  # noqa: BLE001 - told where everything is told, not as a traceback on stderr
        logs.library("critical", "rekeyd", "an error that nobody expected ended it", error)
        return BAD
    finally:
        logs.close()


async def _perform(stage: Stage, started: asyncio.Future[int]) -> None:
    """The demo's part: tell what to try, then change certificates until the end."""
    port = await started
    sys.stderr.write(stage.hints(port))
    sys.stderr.flush()
    await stage.keep_rotating()


def _check(chosen: argparse.Namespace) -> int:
    if chosen.explain is not None:
        return _explain(chosen)
    report = check(Disk(chosen.config, os.environ), dt.datetime.now(dt.UTC))
    print(f"{chosen.config}: {'good' if report.good else 'would be refused'}")
    for line in report.lines():
        print(line)
    return GOOD if report.good else BAD


def _explain(chosen: argparse.Namespace) -> int:
    candidate = Disk(chosen.config, os.environ).load()
    try:
        for line in explain(chosen.explain, candidate, time.time()):
            print(line)
    except ValueError as error:
        _say(f"--explain: {error}")
        return SETTINGS_WRONG
    return GOOD


def _reload(chosen: argparse.Namespace) -> int:
    answer = _ask(chosen, "POST", "/reload")
    if answer is None:
        return NO_DAEMON
    for line in answer.get("lines", ()):
        print(line)
    return GOOD if answer.get("outcome") in {Result.APPLIED, Result.UNCHANGED} else BAD


def _status(chosen: argparse.Namespace) -> int:
    answer = _ask(chosen, "GET", "/status")
    if answer is None:
        return NO_DAEMON
    if chosen.json:
        print(json.dumps(answer, indent=2))
    else:
        for line in status_lines(answer):
            print(line)
    return GOOD if answer.get("serving") else BAD


def _ask(chosen: argparse.Namespace, method: str, target: str) -> dict[str, Any] | None:
    """The daemon's answer; None, after saying so, where there is no daemon."""
    try:
        path: Path | None = chosen.socket or socket_named_in(chosen.config, os.environ)
    except SettingsError as error:
        _complain(error)
        return None
    if path is None:
        _say(f"{chosen.config}: admin.socket is null, so there is nothing to ask. Give --socket")
        return None
    try:
        status, answer = ask(path, method, target, settings=_file_it_is_to_have(chosen))
    except NoDaemon as error:
        _say(str(error))
        return None
    if status != HTTPStatus.OK:
        _say(f"{path}: {answer.get('error', status)}")
    return answer


def _file_it_is_to_have(chosen: argparse.Namespace) -> Path | None:
    """The settings file of the daemon that is meant; None where `--socket` alone says which one."""
    file: Path | None = None if chosen.socket and not chosen.config_given else chosen.config
    return file


def _token(chosen: argparse.Namespace) -> int:
    settings = settings_in(chosen.config, os.environ)
    wish = Wish(chosen.access, tuple(chosen.collection), chosen.expires, chosen.subject, chosen.key)
    try:
        token = make_token(settings, wish, now=time.time(), token_id=secrets.token_hex(16))
    except UnfitTokenError as error:
        _say(f"{error}.")
        return SETTINGS_WRONG
    if not settings.service.jwt_rbac:
        _say(f"{chosen.config}: service.jwt_rbac is off, so that nobody accepts it. Set it to true.")
    print(token)
    return GOOD


def _keys(chosen: argparse.Namespace) -> int:
    store = Store.named_in(chosen.config, os.environ, chosen.socket, _file_it_is_to_have(chosen))
    for problem in store.left_out:
        _say(str(problem))
    told = keys_line.run(chosen, store, dt.datetime.now(dt.UTC), _secret_from_stdin)
    for line in told.out:
        print(line, flush=True)
    for line in told.err:
        _say(line)
    if told.after is None:
        return told.status
    good, lines = told.after()
    for line in lines:
        _say(line)
    return told.status if good else BAD


def _secret_from_stdin() -> bytes:
    """One line; a person's is not shown while it is typed."""
    if sys.stdin.isatty():
        return getpass.getpass("Secret: ").encode()
    return sys.stdin.buffer.readline(_LONGEST_LINE).rstrip(b"\r\n")


def _logs(chosen: argparse.Namespace) -> int:
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    with chosen.file.open("rb") if chosen.file else sys.stdin.buffer as stream:
        for line in console.read_lines(stream, colour=colour, unpack=event_of):
            print(line, flush=True)
    return GOOD


def _complain(error: SettingsError) -> None:
    for problem in error.problems:
        _say(str(problem))


def _say(text: str) -> None:
    print(f"rekeyd: {text}", file=sys.stderr)
