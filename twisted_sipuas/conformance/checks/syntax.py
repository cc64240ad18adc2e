"""Is what the grammar allows understood, and what it forbids refused? (7, 19, 25, and torture messages of RFC 4475)

RFC 4475 is informational. What it has understood follows from the grammar: IS; what it has refused, it says SHOULD be.
"""

from __future__ import annotations

import re

from twisted_sipuas.conformance.check import Broken, Level, NotJudged, judges
from twisted_sipuas.conformance.client import Client
from twisted_sipuas.conformance.exchange import Answer
from twisted_sipuas.syntax.headers import COMPACT_NAMES

__all__: list[str] = []

_ODD_METHOD = "!interesting-Method0123456789_*+`.%indeed'~"


# What has to be understood


@judges("7.1-1", Level.MUST, "SIP-Version is compared without regard to case")
def version_has_no_case(client: Client) -> None:
    client.expect_usual(client.ask(reword=lambda octets: octets.replace(b" SIP/2.0\r\n", b" sip/2.0\r\n", 1)))


@judges("7.3.1-1", Level.MUST, "a comma list is as good as several rows")
def comma_list_of_vias(client: Client) -> None:
    passed = "SIP/2.0/UDP one.example.com;branch=z9hG4bK1, SIP/2.0/UDP two.example.com;branch=z9hG4bK2"
    answer = client.ask(vias=(passed,))
    found = [via.sent_by for via in answer.vias]
    if found[1:] != ["one.example.com", "two.example.com"]:
        raise Broken(f"{answer.name} has Via of {', '.join(found)}")


@judges("7.3.3-1", Level.MUST, "compact names are understood")
def compact_names(client: Client) -> None:
    client.expect_usual(client.ask(reword=_compacted))


@judges("4475-3.1.1.1", Level.IS, "names of header fields have no case")
def names_have_no_case(client: Client) -> None:
    client.expect_usual(client.ask(reword=lambda octets: _renamed(octets, lambda name: name.swapcase())))


@judges("4475-3.1.1.1", Level.IS, "white space around the colon and in values is nothing")
def white_space_around_colons(client: Client) -> None:
    client.expect_usual(client.ask(reword=_spaced))


@judges("4475-3.1.1.1", Level.IS, "a header field may be folded")
def folded_header_fields(client: Client) -> None:
    client.expect_usual(client.ask(reword=_folded))


@judges("4475-3.1.1.1", Level.IS, "CSeq may be folded between number and method")
def folded_cseq(client: Client) -> None:
    fold = rb"\r\nCSeq: \1\r\n  "
    client.expect_usual(client.ask(reword=lambda octets: re.sub(rb"\r\nCSeq: (\d+) ", fold, octets)))


@judges("4475-3.1.1.2", Level.IS, "a method of odd characters is answered", roles=("redirect", "uas", "stateless"))
def odd_method_is_answered(client: Client) -> None:
    answer = client.ask(_ODD_METHOD)
    if answer.status == 400:
        raise Broken(f"{_ODD_METHOD} got {answer.name}")


@judges("4475-3.1.1.3", Level.IS, "an escaped user part is the user", roles=("redirect", "uas", "stateless"))
def escaped_user(client: Client) -> None:
    scheme, _, rest = client.target.uri.partition(":")
    if "@" not in rest:
        raise NotJudged(f"{client.target.uri} has no user part; --uri gives one that has")
    client.expect_usual(client.ask("INVITE", uri=f"{scheme}:%{ord(rest[0]):02X}{rest[1:]}"), "INVITE")


@judges("4475-3.1.1.7", Level.IS, "long values are accepted")
def long_values(client: Client) -> None:
    name = "I have a user name of extreme proportion " * 6
    client.expect_usual(client.ask(from_=f'"{name}" <sip:conformance@{client.channel.local}>'))


@judges("4475-3.1.1.10", Level.IS, "a Via of a transport nobody knows is copied")
def unknown_transport_in_via(client: Client) -> None:
    answer = client.ask(vias=("SIP/2.0/UNKNOWN t4.example.com;branch=z9hG4bKt4",))
    client.expect_usual(answer)
    if answer.vias[-1].transport != "UNKNOWN":
        raise Broken(f"{answer.name} has Via: {', '.join(answer.values('Via'))}")


@judges("4475-3.4.1", Level.IS, "a request as RFC 2543 had it, without a branch, is answered")
def request_without_branch(client: Client) -> None:
    client.expect_usual(client.ask(branch="", via_parameters="", headers=(("Max-Forwards", "70"),)))


@judges("19.1.1-1", Level.MUST, "a URI parameter that is not known is ignored")
def unknown_uri_parameter(client: Client) -> None:
    client.expect_usual(client.ask(uri=f"{client.target.uri};x-unknown=1"))


# What has to be refused


@judges("4475-3.3.1", Level.SHOULD, "a request without Call-ID, From and To gets 400")
def missing_header_fields(client: Client) -> None:
    _expect_400(client.ask(without=("Call-ID", "From", "To")), "a request without Call-ID, From and To")


@judges("21.4.1-1", Level.SHOULD, "the reason phrase of a 400 names the fault")
def reason_names_the_fault(client: Client) -> None:
    answer = client.ask(reword=_with_another_cseq_method)
    if answer.status != 400:
        raise NotJudged(f"another method in CSeq got {answer.name}, not 400")
    if answer.reason.strip().lower() in ("", "bad request"):
        raise Broken(f"the reason phrase is {answer.reason!r}")


@judges("4475-3.1.2.17", Level.SHOULD, "a method in CSeq that is not the request's gets 400")
def cseq_of_another_method(client: Client) -> None:
    _expect_400(client.ask(reword=_with_another_cseq_method), "another method in CSeq")


@judges("4475-3.1.2.4", Level.SHOULD, "a CSeq number past 2**32-1 gets 400")
def huge_cseq(client: Client) -> None:
    answer = client.ask(reword=lambda octets: octets.replace(b"\r\nCSeq: 1 ", b"\r\nCSeq: 36893488147419103232 "))
    _expect_400(answer, "CSeq 36893488147419103232")


@judges("4475-3.1.2.3", Level.SHOULD, "a negative Content-Length gets 400", transports=("UDP",))
def negative_content_length(client: Client) -> None:
    answer = client.ask(reword=lambda octets: re.sub(rb"Content-Length: \d+", b"Content-Length: -999", octets))
    _expect_400(answer, "Content-Length: -999")


@judges("4475-3.1.2.6", Level.SHOULD, "a To with an unbalanced quote gets 400")
def unbalanced_quote(client: Client) -> None:
    answer = client.ask(to=f'"Mr. J. User <{client.target.uri}>')
    _expect_400(answer, "an unbalanced quote in To")


@judges("4475-3.1.2.7", Level.SHOULD, "a Request-URI in angle brackets gets 400, or is served")
def request_uri_in_brackets(client: Client) -> None:
    _expect_400_or_usual(client, client.ask(uri=f"<{client.target.uri}>"), "a Request-URI in angle brackets")


@judges("4475-3.1.2.8", Level.SHOULD, "a Request-URI with white space inside gets 400, or is served")
def request_uri_with_space(client: Client) -> None:
    uri = client.target.uri.encode()
    answer = client.ask(reword=lambda octets: octets.replace(b" " + uri + b" ", b" " + uri + b"; lr ", 1))
    _expect_400_or_usual(client, answer, "a Request-URI with white space inside")


@judges("4475-3.1.2.16", Level.SHOULD, "another SIP-Version gets 505")
def another_version(client: Client) -> None:
    answer = client.ask(reword=lambda octets: octets.replace(b" SIP/2.0\r\n", b" SIP/7.0\r\n", 1))
    if answer.status != 505:
        raise Broken(f"SIP/7.0 got {answer.name}")


@judges("4475-3.3.8", Level.SHOULD, "two values where one may be get 400")
def repeated_header_fields(client: Client) -> None:
    headers = (("Call-ID", "another"), ("CSeq", f"8 {client.method}"), ("To", "<sip:another@example.com>"))

    def doubled(octets: bytes) -> bytes:
        head, _, body = octets.partition(b"\r\n\r\n")
        rows = "".join(f"\r\n{name}: {value}" for name, value in headers)
        return head + rows.encode() + b"\r\n\r\n" + body

    _expect_400(client.ask(reword=doubled), "two of Call-ID, CSeq and To")


def _expect_400(answer: Answer, what: str) -> None:
    if answer.status != 400:
        raise Broken(f"{what} got {answer.name}")


def _expect_400_or_usual(client: Client, answer: Answer, what: str) -> None:
    """RFC 4475 lets a server be liberal here."""
    if answer.status != client.usual(client.method).status:
        _expect_400(answer, what)


def _with_another_cseq_method(octets: bytes) -> bytes:
    return re.sub(rb"\r\nCSeq: (\d+) \w+", rb"\r\nCSeq: \1 MESSAGE", octets)


def _renamed(octets: bytes, rename: object) -> bytes:
    head, end, body = octets.partition(b"\r\n\r\n")
    start_line, *lines = head.decode().split("\r\n")
    pairs = [line.partition(":") for line in lines]
    renamed = [f"{rename(name)}:{value}" for name, _, value in pairs]  # type: ignore[operator]
    return "\r\n".join([start_line, *renamed]).encode() + end + body


def _compacted(octets: bytes) -> bytes:
    return _renamed(octets, lambda name: COMPACT_NAMES.get(name.lower(), name))


def _spaced(octets: bytes) -> bytes:
    """White space before the colon, a tab after it, and spaces where the grammar has SWS."""
    spaced = _renamed(octets, lambda name: f"{name} \t ")
    return spaced.replace(b";tag=", b" ; tag = ").replace(b":  ", b":\t ")


def _folded(octets: bytes) -> bytes:
    """A line break with white space behind it, where the grammar has LWS."""
    return octets.replace(b"\r\nFrom: ", b"\r\nFrom:\r\n  ").replace(b"\r\nTo: ", b"\r\nTo:\r\n\t")
