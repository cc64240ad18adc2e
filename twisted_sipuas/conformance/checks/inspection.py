"""Are requests inspected as 8.2.1 to 8.2.3 say: what is not understood refused, with what would be?"""

from __future__ import annotations

from twisted_sipuas.conformance.check import Broken, Level, NotJudged, judges
from twisted_sipuas.conformance.client import Client
from twisted_sipuas.conformance.draft import SDP, new_branch
from twisted_sipuas.conformance.exchange import Answer

__all__: list[str] = []

_USER_AGENT_SERVERS = ("uas", "stateless")
_UNKNOWN_TAG = "x-conformance-unknown"
_KNOWN_METHODS = ("PUBLISH", "REFER", "SUBSCRIBE", "MESSAGE", "INFO")
_UNKNOWN_TYPE = ("Content-Type", "application/x-conformance-unknown")


# 8.2.1, method


@judges("8.2.1-2", Level.MUST, "a method that is known but not served gets 405", roles=_USER_AGENT_SERVERS)
def known_method_gets_405(client: Client) -> None:
    method, answer = _refused_method(client)
    client.expect_refusal(answer, 405, f"{method}, which is not in Allow,")


@judges("8.2.1-3", Level.MUST, "a 405 has Allow", roles=_USER_AGENT_SERVERS)
def refusal_of_method_has_allow(client: Client) -> None:
    if "Allow" not in _answered_405(client).headers:
        raise Broken("405 lacks Allow")


@judges("8.2.1-4", Level.MUST, "Allow of a 405 lists the methods that are served", roles=_USER_AGENT_SERVERS)
def allow_lists_methods(client: Client) -> None:
    allowed = _answered_405(client).tokens("Allow")
    for exchange in client.specimens:
        if exchange.final is not None and exchange.final.status < 300 and exchange.method.lower() not in allowed:
            raise Broken(f"{exchange.method} is served, and not in Allow: {', '.join(sorted(allowed)).upper()}")


@judges("20.5-1", Level.MUST, "Allow lists ACK and CANCEL where it lists INVITE", roles=_USER_AGENT_SERVERS)
def allow_lists_ack_and_cancel(client: Client) -> None:
    seen = [answer for exchange in client.exchanges for answer in exchange.answers if "Allow" in answer.headers]
    if not any("invite" in answer.tokens("Allow") for answer in seen):
        raise NotJudged("no Allow with INVITE was seen")
    for answer in seen:
        allowed = answer.tokens("Allow")
        missing = {"ack", "cancel"} - allowed
        if "invite" in allowed and missing:
            raise Broken(f"Allow of {answer.name} lacks {' and '.join(sorted(missing)).upper()}")


@judges("21.5.2-1", Level.IS, "a method that nobody knows gets 501", roles=_USER_AGENT_SERVERS)
def unknown_method_gets_501(client: Client) -> None:
    client.expect_refusal(client.ask("CONFORM"), 501, "CONFORM")


# 8.2.2, header fields


@judges("8.2.2-1", Level.MUST, "a header field that is not understood is ignored")
def unknown_header_field_is_ignored(client: Client) -> None:
    client.expect_usual(client.ask(headers=(("X-Conformance-Unknown", "a, b;c=<d>"), ("NewFangledHeader", "1"))))


@judges("8.2.2-2", Level.SHOULD, "a malformed header field that is not needed is ignored")
def malformed_header_field_is_ignored(client: Client) -> None:
    client.expect_usual(client.ask(headers=(("Date", "yesterday"), ("Alert-Info", "<<<"), ("Subject", '"'))))


@judges("7.3.2-1", Level.MUST, "a header field that belongs into responses is ignored")
def header_field_of_responses_is_ignored(client: Client) -> None:
    client.expect_usual(client.ask(headers=(("Unsupported", "timer"), ("Retry-After", "5"), ("Min-Expires", "7"))))


@judges(
    "8.2.2.1-2",
    Level.RECOMMENDED,
    "a To whose scheme is not known is accepted",
    roles=("redirect", "uas", "stateless"),
)
def unknown_scheme_in_to_is_accepted(client: Client) -> None:
    client.expect_usual(client.ask(to="<x-unknown:nobody>"))


@judges(
    "8.2.2.1-4", Level.SHOULD, "an unknown scheme in the Request-URI gets 416", roles=("redirect", "uas", "stateless")
)
def unknown_scheme_in_request_uri_gets_416(client: Client) -> None:
    answer = client.ask(uri="x-unknown:nobody", to=f"<{client.target.uri}>")
    client.expect_refusal(answer, 416, "x-unknown:nobody")


@judges("8.2.2.2-2", Level.SHOULD, "a request that came by another way before gets 482", roles=("uas",))
def merged_request_gets_482(client: Client) -> None:
    method = client.method if client.channel.transport == "UDP" else "INVITE"  # by TCP Timer J is zero
    first = client.send(method, acknowledges=False)
    if method == "INVITE" and client.final(first).status < 300:
        raise NotJudged("INVITE was accepted, which ends its transaction, and no other lasts")
    request = first.request
    client.final(first)
    second = client.ask(
        method,
        call_id=request.call_id,
        from_tag=request.from_.tag,
        cseq=request.cseq.number,
        branch=new_branch(),
    )
    what = f"{method} with the same Call-ID, CSeq and From tag, and another branch,"
    client.expect_refusal(second, 482, what)


@judges("8.2.2.3-1", Level.MUST, "an unknown option tag in Require gets 420", roles=("uas", "registrar", "stateless"))
def unknown_option_tag_gets_420(client: Client) -> None:
    answer = client.ask(headers=(("Require", _UNKNOWN_TAG),))
    client.expect_refusal(answer, 420, f"{client.method} with Require: {_UNKNOWN_TAG}")


@judges("10.3-11", Level.MUST, "Require of a REGISTER is processed: no binding is made", roles=("registrar",))
def require_of_register_is_processed(client: Client) -> None:
    contact = "<sip:required@192.0.2.1>;expires=600"
    answer = client.ask(headers=(("Require", _UNKNOWN_TAG), ("Contact", contact)))
    if answer.status < 300:
        client.ask(headers=(("Contact", "<sip:required@192.0.2.1>;expires=0"),))
        raise Broken(f"REGISTER with Require: {_UNKNOWN_TAG} got {answer.name}")


@judges(
    "8.2.2.3-2",
    Level.MUST,
    "Unsupported of a 420 lists what is not understood",
    roles=("uas", "registrar", "stateless"),
)
def unsupported_lists_the_tag(client: Client) -> None:
    answer = client.ask(headers=(("Require", _UNKNOWN_TAG), ("Supported", "100rel")))
    if answer.status != 420:
        raise NotJudged(f"{answer.name}, not 420")
    listed = answer.tokens("Unsupported")
    if listed != {_UNKNOWN_TAG}:
        raise Broken(f"Unsupported has {', '.join(sorted(listed)) or 'nothing'}, for {_UNKNOWN_TAG}")


# 8.2.3, content


@judges("8.2.3-1", Level.MUST, "a body of a type that is not understood gets 415", roles=("uas",))
def unknown_type_gets_415(client: Client) -> None:
    answer = client.ask("INVITE", headers=(_UNKNOWN_TYPE,), body=b"what is this?")
    client.expect_refusal(answer, 415, f"INVITE with {_UNKNOWN_TYPE[1]}")


@judges("8.2.3-2", Level.MUST, "a 415 for a type has Accept", roles=("uas",))
def refusal_of_type_has_accept(client: Client) -> None:
    answer = client.ask("INVITE", headers=(_UNKNOWN_TYPE,), body=b"what is this?")
    if answer.status != 415:
        raise NotJudged(f"{answer.name}, not 415")
    if "Accept" not in answer.headers:
        raise Broken("415 lacks Accept")


@judges("8.2.3-3", Level.MUST, "an unknown encoding gets 415 with Accept-Encoding", roles=("uas",))
def unknown_encoding_gets_415(client: Client) -> None:
    headers = (("Content-Type", SDP), ("Content-Encoding", "x-unknown"))
    answer = client.ask("INVITE", headers=headers, body=b"\x00\x01\x02")
    client.expect_refusal(answer, 415, "INVITE with Content-Encoding: x-unknown")
    if "Accept-Encoding" not in answer.headers:
        raise Broken("415 for an encoding lacks Accept-Encoding")


@judges("8.2.3-5", Level.IS, "a body that is optional never gets 415", roles=("uas",))
def optional_body_is_ignored(client: Client) -> None:
    headers = (_UNKNOWN_TYPE, ("Content-Disposition", "render;handling=optional"))
    answer = client.ask("INVITE", headers=headers, body=b"what is this?")
    if answer.status == 415:
        raise Broken(f"INVITE with handling=optional got {answer.name}")


def _refused_method(client: Client) -> tuple[str, Answer]:
    """Return a method that everybody knows and that the server does not say it serves, with the answer to it."""
    allowed = client.usual(client.method).tokens("Allow")
    if not allowed:
        raise NotJudged(f"the answer to {client.method} has no Allow to tell what is not served")
    refused = next((method for method in _KNOWN_METHODS if method.lower() not in allowed), None)
    if refused is None:
        raise NotJudged(f"all of {', '.join(_KNOWN_METHODS)} are served")
    answer = client.ask(refused)
    if answer.status == 501:
        raise NotJudged(f"{refused} got 501: it does not know the method")
    return refused, answer


def _answered_405(client: Client) -> Answer:
    for exchange in client.exchanges:
        for answer in exchange.answers:
            if answer.status == 405:
                return answer
    exchange = client.send("PUBLISH")
    client.wait(exchange)
    if exchange.final is None or exchange.final.status != 405:
        raise NotJudged("no method got 405")
    return exchange.final
