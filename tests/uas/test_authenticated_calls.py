"""What may become of a call while it is looked up who sent a request?"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tests.uas.caller import Caller, Phone
from twisted_sipuas import SIPError
from twisted_sipuas.interfaces import IAuthenticator
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import RecordingFlow
from twisted_sipuas.uas.dialog import DialogState


@implementer(IAuthenticator)
class Doorkeeper:
    """Lets everybody in: at once, or once `is_slow` when the Deferred in `asked` fires."""

    def __init__(self) -> None:
        self.is_slow = False
        self.asked: list[Any] = []

    def authenticate(self, request: Request, transaction: Any) -> Any:
        if not self.is_slow:
            return "alice"
        self.asked.append(Deferred())
        return self.asked[-1]


class StrictPhone(Phone):
    """Asks who sent a request in a dialog, too."""

    authenticates_in_dialogs = True


@pytest.fixture
def doorkeeper() -> Any:
    return Doorkeeper()


@pytest.fixture
def caller(doorkeeper: Any) -> Any:
    """One whose call was taken; from now on the doorkeeper is slow."""
    caller = Caller(StrictPhone(authenticator=doorkeeper)).called()
    doorkeeper.is_slow = True
    return caller


def answers(caller: Any) -> Any:
    """Return the latest status sent for each request behind the first, by its CSeq."""
    return {response.headers.get("CSeq"): response.status for response in caller.flow.responses[1:]}


@pytest.mark.requirement("15.1.2-5", "15.1.2-8")
def test_bye(caller: Any, doorkeeper: Any) -> None:
    """BYE is not one of the requests that it has answered 487, however long its own sender was looked up (15.1.2)."""
    caller.send("INFO").send("BYE")
    doorkeeper.asked[1].callback("alice")
    assert answers(caller) == {"3 INFO": 487, "4 BYE": 200}
    assert caller.server.heard == ["ACK", "BYE received"]
    assert caller.is_over


@pytest.mark.requirement("15.1.2-8")
def test_bye_of_both_sides(caller: Any, doorkeeper: Any) -> None:
    """A BYE that is let in as the call is over gets 481, and a second one that still waits 487 (15.1.2)."""
    caller.send("BYE").send("BYE").send("BYE")
    doorkeeper.asked[1].callback("alice")
    assert answers(caller) == {"3 BYE": 487, "4 BYE": 200, "5 BYE": 487}
    assert caller.is_over

    caller = Caller(StrictPhone(authenticator=doorkeeper))
    doorkeeper.is_slow = False
    dialog = caller.called().dialog
    doorkeeper.is_slow = True
    caller.send("BYE")
    dialog.end()
    doorkeeper.asked[-1].callback("alice")
    assert answers(caller) == {"3 BYE": 481}
    assert caller.server.heard == ["ACK", "BYE sent"]
    assert caller.is_over


@pytest.mark.requirement("12.2.2-4")
def test_end_while_a_re_invite_is_let_in(caller: Any, doorkeeper: Any) -> None:
    """A re-INVITE that is let in as the call is over gets 481, and makes none of it again (12.2.2)."""
    caller.send("INVITE").dialog.end()
    doorkeeper.asked[0].callback("alice")
    assert answers(caller) == {"3 INVITE": 481}
    assert len(caller.server.dialogs) == 1, "the handler has seen the first INVITE alone"
    assert caller.is_over


@pytest.mark.requirement("15.1.2-8")
def test_bye_while_a_re_invite_is_let_in(caller: Any, doorkeeper: Any) -> None:
    """A re-INVITE that was received before BYE, and waits to be let in, gets 487 (15.1.2)."""
    caller.send("INVITE")
    doorkeeper.is_slow = False
    caller.send("BYE")
    assert answers(caller) == {"3 INVITE": 487, "4 BYE": 200}
    assert caller.is_over


@pytest.mark.requirement("12.2.2-7", "12.2.2-8")
@pytest.mark.parametrize(
    ("received", "let_in", "expected"),
    [
        ([3, 4], [3, 4], {3: 200, 4: 200}),
        ([3, 4], [4, 3], {3: 200, 4: 200}),
        ([4, 3], [4, 3], {3: 500, 4: 200}),
        ([4, 3], [3, 4], {3: 200, 4: 200}),
        ([3, 5, 4], [5, 4, 3], {3: 200, 4: 500, 5: 200}),
        ([3, 5, 4, 6], [6, 4, 5, 3], {3: 200, 4: 200, 5: 200, 6: 200}),
    ],
)
def test_order_is_that_of_receipt(caller: Any, doorkeeper: Any, received: Any, let_in: Any, expected: Any) -> None:
    """A request is out of order if one of a higher number was received before and let in (12.2.2)."""
    for number in received:
        caller.send("INFO", cseq=number)
    for number in let_in:
        doorkeeper.asked[received.index(number)].callback("alice")
    assert answers(caller) == {f"{number} INFO": status for number, status in expected.items()}
    assert caller.dialog.remote_sequence == max(received)


@pytest.mark.requirement("8.2-2")
def test_who_is_not_let_in_changes_nothing(caller: Any, doorkeeper: Any) -> None:
    """A request that is not let in keeps out none of a lower number, and moves no flow (8.2)."""
    flow = caller.dialog.flow
    caller.send("INFO", cseq=2**31 - 1, flow=RecordingFlow("UDP", ("203.0.113.9", 5060))).send("INFO", cseq=3)
    doorkeeper.asked[0].errback(SIPError(403))
    doorkeeper.asked[1].callback("alice")
    assert answers(caller) == {"3 INFO": 200}
    assert (caller.dialog.remote_sequence, caller.dialog.flow) == (3, flow)
    assert caller.dialog.state is DialogState.CONFIRMED
