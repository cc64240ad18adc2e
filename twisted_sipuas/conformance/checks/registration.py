"""Does a registrar keep bindings as 10.3 says?

Every check begins with no bindings of the address-of-record, and those it makes are removed before the next.
"""

from __future__ import annotations

import itertools
import secrets
from typing import Any

from twisted_sipuas.conformance.check import Broken, Level, NotJudged, judges
from twisted_sipuas.conformance.client import Client
from twisted_sipuas.conformance.exchange import Answer
from twisted_sipuas.syntax.fields import Contact
from twisted_sipuas.syntax.grammar import delta_seconds

__all__: list[str] = []

_REGISTRAR = ("registrar",)
_DESK = "sip:desk@192.0.2.1:5060"
_MOBILE = "sip:mobile@192.0.2.2:5060"
_HOUR = 3600


class _Phone:
    """A user agent that registers: its Call-ID stays, its CSeq grows."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.call_id = f"{secrets.token_hex(8)}@conformance"
        self._numbers = itertools.count(10)

    def register(self, *contacts: str, cseq: int | None = None, expires: int | None = None, **fields: Any) -> Answer:
        """Register *contacts*, and return the answer; *cseq* in place of the next."""
        headers = [("Contact", contact) for contact in contacts]
        if expires is not None:
            headers.append(("Expires", str(expires)))
        fields["headers"] = (*headers, *fields.get("headers", ()))
        number = next(self._numbers) if cseq is None else cseq
        return self._client.ask("REGISTER", call_id=self.call_id, cseq=number, **fields)

    def registered(self, *contacts: str, **fields: Any) -> Answer:
        """The same; raises `NotJudged` unless it is answered 2xx."""
        answer = self.register(*contacts, **fields)
        if answer.status >= 300:
            raise NotJudged(f"REGISTER got {answer.name}")
        return answer


def _fresh(client: Client) -> _Phone:
    """Return a phone of an address-of-record without bindings."""
    answer = _Phone(client).register("*", expires=0)
    if answer.status >= 300:
        answer = _Phone(client).register()
        if answer.status >= 300:
            raise NotJudged(f"REGISTER got {answer.name}")
        if answer.contacts:  # ours, of a check before: removed one by one
            removed = [f"<{contact.uri_text}>;expires=0" for contact in answer.contacts]
            _Phone(client).registered(*removed)
    return _Phone(client)


def _bound(answer: Answer) -> set[str]:
    """Return the URIs that *answer* lists."""
    return {contact.uri_text for contact in answer.contacts}


def _listed(client: Client) -> set[str]:
    """Return the URIs that are bound now."""
    return _bound(_Phone(client).registered())


def _expect(seen: set[str], expected: set[str], when: str) -> None:
    if seen != expected:
        raise Broken(f"{when}: bound is {_some(seen)}, not {_some(expected)}")


def _some(uris: set[str]) -> str:
    return " and ".join(sorted(uris)) or "nothing"


def _granted(answer: Answer, uri: str = _DESK) -> int:
    """Return the seconds that *uri* is bound for by *answer*; raises `Broken` if it does not say."""
    for contact in answer.contacts:
        if contact.uri_text == uri:
            return _seconds(contact, answer)
    raise Broken(f"{answer.name} does not list {uri}")


def _seconds(contact: Contact, answer: Answer) -> int:
    seconds = delta_seconds(contact.parameters.get("expires"))
    if seconds is None:
        raise Broken(f"{answer.name} lists {contact.uri_text} without expires")
    return seconds


# What a 200 says


@judges("10.3-41", Level.IS, "a REGISTER that succeeds gets 200", roles=_REGISTRAR)
def success_is_200(client: Client) -> None:
    answer = _fresh(client).registered(f"<{_DESK}>", expires=600)
    if answer.status != 200:
        raise Broken(f"REGISTER got {answer.name}")


@judges("10.3-42", Level.MUST, "the 200 lists every current binding", roles=_REGISTRAR)
def lists_every_binding(client: Client) -> None:
    phone = _fresh(client)
    phone.registered(f"<{_DESK}>", expires=600)
    _expect(_bound(phone.registered(f"<{_MOBILE}>", expires=600)), {_DESK, _MOBILE}, "after the second REGISTER")


@judges("10.3-43", Level.MUST, "every Contact of the 200 has expires", roles=_REGISTRAR)
def lists_intervals(client: Client) -> None:
    answer = _fresh(client).registered(f"<{_DESK}>", expires=600)
    for contact in answer.contacts:
        _seconds(contact, answer)


@judges("10.3-44", Level.SHOULD, "the 200 has Date", roles=_REGISTRAR)
def has_date(client: Client) -> None:
    if "Date" not in _fresh(client).registered(f"<{_DESK}>", expires=600).headers:
        raise Broken("200 lacks Date")


@judges("10.3-21", Level.IS, "a REGISTER without Contact lists, and changes nothing", roles=_REGISTRAR)
def query_changes_nothing(client: Client) -> None:
    _fresh(client).registered(f"<{_DESK}>", expires=600)
    _expect(_listed(client), {_DESK}, "the first time")
    _expect(_listed(client), {_DESK}, "the second time")


# Intervals


@judges("10.3-26", Level.MUST, "expires of a Contact is its interval, before Expires", roles=_REGISTRAR)
def parameter_is_the_interval(client: Client) -> None:
    seconds = _granted(_fresh(client).registered(f"<{_DESK}>;expires=700", expires=1400))
    if not 0 < seconds <= 700:
        raise Broken(f"{seconds} s for expires=700 with Expires: 1400")


@judges("10.3-27", Level.MUST, "without it Expires is", roles=_REGISTRAR)
def header_field_is_the_interval(client: Client) -> None:
    seconds = _granted(_fresh(client).registered(f"<{_DESK}>", expires=700))
    if not 0 < seconds <= 700:
        raise Broken(f"{seconds} s for Expires: 700")


@judges("10.3-28", Level.MUST, "without both there is a default", roles=_REGISTRAR)
def default_interval(client: Client) -> None:
    seconds = _granted(_fresh(client).registered(f"<{_DESK}>"))
    if seconds <= 0:
        raise Broken(f"{seconds} s where none were asked for")


@judges("10.3-30", Level.MAY, "an interval of an hour does not get 423", roles=_REGISTRAR)
def an_hour_is_enough(client: Client) -> None:
    answer = _fresh(client).register(f"<{_DESK}>", expires=_HOUR)
    if answer.status == 423:
        raise Broken(f"Expires: {_HOUR} got {answer.name}")


@judges("10.3-31", Level.MUST, "a 423 has Min-Expires", roles=_REGISTRAR)
def refusal_of_interval_has_minimum(client: Client) -> None:
    answer = _fresh(client).register(f"<{_DESK}>", expires=1)
    if answer.status != 423:
        raise NotJudged(f"Expires: 1 got {answer.name}, not 423")
    if "Min-Expires" not in answer.headers:
        raise Broken("423 lacks Min-Expires")
    minimum = delta_seconds(answer.text("Min-Expires"))
    if minimum is None or not 1 < minimum <= _HOUR:
        raise Broken(f"423 to Expires: 1 has Min-Expires: {answer.text('Min-Expires')}")


# Changing and removing


@judges("10.3-34", Level.MUST, "another Call-ID may remove a binding", roles=_REGISTRAR)
def another_call_id_removes(client: Client) -> None:
    _fresh(client).registered(f"<{_DESK}>", expires=600)
    _Phone(client).registered(f"<{_DESK}>;expires=0")
    _expect(_listed(client), set(), "after expires=0")


@judges("10.3-35", Level.MUST, "a higher CSeq updates a binding", roles=_REGISTRAR)
def higher_cseq_updates(client: Client) -> None:
    phone = _fresh(client)
    before = _granted(phone.registered(f"<{_DESK}>", expires=900))
    answer = phone.registered(f"<{_DESK}>", expires=600)
    if len(answer.contacts) == 1 and before <= 600:  # it may choose less than what is asked for
        raise NotJudged(f"Expires: 900 got {before} s, so that no other interval can be told from that")
    if len(answer.contacts) != 1 or _granted(answer) > 600:
        raise Broken(f"after 900 s and then 600 s the Contacts are {', '.join(map(str, answer.contacts))}")


@judges("10.3-36", Level.MUST, "a CSeq that is not higher fails", roles=_REGISTRAR)
def lower_cseq_fails(client: Client) -> None:
    phone = _fresh(client)
    phone.registered(f"<{_DESK}>", cseq=20, expires=600)
    answer = phone.register(f"<{_DESK}>", cseq=19, expires=0)
    if answer.status < 300:
        raise Broken(f"CSeq 19 after 20 got {answer.name}, bound is {_some(_bound(answer))}")
    _expect(_listed(client), {_DESK}, "after CSeq 19, which failed")


@judges("10.3-38", Level.MUST, "changes are made all together or not at all", roles=_REGISTRAR)
def all_or_nothing(client: Client) -> None:
    phone = _fresh(client)
    phone.registered(f"<{_DESK}>", cseq=20, expires=600)
    answer = phone.register(f"<{_MOBILE}>", f"<{_DESK}>", cseq=19, expires=700)
    if answer.status < 300:
        raise NotJudged(f"two Contacts, of which one has to fail by its CSeq, got {answer.name}")
    _expect(_listed(client), {_DESK}, "after two Contacts of which one failed")


@judges("10.3-22", Level.MUST, "* with an interval gets 400, and removes nothing", roles=_REGISTRAR)
def star_with_interval_gets_400(client: Client) -> None:
    phone = _fresh(client)
    phone.registered(f"<{_DESK}>", expires=600)
    answer = phone.register("*", expires=600)
    if answer.status != 400:
        raise Broken(f"Contact: * with Expires: 600 got {answer.name}")
    _expect(_listed(client), {_DESK}, "after the 400")


@judges("10.3-22", Level.MUST, "* beside another Contact gets 400, and removes nothing", roles=_REGISTRAR)
def star_with_contact_gets_400(client: Client) -> None:
    phone = _fresh(client)
    phone.registered(f"<{_DESK}>", expires=600)
    answer = phone.register("*", f"<{_MOBILE}>", expires=0)
    if answer.status != 400:
        raise Broken(f"Contact: * beside another got {answer.name}")
    _expect(_listed(client), {_DESK}, "after the 400")


@judges("10.3-23", Level.MUST, "* with Expires: 0 removes all, of another Call-ID too", roles=_REGISTRAR)
def star_removes_all(client: Client) -> None:
    phone = _fresh(client)
    phone.registered(f"<{_DESK}>", expires=600)
    phone.registered(f"<{_MOBILE}>", expires=600)
    answer = _Phone(client).register("*", expires=0)
    if answer.status >= 300:
        raise Broken(f"Contact: * with Expires: 0 got {answer.name}")
    _expect(_listed(client), set(), "after Contact: *")


@judges("10.3-25", Level.MUST, "* with a CSeq that is not higher fails", roles=_REGISTRAR)
def star_with_lower_cseq_fails(client: Client) -> None:
    phone = _fresh(client)
    phone.registered(f"<{_DESK}>", cseq=20, expires=600)
    answer = phone.register("*", cseq=19, expires=0)
    if answer.status < 300:
        raise Broken(f"Contact: * with CSeq 19 after 20 got {answer.name}")
    _expect(_listed(client), {_DESK}, "after CSeq 19, which failed")


# What is compared, and with what


@judges("10.3-33", Level.IS, "Contacts are compared as URIs, not as text", roles=_REGISTRAR)
def contacts_are_compared_as_uris(client: Client) -> None:
    phone = _fresh(client)
    phone.registered("<sip:desk@phones.example.com>", expires=600)
    answer = phone.registered("<sip:%64esk@PHONES.example.com>", expires=600)
    if len(answer.contacts) != 1:
        raise Broken(f"two spellings of one URI are two bindings: {_some(_bound(answer))}")


@judges("10.3-19", Level.MUST, "parameters of the address-of-record do not count", roles=_REGISTRAR)
def parameters_of_the_aor_do_not_count(client: Client) -> None:
    phone = _fresh(client)
    phone.registered(f"<{_DESK}>", expires=600)
    answer = _Phone(client).registered(to=f"<{client.target.aor};user=phone>")
    _expect(_bound(answer), {_DESK}, "asked with ;user=phone in To")


@judges("10.3-20", Level.MUST, "escapes in the address-of-record are undone", roles=_REGISTRAR)
def escapes_of_the_aor_are_undone(client: Client) -> None:
    scheme, _, rest = client.target.aor.partition(":")
    phone = _fresh(client)
    phone.registered(f"<{_DESK}>", expires=600)
    answer = _Phone(client).registered(to=f"<{scheme}:%{ord(rest[0]):02x}{rest[1:]}>")
    _expect(_bound(answer), {_DESK}, f"asked with %{ord(rest[0]):02x} for {rest[0]} in To")


@judges("10.3-17", Level.MUST, "an address-of-record of another domain gets 404", roles=_REGISTRAR)
def another_domain_gets_404(client: Client) -> None:
    elsewhere = {"to": "<sip:conformance@elsewhere.invalid>"}
    if client.ask("REGISTER", "sip:elsewhere.invalid", **elsewhere).status < 300:
        raise NotJudged("it serves every domain: REGISTER sip:elsewhere.invalid was accepted")
    answer = client.ask("REGISTER", **elsewhere)
    if answer.status == 403:
        raise NotJudged(f"got {answer.name}: whether one may register is looked at before for whom")
    client.expect_refusal(answer, 404, "To: <sip:conformance@elsewhere.invalid>")


# Record-Route, 6xx, Path


@judges("10.3-4", Level.MUST, "Record-Route is ignored", roles=_REGISTRAR)
def record_route_is_ignored(client: Client) -> None:
    phone = _fresh(client)
    phone.registered(f"<{_DESK}>", expires=600)
    answer = phone.register(f"<{_DESK}>", expires=600, headers=(("Record-Route", "<sip:proxy.example.com;lr>"),))
    if answer.status != 200:
        raise Broken(f"REGISTER with Record-Route got {answer.name}")


@judges("10.3-5", Level.MUST_NOT, "no Record-Route in a response", roles=_REGISTRAR)
def no_record_route(client: Client) -> None:
    answer = _fresh(client).register(
        f"<{_DESK}>", expires=600, headers=(("Record-Route", "<sip:proxy.example.com;lr>"),)
    )
    if "Record-Route" in answer.headers:
        raise Broken(f"{answer.name} has Record-Route: {answer.text('Record-Route')}")


@judges("10.3-2", Level.MUST_NOT, "it generates no 6xx", roles=_REGISTRAR)
def generates_no_6xx(client: Client) -> None:
    _Phone(client).register("<sip:>;expires=600")
    for exchange in client.exchanges:
        for answer in exchange.answers:
            if answer.status >= 600:
                raise Broken(f"{exchange.method} got {answer.name}")


@judges("3327-1", Level.MUST, "the 200 has the Path of the REGISTER", roles=_REGISTRAR)
def path_is_returned(client: Client) -> None:
    path = ["<sip:edge.example.com;lr>", "<sip:core.example.com;lr>"]
    answer = _fresh(client).registered(
        f"<{_DESK}>", expires=600, headers=(("Supported", "path"), *(("Path", value) for value in path))
    )
    if "Path" not in answer.headers:
        raise NotJudged("the 200 has no Path: it does not support RFC 3327, which is an extension")
    if answer.values("Path") != path:
        raise Broken(f"Path: {', '.join(answer.values('Path'))}, for {', '.join(path)}")
