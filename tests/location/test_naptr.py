"""Do NAPTR records mean what RFC 6116 says of them?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.location.naptr import Rule, domain_of, number_of
from twisted_sipuas.syntax.uri import parse_uri

NUMBER = "+441632960083"


def rule(
    regexp: str = "!^.*$!sip:info@example.com!", *, flags: str = "u", services: str = "E2U+sip", replacement: str = ""
) -> Rule:
    return Rule(100, 10, flags, services, regexp, replacement)


@pytest.mark.parametrize(
    ("uri", "number"),
    [
        ("tel:+441632960083", NUMBER),
        ("tel:+44-1632-(960)083;ext=5", NUMBER),
        ("sip:+441632960083@example.com;user=phone", NUMBER),
        ("sips:+44.1632.960083@example.com;user=PHONE", NUMBER),
        ("sip:+441632960083;npdi;rn=+441@example.com;user=phone", NUMBER),
        ("sip:%2B441632960083@example.com", NUMBER),
        ("sip:+441632960083:secret@example.com", NUMBER),
        ("sip:+123456789012345@h", "+123456789012345"),
        ("sip:+1234567890123456@h", None),
        ("sip:+441632960083@example.com;user=ip", None),
        ("tel:960083;phone-context=+441632", None),
        ("tel:112", None),
        ("sip:441632960083@example.com;user=phone", None),
        ("sip:+@example.com", None),
        ("sip:+44a@example.com", None),
        ("sip:+\u0664@example.com", None),
        ("sip:bob@example.com", None),
        ("sip:example.com", None),
        ("mailto:+44@example.com", None),
    ],
)
def test_number(uri: str, number: str | None) -> None:
    """A global number of at most 15 digits is looked up, without visual separators; nothing else is (6116, 3.1)."""
    assert number_of(parse_uri(uri)) == number


def test_domain() -> None:
    """The first key is the digits backwards, with dots between them, below the suffix (6116, 3.2)."""
    assert domain_of("+442079460148", "e164.arpa") == "8.4.1.0.6.4.9.7.0.2.4.4.e164.arpa"


@pytest.mark.parametrize(
    ("services", "is_for_sip"),
    [
        ("E2U+sip", True),
        ("e2u+SIP", True),
        ("E2U+sip:sub", True),
        ("E2U+email:mailto+sip:a:b", True),
        ("sip+E2U", True),
        ("E2U+sips", False),
        ("E2U+pstn:sip", False),
        ("E2U+h323", False),
        ("E2U", False),
        ("E2U+", False),
        ("E2U+sip+", False),
        ("E2U sip", False),
        ("SIP+D2U", False),
        ("", False),
    ],
)
def test_services(services: str, is_for_sip: bool) -> None:
    """One enumservice of type sip is enough, whatever the case, in the syntax of RFC 2916 too (6116, 3.4.3, 5.2)."""
    assert rule(services=services).is_for_sip == is_for_sip


@pytest.mark.parametrize(
    ("regexp", "uri"),
    [
        (r"!^(\+441632960083)$!sip:\1@example.com!", "sip:+441632960083@example.com"),
        (r"!^\+44(.*)$!sip:0\1@example.com;x=\1!", "sip:01632960083@example.com;x=1632960083"),
        (r"!^.*$!sips:info@example.com!i", "sips:info@example.com"),
        (r"/^.*$/sip:a\/b@example.com/", "sip:a/b@example.com"),
        (r"|^\+(4\|41)4|sip:info@example.com|", None),
        (r"#^\+4(4)#sip:\1\1\1@example.com#", "sip:444@example.com"),
        (r"!^\+44(.)(.)(.)(.)(.)(.)(.)(.)(.)(.)$!sip:\9\8\7@h!", "sip:800@h"),
        (r"!^\+1(.*)$!sip:\1@example.com!", None),
        (r"!60083!SIP:Info@Example.com!", "SIP:Info@Example.com"),
    ],
)
def test_uri(regexp: str, uri: str | None) -> None:
    """The replacement is the URI, with what the groups matched; its case is kept (3402, 3.2; 6116, 3.6)."""
    made = rule(regexp).uri(NUMBER)
    assert (None if made is None else made.text) == uri


@pytest.mark.parametrize(
    "regexp",
    [
        "", "!", "!!!", "!^.*$!sip:a@b", "!^.*$!sip:a@b!x", "!^.*$!sip:a@b!i!", "!^.*$!sip:a!b@c!", r"\^.*$\sip:a@b\ ",
        "1^.*$1sip:a@b1", "i^.*$isip:a@bi", r"!^.*$!sip:\1@b!", r"!^(.*)$!sip:\2@b!", r"!^(.*)$!sip:\0@b!",
        r"!^.*$!sip:a\@b!", "!^.*$!tel:+1!", "!^.*$!mailto:a@b!", "!^.*$!sip:a b@c!", "!^.*$!!", "!^+44!sip:a@b!",
        "!^.*$!sip:a@b\\!", "!^.*$!sip:a\r\nEvil: 1@b!",
    ],
)  # fmt: skip
def test_malformed(regexp: str) -> None:
    """A malformed regexp, and one that makes no SIP URI, is a ValueError, for its record to be passed over (5.2)."""
    with pytest.raises(ValueError):
        rule(regexp).uri(NUMBER)


@given(st.text(max_size=60) | st.text("!^.*$()[]{}\\\\123+4sip:@h", max_size=60).map(lambda text: f"!{text}!"))
def test_any_regexp(regexp: str) -> None:
    """Any regexp makes a URI or none, or is a ValueError."""
    try:
        uri = rule(regexp).uri(NUMBER)
    except ValueError:
        return
    assert uri is None or uri.scheme in ("sip", "sips")


@pytest.mark.parametrize(
    ("flags", "replacement", "domain"),
    [
        ("", "Next.Example.com.", "next.example.com"),
        ("", "", None),
        ("", "a b.example.com", None),
        ("", ".".join(["a" * 63] * 4), None),
        ("", "a" * 64, None),
        ("u", "next.example.com", None),
        ("x", "next.example.com", None),
    ],
)
def test_non_terminal(flags: str, replacement: str, domain: str | None) -> None:
    """A record without flags leads to its replacement, if that is a domain name (6116, 5.2.1)."""
    assert rule(flags=flags, services="ignored", replacement=replacement).next_domain == domain


@pytest.mark.parametrize(("flags", "is_terminal"), [("u", True), ("U", True), ("", False), ("s", False), ("us", False)])
def test_terminal(flags: str, is_terminal: bool) -> None:
    """Only the flag U makes a URI, in either case (6116, 3.4.2)."""
    assert rule(flags=flags).is_terminal == is_terminal
