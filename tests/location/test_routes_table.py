"""Does the most specific route answer, at a cost that does not grow with the number of prefixes, and by its weights?"""

from __future__ import annotations

import random
import sys
from collections import Counter
from itertools import islice
from typing import Any

import pytest

from twisted_sipuas import SIPError
from twisted_sipuas.location.routes.table import draw_by_call_id
from twisted_sipuas.syntax.uri import parse_uri
from twisted_sipuas.testing import make_request

PRECEDENCE = """
[[route]]
targets = "sip:anybody"

[[route]]
prefix = "+49"
targets = "sip:germany"

[[route]]
prefix = "+4930"
targets = "sip:berlin"

[[route]]
prefix = "+49"
pattern = '\\+49\\d*(?:00|11)'
targets = "sip:pattern"

[[route]]
prefix = "+49"
pattern = '\\+49\\d*11'
targets = "sip:second-pattern"

[[route]]
user = "+49301"
targets = "sip:user"

[[route]]
domain = "*.example.com"
targets = "sip:parent"

[[route]]
domain = "*.b.example.com"
targets = "sip:nearer-parent"

[[route]]
domain = ["b.example.com", "[2001:DB8::1]"]
targets = "sip:domain"

[[route]]
domain = "n.example"
targets = "sip:{number}@number"

[[route]]
first = true
user = "112"
targets = "sip:emergency"
"""


def request_to(uri: str, call_id: str = "call") -> Any:
    """Return an INVITE to *uri*."""
    return make_request("INVITE", uri, call_id=call_id)


def targets(routes: Any, uri: str, call_id: str = "call", draw: Any = lambda request: iter(())) -> Any:
    """Return the Contacts for *uri*, or None where no route matches."""
    request = request_to(uri, call_id)
    found = routes.table.lookup(request.uri, request, draw)
    return None if found is None else [str(target) for target in found[1].targets]


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("sip:bob@h", "anybody"),
        ("sip:h", "anybody"),
        ("mailto:a@h", "anybody"),
        ("tel:+492", "germany"),
        ("tel:+4930", "berlin"),
        ("sip:+49-30-2@h", "berlin"),
        ("sip:+49(30)2@h;user=phone", "berlin"),
        ("tel:+492;npdi;rn=+49302", "berlin"),
        ("sip:+4930;rn=+492@h", "germany"),
        ("tel:+49211", "pattern"),
        ("tel:+493011", "berlin"),
        ("tel:+49301", "user"),
        ("sip:+49301@h", "user"),
        ("tel:0049301", "anybody"),
        ("sip:+49301@a.example.com", "parent"),
        ("sip:+49301@example.com", "user"),
        ("sip:bob@badexample.com", "anybody"),
        ("sip:bob@B.Example.COM.", "domain"),
        ("sip:bob@a.b.example.com", "nearer-parent"),
        ("sip:bob@[2001:db8:0::1]", "domain"),
        ("sip:bob@n.example", "anybody"),
        ("sip:112@a.example.com", "emergency"),
        ("tel:112", "emergency"),
    ],
)
def test_most_specific_route(routes_of: Any, uri: str, host: str) -> None:
    """Domain before user, user before the longest prefix, patterns in order, and what cannot be filled passes."""
    assert targets(routes_of(PRECEDENCE), uri) == [f"<sip:{host}>"]


def test_no_route(routes_of: Any) -> None:
    """Where no route matches, there is none: the next location service is asked."""
    routes = routes_of('[[route]]\nprefix = "+49"\ntargets = "sip:{number}@gw"')
    assert targets(routes, "sip:bob@h") is None
    assert targets(routes, "tel:+4") is None


def test_sips(routes_of: Any) -> None:
    """Who calls by SIPS is sent to SIPS, and by a route that leads there: one to SIP alone does not match."""
    routes = routes_of(
        """
        [[route]]
        user = "bob"
        targets = "sip:{user}@gw"

        [[route]]
        user = "carol"
        targets = ["sip:{user}@gw", "{scheme}:{user}@safe"]

        [[route]]
        user = "dave"
        refuse = 486

        [[route]]
        targets = "sips:anybody"
        """
    )
    assert targets(routes, "sips:bob@h") == ["<sips:anybody>"]
    assert targets(routes, "sip:bob@h") == ["<sip:bob@gw>"]
    assert targets(routes, "sips:carol@h") == ["<sips:carol@safe>"]
    assert targets(routes, "sip:carol@h") == ["<sip:carol@gw>", "<sip:carol@safe>"]
    request = request_to("sips:dave@h")
    assert routes.table.lookup(request.uri, request, None)[1].status == 486
    assert targets(routes_of('[[route]]\ntargets = "sip:{user}@gw"'), "sips:bob@h") is None


def test_answer(routes_of: Any) -> None:
    """A redirection has the targets with what their Contacts say, the status and the header fields (8.3)."""
    routes = routes_of(
        """
        [[route]]
        status = 301
        headers = { Reason = ["SIP;cause=301", "x;text={user}"] }
        [[route.targets]]
        uri = "sip:{user}@gw"
        q = 0.5
        expires = 60
        display_name = "{user} at work"
        parameters = { audio = true, x = "{domain}" }
        [[route.targets]]
        uri = "tel:+49"
        """
    )
    request = request_to("sip:b%22;@h")
    _, found = routes.table.lookup(request.uri, request, None)
    first, second = map(str, found.targets)
    assert first == '"b\\"; at work" <sip:b%22;@gw>;q=0.5;expires=60;audio;x=h'
    assert second == "<tel:+49>"
    assert found.status == 301
    assert found.headers == (("Reason", "SIP;cause=301"), ("Reason", "x;text=b%22%3B"))


def test_refusal(routes_of: Any) -> None:
    """A route can refuse with a status, a reason and header fields; the rule is its name."""
    text = '[[route]]\nname = "n"\nrefuse = "484 Too Short"\nheaders = { X = "{user}" }\n'
    routes = routes_of(text + '[[route]]\nuser = "a"\nrefuse = 603')
    request = request_to("sip:b%0D%0A@h")
    _, found = routes.table.lookup(request.uri, request, None)
    assert isinstance(found, SIPError)
    assert (found.status, found.reason, found.headers, found.rule) == (484, "Too Short", (("X", "b%0D%0A"),), "n")
    request = request_to("sip:a@h")
    _, found = routes.table.lookup(request.uri, request, None)
    assert (found.status, found.reason, found.headers, found.rule) == (603, None, (), "route 2")


def steps(routes: Any, uri: str) -> Any:
    """Return how many lines of Python a look-up of *uri* runs."""
    request = request_to(uri)
    routes.table.lookup(request.uri, request, None)  # what is found for the first time is made for the first time
    count = 0

    def trace(frame: Any, event: Any, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    earlier = sys.gettrace()
    sys.settrace(trace)
    try:
        routes.table.lookup(request.uri, request, None)
    finally:
        sys.settrace(earlier)
    return count


def test_steps_do_not_grow_with_the_prefixes(routes_of: Any) -> None:
    """A look-up among 20,000 prefixes runs as many lines as one among 10 of the same lengths."""
    text = '[[route]]\nfile = "rates.csv"\ntargets = "sip:{number}@{gateway}"'
    few = [f"+1{digit}{'0' * (digit % 5)}" for digit in range(10)]
    many = {*few, *(f"+1{number:0{2 + number % 4}}" for number in range(20_000))}
    small, large = (
        routes_of(
            text, rates="prefix,gateway\n" + "".join(f"{prefix},gw{len(prefix)}\n" for prefix in sorted(prefixes))
        )
        for prefixes in (few, many)
    )
    assert small.table.prefixes == 10
    assert large.table.prefixes > 20_000
    for uri in ("tel:+130009", "tel:+199999999", "sip:bob@h"):
        assert steps(large, uri) == steps(small, uri)


WEIGHTS = """
[[route]]
{more}
targets = [
    {{ uri = "sip:backup", weight = 1, q = {q} }},
    {{ uri = "sip:a", weight = 3 }},
    {{ uri = "sip:b", weight = 1 }},
    {{ uri = "sip:drained", weight = 0 }},
]
"""


def drawing(seed: int = 1) -> Any:
    """Return numbers that are random but the same in each run."""
    chance = random.Random(seed)
    return lambda request: iter(chance.random, None)


def test_weights_give_an_order(routes_of: Any) -> None:
    """Targets of one q come first by their weights; those of a lower q follow; q tells the order; 0 is left out."""
    routes = routes_of(WEIGHTS.format(more='balance = "order"', q=0.5))
    draw = drawing()
    orders = Counter(tuple(targets(routes, "sip:x@h", draw=draw)) for _ in range(4000))
    first_a = ("<sip:a>;q=1", "<sip:b>;q=0.9", "<sip:backup>;q=0.8")
    first_b = ("<sip:b>;q=1", "<sip:a>;q=0.9", "<sip:backup>;q=0.8")
    assert {*orders} == {first_a, first_b}
    assert orders[first_a] / 4000 == pytest.approx(0.75, abs=0.03)


def test_weights_give_one(routes_of: Any) -> None:
    """With balance = "one" one target is named, as often as its weight says."""
    text = WEIGHTS.format(more='balance = "one"', q=1).replace(", q = 1", "").replace("weight = 1", "weight = 2", 1)
    routes = routes_of(text)
    draw = drawing()
    found = Counter(targets(routes, "sip:x@h", draw=draw)[0] for _ in range(6000))
    assert {name: round(count / 1000) for name, count in found.items()} == {
        "<sip:a>": 3,
        "<sip:backup>": 2,
        "<sip:b>": 1,
    }


def test_weights_give_one_to_sips(routes_of: Any) -> None:
    """What is drawn for who calls by SIPS is drawn among the targets that are for him."""
    text = WEIGHTS.format(more='balance = "one"', q=1).replace(", q = 1", "").replace("sip:b", "sips:b")
    draw = drawing()
    found = {targets(routes_of(text), "sips:x@h", draw=draw)[0] for _ in range(100)}
    assert found == {"<sips:b>", "<sips:backup>"}


def test_many_weights(routes_of: Any) -> None:
    """Each of more than ten targets has a q of its own."""
    weighted = ", ".join(f'{{ uri = "sip:{number}@h", weight = 1 }}' for number in range(20))
    found = targets(routes_of(f"[[route]]\ntargets = [{weighted}]"), "sip:x@h", draw=drawing())
    assert [contact.partition(";q=")[2] for contact in found[:3]] == ["1", "0.95", "0.9"]
    assert len({contact.partition(";")[2] for contact in found}) == 20


def test_one_call_is_drawn_once() -> None:
    """One Call-ID gives the same numbers each time (8.2.7); another, or another key, gives others, evenly spread."""
    draw = draw_by_call_id(b"key")
    first = [*islice(draw(request_to("sip:x@h", "a")), 20)]
    assert [*islice(draw(request_to("sip:y@h", "a")), 20)] == first
    assert len({*first}) == 20
    assert [*islice(draw_by_call_id(b"other")(request_to("sip:x@h", "a")), 20)] != first
    means = [next(draw(request_to("sip:x@h", f"call {number}"))) for number in range(1000)]
    assert all(0 < number < 1 for number in means)
    assert sum(means) / 1000 == pytest.approx(0.5, abs=0.05)


def test_rows_of_a_file(routes_of: Any) -> None:
    """Cells fill the placeholders of their columns; a target whose cell is empty is left out."""
    routes = routes_of(
        """
        [[route]]
        file = "rates.csv"
        targets = [
            "sip:{number}@{first};p={prefix}",
            { uri = "sip:{number}@{second}", q = 0.5, display_name = "{note}" },
        ]
        """,
        rates='# May\nprefix; first; second; note; price\n\n+49;a;b;"x; {domain}";1\n# no more\n+43;a;;y;2\n',
    )
    assert targets(routes, "sip:+491@h") == ["<sip:+491@a;p=+49>", '"x; h" <sip:+491@b>;q=0.5']
    assert targets(routes, "sip:+431@h") == ["<sip:+431@a;p=+43>"]


def test_users_of_a_file(routes_of: Any) -> None:
    """A column user names users as a whole, numbers as well as names."""
    routes = routes_of(
        '[[route]]\nfile = "u.csv"\ndomain = ["a", "b"]\ntargets = "sip:{user}@{at}"', u="user\tat\nbob\tx\n+49\ty\n"
    )
    assert targets(routes, "sip:bob@a") == ["<sip:bob@x>"]
    assert targets(routes, "sip:+4-9@b") == ["<sip:+4-9@y>"]
    assert targets(routes, "sip:+491@b") is None
    assert routes.table.users == 4


def test_table(routes_of: Any) -> None:
    """A table has a target, or several, for each prefix, and what else the route says is for each."""
    routes = routes_of(
        """
        [[route]]
        status = 300
        [route.table]
        "+49" = "sip:{number}@de"
        "+43" = ["sip:{number}@at", { uri = "sip:{number}@de", q = 0.1 }]
        """
    )
    assert targets(routes, "tel:+491") == ["<sip:+491@de>"]
    assert targets(routes, "tel:+431") == ["<sip:+431@at>", "<sip:+431@de>;q=0.1"]
    request = request_to("tel:+431")
    assert routes.table.lookup(parse_uri("tel:+431"), request, None)[1].status == 300


def test_file_that_refuses(routes_of: Any) -> None:
    """A file can say who is refused."""
    routes = routes_of('[[route]]\nfile = "blocked.csv"\nrefuse = 403', blocked="prefix\n+882\n")
    request = request_to("tel:+8821")
    assert routes.table.lookup(request.uri, request, None)[1].status == 403
