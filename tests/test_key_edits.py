"""Changes to a key file's text: what is asked for is done, and every other byte stays."""

import json
from difflib import ndiff
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.commands.key_edits import (
    NEW_JSON,
    NEW_YAML,
    AddKey,
    AddSecret,
    Edit,
    EditError,
    EndSecret,
    NamePepper,
    RemoveKey,
    edited,
)
from support.key_files import digest_of, entry, parsed

WHEN = "2027-09-09T00:00:00Z"
SECOND = {"digest": digest_of("x", 2), "not_before": "2027-03-01T00:00:00Z"}
NEW = {**entry("on", note="it: is # not"), "networks": ["10.0.0.0/8"]}
BLOCK = f"""\
# head
pepper: '12345678'   # a comment
keys:
  # about a
  - id: a   # c
    right: read
    secrets:
      - digest: {digest_of("a")}
        expires: 2027-01-01  # soon

  # about b
  - secrets: [{{digest: "{digest_of("b")}"}}]
    id: b
    right: write
    note: |
      some

      text
  # tail of the list
# tail of the file

...
"""
SHIFTED = "".join(line.removeprefix("  ") for line in BLOCK.splitlines(keepends=True))


def edit(source: str, *edits: Edit, file: str = "k.yaml") -> str:
    """The new text, which the daemon's parser takes."""
    made = edited(source.encode(), file, edits)
    parsed(made, file)
    return made.decode()


@pytest.mark.parametrize("source", [BLOCK, SHIFTED], ids=["indented", "not indented"])
def test_a_change_is_lines_more_or_less_and_all_others_stay(source: str) -> None:
    made = edit(source, AddKey(NEW), AddSecret("a", SECOND), EndSecret("b", 0, WHEN))
    compared = list(ndiff(source.splitlines(), made.splitlines()))
    pad = "" if source is SHIFTED else "  "
    old = f'{pad}- secrets: [{{digest: "{digest_of("b")}"}}]'
    assert [line[2:] for line in compared if line.startswith("- ")] == [old]
    assert [line[2:] for line in compared if line.startswith("+ ")] == [
        f"{pad}    - digest: {digest_of('x', 2)}",
        f"{pad}      not_before: 2027-03-01T00:00:00Z",
        old.replace("}]", f', expires: "{WHEN}"}}]'),
        f'{pad}- id: "on"',
        f"{pad}  right: read",
        f"{pad}  secrets:",
        f"{pad}    - digest: {digest_of('on')}",
        f'{pad}  note: "it: is # not"',
        f'{pad}  networks: ["10.0.0.0/8"]',
    ]


def test_an_expiry_is_replaced_where_it_stands_with_its_comment() -> None:
    assert edit(BLOCK, EndSecret("a", 0, WHEN)) == BLOCK.replace("2027-01-01  # soon", f"{WHEN}  # soon")
    quoted = BLOCK.replace("2027-01-01", '"2027-01-01"')
    assert edit(quoted, EndSecret("a", 0, WHEN)) == quoted.replace("2027-01-01", WHEN)


def test_a_removed_key_takes_its_own_lines_with_it() -> None:
    start, end = BLOCK.index("  - id: a"), BLOCK.index("\n  # about b")
    assert edit(BLOCK, RemoveKey("a")) == BLOCK[:start] + BLOCK[end:]
    alone = BLOCK[: BLOCK.index("  - secrets")] + "...\n"
    assert parsed(edit(alone, RemoveKey("a"))).credentials == ()
    assert "keys: []" in edit(alone, RemoveKey("a"))
    assert edit(edit(alone, RemoveKey("a")), AddKey(entry("z"))).count("- id: z") == 1


@pytest.mark.parametrize(
    "source",
    [
        NEW_YAML.decode(),
        "keys:\n...\n",
        "keys: [] # none\n...\n",
        "# only\nrevoked_tokens: [a]\n...\n",
        "revoked_tokens: [a]\nkeys: []\n...\n",
        "keys: [{id: a, right: read, secrets: [{digest: '" + digest_of("a") + "'}]}]\n...\n",
        f"keys:\n-  id: a\n   right: read\n   secrets:\n   -  digest: {digest_of('a')}\n...\n",
    ],
)
def test_a_key_can_be_added_however_the_file_begins(source: str) -> None:
    made = edit(source, NamePepper("abcdef12"), AddKey(NEW))
    assert parsed(made).pepper == "abcdef12"
    assert [c.id for c in parsed(made).credentials][-1] == "on"
    assert parsed(made).revoked_tokens == parsed(source).revoked_tokens
    assert "# none" in made or "# none" not in source
    assert parsed(edit(made, RemoveKey("on"))).credentials == parsed(source).credentials


def test_where_a_splice_does_not_fit_nothing_is_made_of_it() -> None:
    shared = f"""\
keys:
  - {{id: a, right: read, secrets: &s [{{digest: "{digest_of("a")}"}}]}}
  - {{id: b, right: write, secrets: *s}}
...
"""
    with pytest.raises(EditError, match="do it by hand"):
        edit(shared, EndSecret("a", 0, WHEN))
    dash_alone = (
        f"keys:\n  -\n    id: a\n    right: read\n    secrets: [{{digest: '{digest_of('a')}'}}]\n...\n"
    )
    with pytest.raises(EditError, match="do it by hand"):
        edit(dash_alone, RemoveKey("a"), AddKey(entry("b")))


@pytest.mark.parametrize("indent", [None, 2, 4, "\t"])
def test_json_keeps_its_order_and_indentation(indent: int | str | None) -> None:
    tree: Any = {"keys": [entry("b", note="ü"), entry("a")], "revoked_tokens": ["z"]}
    source = json.dumps(tree, indent=indent, ensure_ascii=False)
    made = edit(source, AddSecret("b", SECOND), EndSecret("b", 0, WHEN), AddKey(NEW), file="k.json")
    tree["keys"][0]["secrets"] = [{"digest": digest_of("b"), "expires": WHEN}, SECOND]
    tree["keys"].append(NEW)
    assert made == json.dumps(tree, indent=indent, ensure_ascii=False) + "\n"
    assert json.loads(edit(NEW_JSON.decode(), AddKey(NEW), file="k.json")) == {"keys": [NEW]}


@given(st.lists(st.sampled_from("abcd"), unique=True, min_size=1), st.text(max_size=20), st.booleans())
def test_keys_come_and_go_whatever_is_noted_of_them(ids: list[str], note: str, flow: bool) -> None:
    text = "keys: [" + json.dumps(entry("first")) + "]\n...\n" if flow else NEW_YAML.decode()
    kept = parsed(text).credentials
    printable = note.isprintable() and note
    for key_id in ids:
        text = edit(text, AddKey(entry(key_id, **({"note": note} if printable else {}))))
    found = parsed(text)
    assert [c.id for c in found.credentials] == [*(c.id for c in kept), *ids]
    assert set(found.notes.values()) == ({note} if printable else set())
    for key_id in reversed(ids):
        text = edit(text, AddSecret(key_id, SECOND), EndSecret(key_id, 0, WHEN))
        text = edit(text, RemoveKey(key_id))
    assert parsed(text).credentials == kept
