"""Is a look-up said in JSON as the schema has it, and is any other answer a fault that says what was expected?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.errors import SIPError
from twisted_sipuas.location import Redirection
from twisted_sipuas.location.json_lookup import answer, question
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import RecordingFlow, make_request


def test_question() -> None:
    """The question tells of the request what the schema names, and of its header fields those asked for."""
    request = make_request(
        uri="sip:bob%20b@Example.COM:5070;transport=tcp",
        headers=(("P-Asserted-Identity", "<sip:alice@h>"), ("p-asserted-identity", "<tel:+1>"), ("Secret", "x")),
    )
    request.flow = RecordingFlow("TCP", ("2001:db8::1", 5071))
    assert question(request.uri, request, ["P-Asserted-Identity", "Diversion"]) == {
        "version": 1,
        "method": "INVITE",
        "request_uri": "sip:bob%20b@Example.COM:5070;transport=tcp",
        "user": "bob b",
        "host": "example.com",
        "from": {"uri": "sip:alice@example.com", "display_name": "Alice"},
        "to": {"uri": "sip:bob%20b@Example.COM:5070;transport=tcp", "display_name": ""},
        "call_id": "3848276298220188511@192.0.2.1",
        "source": {"host": "2001:db8::1", "port": 5071, "transport": "TCP"},
        "headers": {"P-Asserted-Identity": ["<sip:alice@h>", "<tel:+1>"], "Diversion": []},
    }


@pytest.mark.parametrize(
    ("uri", "user", "host"),
    [
        ("sip:example.com", None, "example.com"),
        ("sip:b@[2001:DB8::1]", "b", "[2001:db8::1]"),
        ("tel:+1-201-555-0123", "+12015550123", None),
        ("mailto:b@example.com", None, None),
    ],
)
def test_question_of_other_uris(uri: str, user: str | None, host: str | None) -> None:
    """A Request-URI without a user part or host has null for it; a tel URI has its number."""
    request = make_request(uri=uri)
    assert isinstance(request, Request)
    asked = question(request.uri, request)
    assert (asked["request_uri"], asked["user"], asked["host"]) == (uri, user, host)


def test_question_of_a_strange_request() -> None:
    """Octets that are no UTF-8, and header fields that are malformed, leave the question one that JSON can say."""
    octets = make_request(headers=(("Subject", "?"),)).to_bytes().replace(b"Subject: ?", b"Subject: \xff\xe4")
    request = parse_message(octets.replace(b"From: Alice", b'From: "Ali"ce').replace(b"sip:bob@", b"sip:b\xff@"))
    assert isinstance(request, Request)
    asked = question(request.uri, request, ["Subject"])
    assert asked["from"] is None
    assert asked["user"] == "b\ufffd"
    assert asked["headers"] == {"Subject": ["\ufffd\ufffd"]}
    assert asked["source"] is None
    json.dumps(asked).encode("ascii")


def test_question_of_a_unix_socket() -> None:
    """The peer of a UNIX socket has no source, whatever its Via says."""
    request = make_request()
    request.flow = RecordingFlow("TCP", ("", 0))
    assert question(request.uri, request)["source"] is None


@pytest.mark.parametrize("text", ["{}", '{"version": 1}', '{"targets": null, "refuse": null}', ' {"status": null} '])
def test_not_known(text: str) -> None:
    """An empty object says that the user is not known; what is null is as if absent."""
    assert answer(text.encode()) is None


@pytest.mark.parametrize(
    ("value", "targets"),
    [
        ({"targets": ["sip:a@h", "tel:+1"]}, ["<sip:a@h>", "<tel:+1>"]),
        ({"targets": [{"uri": "sip:a@h", "q": 0.5, "expires": 60}]}, ["<sip:a@h>;q=0.5;expires=60"]),
        ({"targets": [{"uri": "sip:a@h", "q": 1, "display_name": 'Ä "b"'}]}, ['"Ä \\"b\\"" <sip:a@h>;q=1']),
        (
            {"targets": [{"uri": "sip:a@h", "parameters": {"audio": None, "x": "y", "+sip.instance": '"<urn:x>"'}}]},
            ['<sip:a@h>;audio;x=y;+sip.instance="<urn:x>"'],
        ),
        ({"targets": [{"uri": "sip:a@h", "q": None, "parameters": None}], "status": None}, ["<sip:a@h>"]),
        ({"targets": ["sip:a@h"] * 100}, ["<sip:a@h>"] * 100),
    ],
)
def test_targets(value: dict[str, Any], targets: Any) -> None:
    """Targets are the Contacts that they say."""
    found = answer(json.dumps(value).encode())
    assert found is not None
    assert [str(target) for target in found.targets] == targets
    assert found.status is None


def test_status_and_headers() -> None:
    """A redirection may have a status and header fields, each once or in several rows."""
    value = {"targets": ["sip:a@h"], "status": 301, "headers": {"Reason": "SIP;cause=302", "Warning": ["1", "2"]}}
    found = answer(json.dumps(value).encode())
    assert found is not None
    assert found.status == 301
    assert found.headers == (("Reason", "SIP;cause=302"), ("Warning", "1"), ("Warning", "2"))


def test_refusal() -> None:
    """A refusal is raised, with its status, reason and header fields."""
    value = {"version": 1, "refuse": {"status": 486, "reason": "Nicht da: später", "headers": {"Retry-After": "60"}}}
    with pytest.raises(SIPError) as raised:
        answer(json.dumps(value).encode())
    assert (raised.value.status, raised.value.reason) == (486, "Nicht da: später")
    assert raised.value.headers == (("Retry-After", "60"),)


FAULTS = [
    ("", "the answer: expected JSON"),
    ("{", "the answer: expected JSON"),
    ("[" * 60_000, "the answer: expected JSON"),
    ('{"targets": [' + "9" * 5000 + "]}", "the answer: expected JSON"),
    ("[]", "the answer: expected an object"),
    ("null", "the answer: expected an object"),
    ('{"target": []}', "the answer: expected no other members than version, targets, status, headers, refuse"),
    ('{"version": 2}', "version: expected 1"),
    ('{"status": 302}', "targets: expected them beside a status or headers"),
    ('{"headers": {}}', "targets: expected them beside a status or headers"),
    ('{"targets": []}', "targets: expected a list of 1 to 100"),
    ('{"targets": "sip:a@h"}', "targets: expected a list of 1 to 100"),
    (json.dumps({"targets": ["sip:a@h"] * 101}), "targets: expected a list of 1 to 100"),
    ('{"targets": [1]}', "targets[0]: expected an object"),
    ('{"targets": ["bob"]}', "targets[0].uri: expected a URI"),
    ('{"targets": ["sip:a@h", {}]}', "targets[1].uri: expected text without control characters"),
    ('{"targets": ["sip:a@h\\r\\nEvil: 1"]}', "targets[0].uri: expected text without control characters"),
    ('{"targets": ["sip:a@h>;q=1,<sip:b@h"]}', "targets[0].uri: expected a URI"),
    ('{"targets": ["sip:\\udcff@h"]}', "targets[0].uri: expected text of whole characters"),
    ('{"targets": [{"uri": "sip:a@h", "q": 1.1}]}', "targets[0].q: expected a number from 0 to 1"),
    ('{"targets": [{"uri": "sip:a@h", "q": NaN}]}', "targets[0].q: expected a number from 0 to 1"),
    ('{"targets": [{"uri": "sip:a@h", "q": true}]}', "targets[0].q: expected a number from 0 to 1"),
    ('{"targets": [{"uri": "sip:a@h", "q": "1"}]}', "targets[0].q: expected a number from 0 to 1"),
    ('{"targets": [{"uri": "sip:a@h", "expires": -1}]}', "targets[0].expires: expected a whole number from 0 to 4294"),
    ('{"targets": [{"uri": "sip:a@h", "expires": 1.5}]}', "targets[0].expires: expected a whole number from 0 to 4294"),
    ('{"targets": [{"uri": "sip:a@h", "name": "x"}]}', "targets[0]: expected no other members than uri, q, expires"),
    ('{"targets": [{"uri": "sip:a@h", "display_name": 1}]}', "targets[0].display_name: expected text without control"),
    ('{"targets": [{"uri": "sip:a@h", "parameters": {"q": "1"}}]}', "targets[0].parameters: expected names of further"),
    ('{"targets": [{"uri": "sip:a@h", "parameters": {"a;b": "1"}}]}', "targets[0].parameters: expected names of"),
    ('{"targets": [{"uri": "sip:a@h", "parameters": {"a": "1,<sip:b@h>"}}]}', "targets[0].parameters.a: expected a"),
    ('{"targets": [{"uri": "sip:a@h", "parameters": {"a": "\\"1"}}]}', "targets[0].parameters.a: expected a token, a"),
    ('{"targets": [{"uri": "sip:a@h", "parameters": {"a": 1}}]}', "targets[0].parameters.a: expected text without"),
    ('{"targets": ["sip:a@h"], "status": 305}', "status: expected 300, 301, 302 or 380"),
    ('{"targets": ["sip:a@h"], "status": 302.0}', "status: expected 300, 301, 302 or 380"),
    ('{"targets": ["sip:a@h"], "status": [302]}', "status: expected 300, 301, 302 or 380"),
    ('{"targets": ["sip:a@h"], "headers": []}', "headers: expected an object"),
    ('{"targets": ["sip:a@h"], "headers": {"a b": "x"}}', "headers: expected names of header fields"),
    ('{"targets": ["sip:a@h"], "headers": {"X": "a\\r\\nVia: b"}}', "headers.X: expected text without control"),
    ('{"targets": ["sip:a@h"], "headers": {"X": null}}', "headers.X: expected text without control characters"),
    ('{"targets": ["sip:a@h"], "headers": {"VIA": "x"}}', "headers.VIA: expected another header field, as the"),
    ('{"targets": ["sip:a@h"], "headers": {"e": "x"}}', "headers.e: expected another header field, as the response"),
    ('{"targets": ["sip:a@h"], "headers": {"m": "x"}}', "headers.m: expected another header field, as the response"),
    ('{"targets": ["sip:a@h"], "headers": {"Require": "x"}}', "headers.Require: expected another header field"),
    ('{"refuse": {"status": 302}}', "refuse.status: expected a number from 400 to 699"),
    ('{"refuse": {}}', "refuse.status: expected a number from 400 to 699"),
    ('{"refuse": 486}', "refuse: expected an object"),
    ('{"refuse": {"status": 486, "reason": "a\\nb"}}', "refuse.reason: expected text without control characters"),
    ('{"refuse": {"status": 486}, "targets": ["sip:a@h"]}', "refuse: expected nothing beside it"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), FAULTS, ids=lambda value: value[:40])
def test_fault(text: str, said: str) -> None:
    """A wrong answer is a ValueError of one line that says where, and what was expected."""
    with pytest.raises(ValueError) as raised:
        answer(text.encode())
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_fault_of_octets() -> None:
    """What is no UTF-8 is no JSON (RFC 8259, 8.1)."""
    with pytest.raises(ValueError, match="expected JSON"):
        answer(b'{"targets": ["sip:\xff@h"]}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "version targets status headers refuse uri q expires display_name parameters reason".split()
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_answer(value: Any) -> None:
    """Whatever JSON comes, it is an answer that makes a whole response, a refusal, or a ValueError."""
    try:
        found = answer(json.dumps(value).encode())
    except (SIPError, ValueError):
        return
    if found is not None:
        assert isinstance(found, Redirection)
        response = make_request().response(found.status or 302, contacts=found.targets, headers=found.headers)
        assert response.to_bytes().count(b"\r\n\r\n") == 1
