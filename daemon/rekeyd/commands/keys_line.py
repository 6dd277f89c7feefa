"""The command line of `rekeyd keys`: what may be typed, and which command it is.

Must not know: what a command does, or how its answer is printed.
"""

import argparse
import datetime as dt
from collections.abc import Callable

from rekeyd.access.rights import Reach, Right
from rekeyd.commands import keys
from rekeyd.commands.key_list import FRESH, RULE
from rekeyd.commands.key_store import Store
from rekeyd.commands.key_wish import Wish
from rekeyd.commands.keys import Told

Given = Callable[[], bytes]
"""Reads the secret from stdin."""
_WHEN = "a duration (90d, 12h), a date, or a time with its zone"


def add_arguments(parser: argparse.ArgumentParser, *parents: argparse.ArgumentParser) -> None:
    """The actions of `rekeyd keys`; `parents` have what each of them takes."""
    actions = parser.add_subparsers(title="actions", metavar="", required=True, dest="action")

    def add(name: str, does: str, *, of_key: bool = True, more: str = "") -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=does, description=f"{does}. {more}", parents=parents)
        if of_key:
            action.add_argument("id", metavar="ID")
        return action

    _add_new(add("new", "make a key, and print its secret once"))
    listing = add("list", "tell which keys there are, and which are in use", of_key=False, more=RULE)
    listing.add_argument("--json", action="store_true", help="as JSON")
    rotate = add(
        "rotate", "give a key a second secret, and print it once; the older ones end after an overlap"
    )
    rotate.add_argument("--overlap", default="7d", metavar="TIME", help="how long both work (%(default)s)")
    rotate.add_argument("--expires", metavar="WHEN", help=f"when the new one ends: {_WHEN}")
    retire = add("retire", "let a key end at a moment; its entry stays")
    retire.add_argument("--at", default="now", metavar="WHEN", help=f"`now` (the default), {_WHEN}")
    more = f"Refused for a key that was used within {FRESH.days} days, or of which that is not known."
    remove = add("remove", "delete a key's entry", more=more)
    remove.add_argument("--force", action="store_true", help="also where it may be in use")
    add("verify", "tell which key it is whose secret comes on stdin", of_key=False)


def _add_new(new: argparse.ArgumentParser) -> None:
    may = new.add_mutually_exclusive_group(required=True)
    may.add_argument("--right", choices=[str(right) for right in Right], help="what it may do, everywhere")
    reaches = "|".join(reach.value for reach in Reach)
    may.add_argument(
        "--collection",
        action="append",
        default=[],
        metavar=f"NAME={reaches}",
        help="what it may do in one collection (`logs-*`: in all that begin so); may be repeated",
    )
    new.add_argument("--path", action="append", default=[], help="only below this path; may be repeated")
    new.add_argument("--network", action="append", default=[], help="only from there; may be repeated")
    new.add_argument("--rate", type=float, metavar="N", help="requests per second")
    new.add_argument("--note", help="what it is for")
    new.add_argument("--expires", metavar="WHEN", help=_WHEN)
    new.add_argument("--not-before", metavar="WHEN", help=f"{_WHEN} (now)")
    new.add_argument("--stdin", action="store_true", help="take the secret from stdin; a weak one is refused")


def run(chosen: argparse.Namespace, store: Store, now: dt.datetime, given: Given) -> Told:
    """Do what was asked for. Raises `SettingsError`."""
    wish = _wish(chosen)
    match chosen.action:
        case "new":
            secret = given() if chosen.stdin else None
            return keys.guarded(lambda: keys.new(store, wish, now, secret))
        case "list":
            evidence = keys.evidence_for(store)
            return keys.guarded(lambda: keys.list_keys(store, now, evidence, as_json=chosen.json))
        case "rotate":
            return keys.guarded(lambda: keys.rotate(store, wish, now))
        case "retire":
            return keys.guarded(lambda: keys.retire(store, wish, now))
        case "remove":
            evidence = keys.evidence_for(store)
            return keys.guarded(lambda: keys.remove(store, wish, now, evidence))
        case _:
            return keys.guarded(lambda: keys.verify(store, now, given()))


def _wish(chosen: argparse.Namespace) -> Wish:
    typed = vars(chosen)
    return Wish(
        id=typed.get("id", ""),
        right=typed.get("right"),
        collections=typed.get("collection", ()),
        paths=typed.get("path", ()),
        networks=typed.get("network", ()),
        rate=typed.get("rate"),
        note=typed.get("note"),
        expires=typed.get("expires"),
        not_before=typed.get("not_before"),
        overlap=typed.get("overlap", "7d"),
        at=typed.get("at", "now"),
        force=typed.get("force", False),
    )
