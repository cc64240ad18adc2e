"""Does each check tell a server that keeps its requirement from one that breaks it?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.faults import FAULTS
from tests.conformance.servers import SERVERS, client_of
from twisted_sipuas.conformance import CHECKS, Outcome, acquaint, chosen, judge, run

BY_NAME = {check.name: check for check in CHECKS}


def test_every_check_has_a_fault() -> None:
    """No check is without a server that breaks what it judges, and no fault without a check."""
    assert len(BY_NAME) == len(CHECKS)
    assert {*FAULTS} == {*BY_NAME}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen(name: Any) -> None:
    """A server that breaks the requirement is reported, with what was seen; without that fault it is not."""
    check, case = BY_NAME[name], FAULTS[name]
    for fault, outcome in ((case.fault(), Outcome.BROKEN), (None, Outcome.HOLDS)):
        client = client_of(case.server, case.transport, fault)
        acquaint(client)
        result = judge(client, check)
        assert result.outcome is outcome, f"{result}\n{client.ladder}"
        assert bool(result.remark) is (outcome is Outcome.BROKEN)


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest.mark.parametrize("server", SERVERS)
def test_our_servers_break_nothing(server: Any, transport: Any) -> None:
    """Each of our servers keeps every requirement of its role that comes to be judged."""
    client = client_of(server, transport)
    acquaint(client)
    results = list(run(client, chosen(SERVERS[server][0], transport)))
    assert [result for result in results if result.outcome is Outcome.BROKEN] == [], client.ladder
    assert len([result for result in results if result.outcome is Outcome.HOLDS]) > 50
