"""Which extensions and methods does a message name?"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.grammar import TOKEN
from twisted_sipuas.syntax.tokens import Allow, OptionTag, ProxyRequire, Require, Supported, Unsupported
from twisted_sipuas.syntax.values import HeaderValue

TAGS = {"Require": Require, "Proxy-Require": ProxyRequire, "Supported": Supported, "Unsupported": Unsupported}
KINDS = [*TAGS.values(), Allow]


@pytest.mark.parametrize(("field", "kind"), TAGS.items())
def test_option_tags(field: str, kind: type[OptionTag]) -> None:
    """An option tag is a token without regard to case, each header field's own kind (19.2, 20.29 to 20.40)."""
    assert kind.field == field
    assert kind.parse("100Rel").tag == str(kind("100rel")) == "100rel"
    assert kind.parse("100REL") in {kind("100rel")}
    assert kind("timer") != kind("100rel")
    assert {Require("timer"), Supported("timer")} == {Supported("timer"), Require("timer")}
    assert Require("timer") != Supported("timer")


def test_methods() -> None:
    """The case of a method counts (7.1, 20.5)."""
    assert Allow.parse("INVITE").method == str(Allow("INVITE")) == "INVITE"
    assert Allow("invite") != Allow("INVITE")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "a b", "a,b", "a;b", '"a"', "a@b", "a\r\nb", "\0", "é"])
def test_no_token(kind: type[Allow] | type[OptionTag], text: str) -> None:
    """What is no token is the peer's fault when parsed, and our caller's when made (25.1)."""
    with pytest.raises(MessageSyntaxError, match=f"^Malformed {kind.field} header field$"):
        kind.parse(text)
    with pytest.raises(ValueError) as caught:
        kind(text)
    assert not isinstance(caught.value, MessageSyntaxError)


@given(st.sampled_from(KINDS), st.from_regex(TOKEN, fullmatch=True))
def test_print_and_parse_again(kind: type[Allow] | type[OptionTag], text: str) -> None:
    """Whatever is made prints to text that parses to the same value (25.1)."""
    value = kind(text)
    assert kind.parse(str(value)) == value


@given(st.sampled_from(KINDS), st.text())
def test_any_text_parses_or_raises_the_one_error(kind: type[HeaderValue], text: str) -> None:
    """Any text at all is a value or a `MessageSyntaxError` (25.1)."""
    with contextlib.suppress(MessageSyntaxError):
        kind.parse(text)
