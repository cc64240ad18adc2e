"""Is a `Target` the Contact value that it stands for, and does a `Redirection` refuse what would harm a response?"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from twisted_sipuas.location import Redirection, Target
from twisted_sipuas.syntax.fields import Contact
from twisted_sipuas.syntax.uri import URI, parse_uri


@pytest.mark.parametrize(
    ("target", "value"),
    [
        (Target("sip:bob@192.0.2.4"), "<sip:bob@192.0.2.4>"),
        (Target("sip:b@h;transport=tcp", q=0.5, expires=60), "<sip:b@h;transport=tcp>;q=0.5;expires=60"),
        (Target("tel:+15551212", q=1), "<tel:+15551212>;q=1"),
        (Target("sip:b@h", q=0), "<sip:b@h>;q=0"),
        (Target("sip:b@h", q=0.25, display_name="Bob"), '"Bob" <sip:b@h>;q=0.25'),
        (Target("sip:b@h", q=1 / 3, display_name='B "\\" b'), '"B \\"\\\\\\" b" <sip:b@h>;q=0.333'),
        (Target("sip:b@h", parameters=[("methods", '"BYE"'), ("isfocus", None)]), '<sip:b@h>;methods="BYE";isfocus'),
    ],
    ids=str,
)  # fmt: skip
def test_target_is_a_contact_value(target: Any, value: str) -> None:
    """A target prints as one Contact value, q with at most three decimals, and is read back as what it was (20.10)."""
    assert str(target) == value
    contact = Contact(value)
    assert contact.uri == target.uri
    assert contact.display_name == target.display_name
    assert contact.expires == target.expires
    assert contact.q is None if target.q is None else abs(contact.q - target.q) <= 0.0005


@pytest.mark.parametrize(
    "arguments",
    [
        {"uri": ""},
        {"uri": "bob"},
        {"uri": "sip:bob@h\r\nEvil: 1"},
        {"uri": "sip:bob@h\0"},
        {"uri": "sip:b@h", "display_name": "Bob\r\nEvil: 1"},
        {"uri": "sip:b@h", "display_name": "\0"},
        {"uri": "sip:b@h", "parameters": [("a", "1\n2")]},
        {"uri": "sip:b@h", "parameters": [("a\n", None)]},
        {"uri": "sip:b@h", "parameters": [("", None)]},
        {"uri": "sip:b@h", "q": 1.01},
        {"uri": "sip:b@h", "q": -0.1},
        {"uri": "sip:b@h", "q": float("nan")},
        {"uri": "sip:b@h", "expires": -1},
    ],
    ids=repr,
)
def test_target_refuses(arguments: Any) -> None:
    """No target is made of what is no URI, out of range, or would end the line of the header field (7.3.1)."""
    with pytest.raises(ValueError):
        Target(**arguments)


def test_redirection_converts() -> None:
    """A redirection takes targets, URIs and text, in any iterable, and keeps their order."""
    targets: list[Target | URI | str] = [Target("sip:a@h", q=0.1), parse_uri("sip:b@h"), "tel:+1"]
    redirection = Redirection(iter(targets))
    assert [str(target) for target in redirection.targets] == ["<sip:a@h>;q=0.1", "<sip:b@h>", "<tel:+1>"]
    assert redirection.status is None
    assert Redirection(["sip:a@h"], 301, [("Retry-After", "5")]) == Redirection(
        ["sip:a@h"], status=301, headers=(("Retry-After", "5"),)
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"status": 299},
        {"status": 400},
        {"headers": [("Warning", "a\r\nb")]},
        {"headers": [("Warn\ning", "a")]},
        {"headers": [("Warning", "\0")]},
        {"headers": [("CONTACT", "<sip:b@h>")]},
        {"headers": [("e", "gzip")]},
        {"headers": [("Require", "x")]},
    ],
    ids=repr,
)
def test_redirection_refuses(arguments: Any) -> None:
    """A redirection has a 3xx status or none, nothing in it ends a line, and the response keeps its own fields."""
    with pytest.raises(ValueError):
        Redirection(["sip:a@h"], **arguments)


def test_values_are_immutable() -> None:
    """What a location service answered cannot change on its way to the response."""
    target = Target("sip:a@h")
    redirection = Redirection([target])
    with pytest.raises(AttributeError):
        target.q = 1.0
    with pytest.raises(AttributeError):
        redirection.status = 301  # type: ignore[misc]  # what is tested
    assert target == Target("sip:a@h")
    assert hash(target) == hash(Target("sip:a@h"))


def test_copies() -> None:
    """A target can be copied and pickled, say by who caches answers elsewhere, and is the same value then."""
    target = Target("sip:a@h;lr", q=0.5, expires=60, display_name="A", parameters=[("x", None), ("y", "1")])
    for each in (target, Target.stored("tel:+1", None, 5)):
        copies = copy.copy(each), copy.deepcopy(each), pickle.loads(pickle.dumps(each))
        assert copies == (each, each, each)
        assert {str(made) for made in copies} == {str(each)}
