"""How is a look-up asked, and answered, in JSON? Version 1 of what ``http:`` says to a router.

The question is an object with

* ``version``: 1; a later one may have more members, and these with the same meaning;
* ``method``: of the request, such as ``"INVITE"``;
* ``request_uri``: the Request-URI as received; ``user``: its user part without escapes, or the number of a tel URI,
  and ``host``: its host in lower case, each null where it has none;
* ``from``, ``to``: objects with ``uri`` and ``display_name``, null for a header field that is malformed;
* ``call_id``;
* ``source``: an object with ``host``, ``port`` and ``transport``, ``"UDP"``, ``"TCP"`` or ``"TLS"``: where the request
  came from as the packet, the connection or its PROXY header says; null if that is unknown;
* ``headers``: an object with each header field that was asked for, as a list of its rows, empty if it is absent.

Octets that are no UTF-8 are U+FFFD. The answer is an empty object where the user is not known, so that the next
service is asked, or one of

* ``targets``, a list of one to 100, each a URI or an object with ``uri`` and, if wanted, ``q`` from 0 to 1, ``expires``
  in seconds, ``display_name``, and ``parameters``, an object of further Contact parameters: text as it is to be sent,
  quoted if need be, or null for a flag; beside them, if wanted, ``status``, 300, 301, 302 or 380, and ``headers``, an
  object of further header fields of the response, each text or a list of them;
* ``refuse``: an object with ``status``, 400 to 699, and, if wanted, ``reason`` and ``headers``.

``version``, if there is one, is 1. A member that is null is as if absent, and one that is not named here is a fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from twisted_sipuas.errors import MessageSyntaxError, SIPError
from twisted_sipuas.location.target import Redirection, Target, is_of_response
from twisted_sipuas.syntax.grammar import TOKEN
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import SIPURI, URI, TelURI, canonical_host, unescape

__all__ = ["answer", "question"]

_VERSION = 1
_MAX_TARGETS = 100
_MAX_EXPIRES = 2**32 - 1  # 20.19
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# 25.1: gen-value is a token, a host or a quoted-string.
_GEN_VALUE = re.compile(r"""[A-Za-z0-9\-.!%*_+`'~\[\]:]+|"(?:[^"\\]|\\.)*\"""")


def question(request_uri: URI, request: Request, headers: Iterable[str] = ()) -> dict[str, object]:
    """Return the question about *request_uri*, for `json.dumps`; *headers* are names of header fields to tell of."""
    user: str | None = None
    host: str | None = None
    if isinstance(request_uri, SIPURI):
        user = None if request_uri.user is None else unescape(request_uri.user)
        host = canonical_host(request_uri.host)
    elif isinstance(request_uri, TelURI):
        user = request_uri.number
    return {
        "version": _VERSION,
        "method": request.method,
        "request_uri": _clean(request_uri.text),
        "user": None if user is None else _clean(user),
        "host": host,
        "from": _address(request, "from_"),
        "to": _address(request, "to"),
        "call_id": _clean(request.call_id),
        "source": _source(request),
        "headers": {name: [_clean(row) for row in request.headers.get_all(name)] for name in headers},
    }


def _clean(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _address(request: Request, which: str) -> dict[str, str] | None:
    try:
        address = getattr(request, which)
    except MessageSyntaxError:
        return None  # which is for who needs it to complain of (8.2.2)
    return {"uri": _clean(address.uri_text), "display_name": _clean(address.display_name)}


def _source(request: Request) -> dict[str, object] | None:
    flow = request.flow
    if flow is None or not flow.remote_address.host:  # the peer of a UNIX socket has none
        return None
    return {"host": flow.remote_address.host, "port": flow.remote_address.port, "transport": flow.transport}


def answer(octets: bytes) -> Redirection | None:
    """Return what the answer *octets* says: where to go, or None if the user is not known.

    Raises `SIPError` if it is a refusal, and `ValueError` if it is no such answer, saying where and what was expected;
    what was there instead is not quoted.
    """
    try:
        value = json.loads(octets.decode())
    except (ValueError, RecursionError):
        raise ValueError("the answer: expected JSON") from None
    members = _object(value, "", ("version", "targets", "status", "headers", "refuse"))
    if members.pop("version", _VERSION) != _VERSION:
        raise _fault("version", f"{_VERSION}")
    if "refuse" in members:
        if len(members) > 1:
            raise _fault("refuse", "nothing beside it")
        raise _refusal(members["refuse"])
    if not members:
        return None
    if "targets" not in members:
        raise _fault("targets", "them beside a status or headers")
    status = members.get("status")
    if status is not None and (status not in (300, 301, 302, 380) or not isinstance(status, int)):
        raise _fault("status", "300, 301, 302 or 380")
    return Redirection(_targets(members["targets"]), status, _headers(members.get("headers"), "headers"))


def _fault(path: str, expected: str) -> ValueError:
    return ValueError(f"{path or 'the answer'}: expected {expected}")


def _object(value: object, path: str, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Return the object *value* without the members that are null; only those of *names* may be there, if not None."""
    if not isinstance(value, dict):
        raise _fault(path, "an object")
    if names is None:
        return value
    allowed = tuple(names)
    if not value.keys() <= set(allowed):
        raise _fault(path, f"no other members than {', '.join(allowed)}")
    return {name: member for name, member in value.items() if member is not None}


def _text(value: object, path: str) -> str:
    """Return the text *value*, which has no control characters and is made of characters (no lone surrogates)."""
    if not isinstance(value, str) or _CONTROL.search(value):
        raise _fault(path, "text without control characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _fault(path, "text of whole characters") from None
    return value


def _refusal(value: object) -> SIPError:
    members = _object(value, "refuse", ("status", "reason", "headers"))
    status = members.get("status")
    if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 699:
        raise _fault("refuse.status", "a number from 400 to 699")
    reason = _text(members["reason"], "refuse.reason") if "reason" in members else None
    return SIPError(status, reason, _headers(members.get("headers"), "refuse.headers"), rule="refused by the router")


def _headers(value: object, path: str) -> list[tuple[str, str]]:
    rows = []
    for name, texts in _object({} if value is None else value, path).items():
        if TOKEN.fullmatch(name) is None:
            raise _fault(path, "names of header fields")
        if is_of_response(name):
            raise _fault(f"{path}.{name}", "another header field, as the response has its own")
        for text in texts if isinstance(texts, list) else [texts]:
            rows.append((name, _text(text, f"{path}.{name}")))
    return rows


def _targets(value: object) -> list[Target]:
    if not isinstance(value, list) or not 0 < len(value) <= _MAX_TARGETS:
        raise _fault("targets", f"a list of 1 to {_MAX_TARGETS}")
    return [_target(target, f"targets[{number}]") for number, target in enumerate(value)]


def _target(value: object, path: str) -> Target:
    if isinstance(value, str):
        value = {"uri": value}
    members = _object(value, path, ("uri", "q", "expires", "display_name", "parameters"))
    q, expires = members.get("q"), members.get("expires")
    if q is not None and (isinstance(q, bool) or not isinstance(q, (int, float)) or not 0 <= q <= 1):
        raise _fault(f"{path}.q", "a number from 0 to 1")
    if expires is not None and (
        isinstance(expires, bool) or not isinstance(expires, int) or not 0 <= expires <= _MAX_EXPIRES
    ):
        raise _fault(f"{path}.expires", f"a whole number from 0 to {_MAX_EXPIRES}")
    uri = _text(members.get("uri"), f"{path}.uri")
    display_name = _text(members.get("display_name", ""), f"{path}.display_name")
    parameters = _parameters(members.get("parameters", {}), f"{path}.parameters")
    try:
        return Target(uri, q=q, expires=expires, display_name=display_name, parameters=parameters)
    except MessageSyntaxError:
        raise _fault(f"{path}.uri", "a URI") from None


def _parameters(value: object, path: str) -> list[tuple[str, str | None]]:
    parameters: Mapping[str, object] = _object(value, path)
    checked: list[tuple[str, str | None]] = []
    for name, text in parameters.items():
        if TOKEN.fullmatch(name) is None or name.lower() in ("q", "expires"):
            raise _fault(path, "names of further Contact parameters")
        if text is not None and _GEN_VALUE.fullmatch(_text(text, f"{path}.{name}")) is None:
            raise _fault(f"{path}.{name}", "a token, a host or a quoted-string")
        checked.append((name, None if text is None else str(text)))
    return checked
