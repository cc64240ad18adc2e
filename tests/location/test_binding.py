"""Does a REGISTER change bindings as steps 6 and 7 of RFC 3261, 10.3 say, or leave them alone?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.errors import SIPError
from twisted_sipuas.location.binding import Binding, Limits, Registration, apply, contact_value
from twisted_sipuas.syntax.fields import Contact
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import make_request

NOW = 1_700_000_000.25


def registration(*contacts: str, expires: str | None = None, call_id: str = "new", cseq: int = 10) -> Any:
    """What a REGISTER with these Contact values and this Expires asks for."""
    headers = [("Contact", contact) for contact in contacts]
    if expires is not None:
        headers.append(("Expires", expires))
    request = make_request("REGISTER", "sip:example.com", headers=tuple(headers), call_id=call_id, cseq=cseq)
    return Registration.from_request(request)


def binding(
    uri: str = "sip:bob@192.0.2.4", *, left: float = 600.0, call_id: str = "old", cseq: int = 5, **more: Any
) -> Binding:
    return Binding(uri, NOW + left, call_id, cseq, **more)


def applied(change: Any, *bindings: Binding, **limits: int) -> Any:
    return apply(change, bindings, NOW, Limits(**limits))


def refusal(change: Any, *bindings: Binding, **limits: int) -> SIPError:
    with pytest.raises(SIPError) as raised:
        applied(change, *bindings, **limits)
    return raised.value


def intervals(bindings: Any) -> dict[str, int]:
    return {binding.uri_text: binding.remaining(NOW) for binding in bindings}


# Step 6


@pytest.mark.requirement("10.3-21")
def test_query() -> None:
    """Without Contact the bindings stay as they are, whatever Call-ID, CSeq and Expires say."""
    before = (binding(), binding("sip:bob@192.0.2.5"))
    assert applied(registration(expires="0", call_id="old", cseq=1), *before) == before


@pytest.mark.requirement("10.3-22")
@pytest.mark.parametrize(
    ("contacts", "expires"),
    [
        (["*", "<sip:bob@192.0.2.4>"], "0"),
        (["<sip:bob@192.0.2.4>, *"], "0"),
        (["*", "*"], "0"),
        (["*"], "1"),
        (["*"], None),
        (["*"], "soon"),
    ],
)
def test_star_together_with_more(contacts: list[str], expires: str | None) -> None:
    """Contact * together with other contacts or an expiration other than zero gets 400."""
    with pytest.raises(SIPError) as raised:
        registration(*contacts, expires=expires)
    assert (raised.value.status, raised.value.rule) == (400, "10.3-22")


@pytest.mark.requirement("10.3-23")
def test_star_of_another_call_id() -> None:
    """Contact * removes bindings of a different Call-ID, whatever its CSeq."""
    assert applied(registration("*", expires="0", cseq=1), binding(), binding("tel:+1")) == ()


@pytest.mark.requirement("10.3-24")
def test_star_of_the_same_call_id() -> None:
    """Contact * removes bindings of the same Call-ID if its CSeq is higher."""
    assert applied(registration("*", expires="0", call_id="old", cseq=6), binding()) == ()


@pytest.mark.requirement("10.3-25")
@pytest.mark.parametrize("cseq", [5, 4])
def test_star_out_of_order(cseq: int) -> None:
    """Contact * of the same Call-ID whose CSeq is not higher fails as a whole."""
    change = registration("*", expires="0", call_id="old", cseq=cseq)
    fault = refusal(change, binding("sip:x@h", call_id="other"), binding())
    assert (fault.status, fault.rule) == (500, "10.3-25")


def test_star_and_expired_binding() -> None:
    """A binding that expired is none, so that its CSeq is in nobody's way (10.3)."""
    assert applied(registration("*", expires="0", call_id="old", cseq=1), binding(left=0)) == ()


# Step 7: intervals


@pytest.mark.requirement("10.3-26")
def test_expires_parameter() -> None:
    """The expires parameter of a Contact is its interval, before the Expires header field."""
    change = registration("<sip:a@h>;expires=100", "<sip:b@h>", expires="200")
    assert intervals(applied(change))["sip:a@h"] == 100


@pytest.mark.requirement("10.3-27")
def test_expires_header_field() -> None:
    """Without an expires parameter the Expires header field is the interval."""
    change = registration("<sip:a@h>;expires=100", "<sip:b@h>", expires="200")
    assert intervals(applied(change))["sip:b@h"] == 200


@pytest.mark.requirement("10.3-28")
@pytest.mark.parametrize("expires", [None, "soon", "-1", "1.5"])
def test_default_interval(expires: str | None) -> None:
    """Without either, or with an Expires that says no seconds (20.19), the configured default is the interval."""
    assert intervals(applied(registration("<sip:a@h>", expires=expires), default_expires=1234)) == {"sip:a@h": 1234}


def test_default_interval_is_not_refused() -> None:
    """423 is for an interval that was asked for: a default below the minimum is the operator's word (10.3)."""
    assert intervals(applied(registration("<sip:a@h>"), default_expires=30)) == {"sip:a@h": 30}


def test_malformed_expires_parameter() -> None:
    """A malformed expires parameter counts as 3600 (20.10)."""
    assert intervals(applied(registration("<sip:a@h>;expires=soon", expires="200"))) == {"sip:a@h": 3600}


@pytest.mark.requirement("10.3-29")
@pytest.mark.parametrize("asked", ["7201", "4294967295", "99999999999999999999999999"])
def test_longest_interval(asked: str) -> None:
    """A longer interval than the maximum is granted as the maximum."""
    assert intervals(applied(registration(f"<sip:a@h>;expires={asked}"), max_expires=7200)) == {"sip:a@h": 7200}


@pytest.mark.requirement("10.3-31")
def test_interval_too_brief() -> None:
    """An interval below the minimum gets 423 with Min-Expires, even beside one that is long enough."""
    fault = refusal(registration("<sip:a@h>;expires=59", "<sip:b@h>;expires=60"))
    assert (fault.status, fault.headers) == (423, (("Min-Expires", "60"),))


@pytest.mark.requirement("10.3-30")
@pytest.mark.parametrize("asked", [0, 60, 3600, 7199])
def test_interval_not_too_brief(asked: int) -> None:
    """423 is not for zero, nor for what is not below the minimum, nor for an hour and more."""
    limits = {"min_expires": 7200} if asked >= 3600 else {}
    bindings = applied(registration(f"<sip:a@h>;expires={asked}"), **limits)
    assert intervals(bindings) == ({"sip:a@h": asked} if asked else {})


# Step 7: bindings


@pytest.mark.requirement("10.3-33")
def test_equivalent_contact() -> None:
    """A contact is the binding that it is equivalent to by 19.1.4, and otherwise is added behind the others."""
    before = (binding("sip:bob@Host.example.com;lr"), binding("tel:+1-555"))
    after = applied(
        registration("<sip:%62ob@host.EXAMPLE.com>;expires=60", "<tel:+1555>;expires=61", "<sip:Bob@host.example.com>"),
        *before,
    )
    assert intervals(after) == {"sip:%62ob@host.EXAMPLE.com": 60, "tel:+1555": 61, "sip:Bob@host.example.com": 3600}
    assert list(intervals(after)) == ["sip:%62ob@host.EXAMPLE.com", "tel:+1555", "sip:Bob@host.example.com"]


@pytest.mark.requirement("10.3-34")
@pytest.mark.parametrize("cseq", [1, 5, 6])
def test_another_call_id(cseq: int) -> None:
    """A binding of a different Call-ID is updated, or removed for zero, whatever the CSeq."""
    assert intervals(applied(registration("<sip:bob@192.0.2.4>", cseq=cseq), binding())) == {"sip:bob@192.0.2.4": 3600}
    assert applied(registration("<sip:bob@192.0.2.4>", expires="0", cseq=cseq), binding()) == ()


@pytest.mark.requirement("10.3-35")
def test_same_call_id() -> None:
    """A binding of the same Call-ID is updated, or removed for zero, by a higher CSeq."""
    change = registration("<sip:bob@192.0.2.4>", call_id="old", cseq=6)
    assert intervals(applied(change, binding())) == {"sip:bob@192.0.2.4": 3600}
    assert applied(registration("<sip:bob@192.0.2.4>", expires="0", call_id="old", cseq=6), binding()) == ()


@pytest.mark.requirement("10.3-36")
@pytest.mark.parametrize("expires", ["0", "3600"])
@pytest.mark.parametrize("cseq", [5, 4])
def test_out_of_order(cseq: int, expires: str) -> None:
    """A request of the same Call-ID whose CSeq is not higher fails as a whole."""
    change = registration("<sip:new@h>", "<sip:bob@192.0.2.4>", expires=expires, call_id="old", cseq=cseq)
    fault = refusal(change, binding())
    assert (fault.status, fault.rule) == (500, "10.3-36")


def test_expired_binding() -> None:
    """A binding that expired is dropped, and its CSeq is in nobody's way (10.3)."""
    assert applied(registration(), binding(left=0), binding("tel:+1", left=0.1)) == (binding("tel:+1", left=0.1),)
    change = registration("<sip:bob@192.0.2.4>", call_id="old", cseq=1)
    assert intervals(applied(change, binding(left=0))) == {"sip:bob@192.0.2.4": 3600}


@pytest.mark.requirement("10.3-37")
def test_binding_keeps_call_id_and_cseq() -> None:
    """A binding has the Call-ID and CSeq of the request that made it, and what its Contact says."""
    value = '"Bob \\"B\\"" <sip:bob@192.0.2.9>;Q=0.25;+sip.instance="<urn:uuid:1>";expires=90;reg-id=1;flag'
    (made,) = applied(registration(value))
    assert made == Binding(
        "sip:bob@192.0.2.9", NOW + 90, "new", 10, 0.25, 'Bob "B"', ';+sip.instance="<urn:uuid:1>";reg-id=1;flag'
    )


def test_order_is_kept() -> None:
    """An update keeps its place among the bindings."""
    before = [binding(f"sip:{name}@h") for name in "abc"]
    after = applied(registration("<sip:d@h>", "<sip:b@h>;q=0.1"), *before)
    assert [binding.uri_text for binding in after] == ["sip:a@h", "sip:b@h", "sip:c@h", "sip:d@h"]


def test_same_contact_twice() -> None:
    """Of a contact named twice in one request the last counts, and the first is not what it is compared with (10.3)."""
    change = registration("<sip:a@h>;expires=100", "<sip:A@h>", "<sip:a@H>;expires=200", call_id="c", cseq=1)
    assert intervals(applied(change)) == {"sip:A@h": 3600, "sip:a@H": 200}
    assert intervals(applied(registration("<sip:a@h>", "<sip:a@h>;expires=0"), binding("sip:a@h"))) == {}


def test_contact_that_matches_several() -> None:
    """A contact equivalent to bindings that differ from each other (19.1.4 is not transitive) replaces them all."""
    before = (binding("sip:a@h;line=1"), binding("sip:a@h;line=2"), binding("sip:b@h"))
    assert list(intervals(applied(registration("<sip:a@h>"), *before))) == ["sip:a@h", "sip:b@h"]
    assert list(intervals(applied(registration("<sip:a@h>;expires=0"), *before))) == ["sip:b@h"]


def test_several_contacts_that_match_one() -> None:
    """Contacts that differ from each other, but are equivalent to one binding, are both kept (19.1.4)."""
    after = applied(registration("<sip:a@h;line=1>", "<sip:a@h;line=2>"), binding("sip:a@h"))
    assert list(intervals(after)) == ["sip:a@h;line=1", "sip:a@h;line=2"]


def test_removing_what_is_not_there() -> None:
    """Removing an unknown contact is no fault, and adds none."""
    before = (binding(),)
    assert applied(registration("<sip:who@h>;expires=0"), *before) == before


def test_too_many_contacts() -> None:
    """More bindings than the bound are refused with 403, whether in one request or one after the other."""
    before = [binding(f"sip:{number}@h") for number in range(2)]
    assert len(applied(registration("<sip:x@h>"), *before, max_contacts=3)) == 3
    assert refusal(registration("<sip:x@h>"), *before, max_contacts=2).status == 403
    assert refusal(registration("<sip:x@h>, <sip:y@h>, <sip:z@h>;expires=0"), max_contacts=2).status == 403
    assert len(applied(registration("<sip:0@h>", "<sip:x@h>;expires=0"), *before, max_contacts=2)) == 2


def test_bound_lowered() -> None:
    """Bindings from before the bound was lowered can be refreshed and removed, not added to."""
    before = [binding(f"sip:{number}@h") for number in range(3)]
    assert len(applied(registration("<sip:0@h>"), *before, max_contacts=1)) == 3
    assert len(applied(registration("<sip:0@h>;expires=0"), *before, max_contacts=1)) == 2
    assert refusal(registration("<sip:x@h>"), *before, max_contacts=1).status == 403


@pytest.mark.parametrize("contact", ["<sip:>", "<sip:a@h", "nothing", "<sip:a@h>;;", "<sip:a b@h>"])
def test_malformed_contact(contact: str) -> None:
    """A Contact that is malformed gets 400 naming the field (21.4.1)."""
    with pytest.raises(SIPError) as raised:
        registration("<sip:good@h>", contact)
    assert (raised.value.status, raised.value.reason) == (400, "Malformed Contact header field")


@pytest.mark.parametrize("contact", [b'"\\\0" <sip:a@h>', b'<sip:a@h>;x="\\\0"'])
def test_contact_with_nul(contact: bytes) -> None:
    """A Contact with NUL as a quoted-pair (25.1) gets 400, as no response could list such a binding."""
    octets = make_request("REGISTER", headers=(("Contact", "CONTACT"),)).to_bytes()
    request = parse_message(octets.replace(b"CONTACT", contact))
    assert isinstance(request, Request)
    with pytest.raises(SIPError, match="Malformed Contact"):
        Registration.from_request(request)


# What is listed


@pytest.mark.requirement("10.3-43")
@pytest.mark.parametrize("now", [1_700_000_000.25, 1_700_000_000.1, 0.7, 1.1e9])
@pytest.mark.parametrize("interval", [60, 3600, 86399])
def test_listed_interval(now: Any, interval: int) -> None:
    """A binding just made is listed with the very interval that was granted."""
    change = registration(f"<sip:a@h>;expires={interval}")
    (made,) = apply(change, (), now, Limits())
    assert contact_value(made, now) == f"<sip:a@h>;expires={interval}"


def test_listed_value() -> None:
    """What a Contact said is listed again, with the interval left; a current binding never has none left (10.3)."""
    made = binding(q=0.7, left=0.2, display_name='B "', parameters=";reg-id=1")
    assert contact_value(made, NOW) == '"B \\"" <sip:bob@192.0.2.4>;q=0.7;expires=1;reg-id=1'
    listed = Contact(contact_value(binding(left=599.6), NOW))
    assert (listed.expires, listed.q) == (600, None)


# Invariants

URIS = st.sampled_from(
    ["sip:a@h", "sip:a@h;x=1", "sip:a@h;x=2", "sip:a@h;y=1", "sip:%61@H", "sip:a@h;transport=tcp", "sips:a@h", "tel:+1"]
)
CONTACTS = st.tuples(URIS, st.sampled_from([0, 60, 600])).map(lambda parts: f"<{parts[0]}>;expires={parts[1]}")
REGISTRATIONS = st.tuples(st.lists(CONTACTS, max_size=5), st.sampled_from("ij"), st.integers(1, 3))


@given(st.lists(st.tuples(REGISTRATIONS, st.integers(0, 300)), max_size=6))
def test_any_sequence(sequence: list[Any]) -> None:
    """After any requests no two bindings are equivalent, the last word on each contact holds, and no other changed."""
    bindings: tuple[Binding, ...] = ()
    now = NOW
    for (contacts, call_id, cseq), seconds in sequence:
        now += seconds
        change = registration(*contacts, call_id=call_id, cseq=cseq)
        try:
            after = apply(change, bindings, now, Limits(max_contacts=4))
        except SIPError:
            continue
        uris = [binding.uri for binding in after]
        assert not any(uri.equivalent(other) for n, uri in enumerate(uris) for other in uris[:n])
        for number, contact in enumerate(change.contacts):
            if not any(contact.uri.equivalent(later.uri) for later in change.contacts[number + 1 :]):
                found = [binding for binding in after if binding.uri.equivalent(contact.uri)]
                assert [binding.uri_text for binding in found] == ([contact.uri_text] if contact.expires else [])
        others = [
            binding for binding in bindings
            if binding.expires_at > now and not any(contact.uri.equivalent(binding.uri) for contact in change.contacts)
        ]  # fmt: skip
        assert [binding for binding in after if binding in others] == others
        assert all(binding.expires_at > now for binding in after)
        bindings = after
