"""What was found, for people in 80 columns, and for programs as JSON."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from twisted_sipuas.conformance.check import Check, Outcome, Result

__all__ = ["as_json", "as_text", "check_lines", "counts", "exit_status", "printable"]

_WIDTH = 80
_INDENT = " " * 13
_SECTIONS = {
    "7": "SIP messages",
    "7.1": "Requests",
    "7.3.1": "Header field format",
    "7.3.2": "Header field classification",
    "7.3.3": "Compact form",
    "7.5": "Framing SIP messages",
    "8.2.1": "Method inspection",
    "8.2.2": "Header inspection",
    "8.2.2.1": "To and Request-URI",
    "8.2.2.2": "Merged requests",
    "8.2.2.3": "Require",
    "8.2.3": "Content processing",
    "8.2.4": "Applying extensions",
    "8.2.6.1": "Sending a provisional response",
    "8.2.6.2": "Headers and tags",
    "8.2.7": "Stateless UAS behaviour",
    "8.3": "Redirect servers",
    "9.2": "CANCEL: server behaviour",
    "10.3": "Processing REGISTER requests",
    "11": "Querying for capabilities",
    "11.2": "Processing of OPTIONS",
    "12.1.1": "UAS behaviour: creation of a dialog",
    "12.2.2": "UAS behaviour: requests within a dialog",
    "13.3.1": "Processing of the INVITE",
    "13.3.1.1": "Progress",
    "13.3.1.2": "The INVITE is redirected",
    "13.3.1.4": "The INVITE is accepted",
    "15": "Terminating a session",
    "15.1.2": "BYE: UAS behaviour",
    "17.2.1": "INVITE server transaction",
    "17.2.2": "Non-INVITE server transaction",
    "17.2.3": "Matching requests to server transactions",
    "18": "Transport",
    "18.2.1": "Receiving requests",
    "18.2.2": "Sending responses",
    "18.3": "Framing",
    "19.1.1": "SIP and SIPS URI components",
    "19.3": "Tags",
    "20.5": "Allow",
    "20.14": "Content-Length",
    "21.4.1": "400 Bad Request",
    "21.5.2": "501 Not Implemented",
    "22.1": "Authentication framework",
    "RFC 3327": "Path",
    "RFC 3581": "Symmetric response routing",
    "RFC 4475": "Torture test messages",
    "RFC 5626": "Client-initiated connections: keep-alive",
    "RFC 6026": "2xx responses to INVITE",
}


def as_text(results: Iterable[Result]) -> Iterator[str]:
    """Yield the lines of a report, grouped by section, as *results* come."""
    for section, group in itertools.groupby(results, key=lambda result: result.check.section):
        yield ""
        yield f"{section}  {_SECTIONS[section]}"
        for result in group:
            yield from _row(result.outcome.value, result.check)
            if result.remark:
                yield from textwrap.wrap(
                    printable(result.remark), _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
                )


def check_lines(checks: Sequence[Check]) -> Iterator[str]:
    """Yield the lines that list *checks*, grouped by section."""
    for section, group in itertools.groupby(checks, key=lambda check: check.section):
        yield ""
        yield f"{section}  {_SECTIONS[section]}"
        for check in group:
            yield from _row("", check)


def counts(results: Sequence[Result]) -> str:
    """Return the last line of a report."""
    number = {outcome: [one for one in results if one.outcome is outcome] for outcome in Outcome}
    required = sum(result.check.level.is_required for result in number[Outcome.BROKEN])
    broken = len(number[Outcome.BROKEN])
    return (
        f"{len(number[Outcome.HOLDS])} hold, {broken} broken ({required} of them MUST or MUST NOT), "
        f"{len(number[Outcome.NOT_JUDGED])} not judged"
    )


def as_json(results: Sequence[Result], **about: str) -> str:
    """Return *results* as a JSON object, with *about* what they are."""
    rows = [
        {
            "id": result.check.id,
            "check": result.check.name,
            "level": result.check.level.value,
            "summary": result.check.summary,
            "outcome": result.outcome.value,
            "remark": result.remark,
        }
        for result in results
    ]
    return json.dumps({**about, "results": rows}, indent=2)


def exit_status(results: Iterable[Result], is_strict: bool = False) -> int:
    """Return 1 if a requirement of level MUST or MUST NOT is broken, or with *is_strict* any; else 0."""
    broken = [result for result in results if result.outcome is Outcome.BROKEN]
    return int(any(is_strict or result.check.level.is_required for result in broken))


def _row(outcome: str, check: Check) -> list[str]:
    head = (
        f"  {outcome:<10} {check.id:<13} {check.level.value:<11} "
        if outcome
        else (f"  {check.id:<13} {check.level.value:<11} ")
    )
    return textwrap.wrap(
        check.summary, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )


def printable(text: str) -> str:
    """Return *text*, which a server may have chosen, without what would change a terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
