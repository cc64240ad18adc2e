"""Is overload told from a hiccup and from a flood of nothing, and is as much refused as has to be (RFC 7339)?"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from twisted.internet.task import Clock

from twisted_sipuas.syntax.fields import Via
from twisted_sipuas.testing import RecordingFlow, make_request
from twisted_sipuas.transaction.overload import Overload

UDP, TCP = RecordingFlow(), RecordingFlow("TCP")
OFFER = '192.0.2.1:5060;oc;oc-algo="loss,A"'


class Load:
    """An overload measurement on a clock, whose reactor turns take as long as the test says."""

    def __init__(self, max_lag: float = 0.2) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.waiting = self.worked = 0.0
        self.overload = Overload(self.clock, max_lag, lambda: self.waiting, lambda: self.worked)
        self.overload.start()

    def turns(self, number: int, seconds: float = 0.1, work: float = 0.0) -> None:
        """Let so many turns pass, each of so many *seconds*, of which *work* is the share for requests taken."""
        for _ in range(number):
            self.worked += work * seconds
            self.clock.advance(seconds)

    @property
    def refused(self) -> Any:
        """How many of the next 1000 requests are refused."""
        return sum(self.overload.refuses(UDP) for _ in range(1000))


def test_nothing_to_do() -> None:
    """A server in time refuses nothing."""
    load = Load()
    load.turns(100, 0.05)
    assert load.overload.loss == 0
    assert load.refused == 0


def test_hiccup() -> None:
    """One turn that took long, a suspended machine's hour even, refuses nobody."""
    load = Load()
    for seconds in (0.4, 5, 3600):
        load.turns(1, seconds)
        assert load.overload.lag == pytest.approx(seconds - 0.1)
        load.turns(3)
        assert load.overload.loss == 0


def test_slow_turns() -> None:
    """When turns go on to be too long, the share that is refused rises, and faster the longer they are."""
    short, long = Load(), Load()
    short.turns(3, 0.35)
    long.turns(3, 1.1)
    assert 0 < short.overload.loss < long.overload.loss < 100
    long.turns(10, 1.1)
    assert long.overload.loss == 99, "some are taken, or nobody would know when it is over"


def test_share() -> None:
    """Of new requests just the share is refused, one here and one there."""
    load = Load()
    load.overload.loss = 30.0
    pattern = [load.overload.refuses(UDP) for _ in range(10)]
    assert sum(pattern) == 3
    assert not any(a and b for a, b in itertools.pairwise(pattern))


def test_hysteresis() -> None:
    """Between half the bound and the bound nothing changes; below, the share falls slowly, to nothing."""
    load = Load()
    load.turns(5, 0.5)
    loss = load.overload.loss
    assert loss > 50
    load.turns(10, 0.25)
    assert load.overload.loss == loss
    load.turns(2, 0.11)
    assert load.overload.loss == loss - 10
    load.turns(20)
    assert load.overload.loss == 0


def test_backlog_of_requests() -> None:
    """A socket that is not read to its end for too long counts as late, if requests that we take are the reason."""
    load = Load()
    load.waiting = 0.5
    load.turns(5, work=0.6)
    assert load.overload.loss > 50
    assert load.overload.lag == 0.5


def test_backlog_is_no_matter_of_connections() -> None:
    """Who comes by a connection has its turn, whatever waits in a UDP socket; turns that are late concern everybody."""
    load = Load()
    load.waiting = 1.0
    load.turns(10, work=0.6)
    assert load.overload.loss_on(UDP) == 99
    assert not any(load.overload.refuses(TCP) for _ in range(100))
    load.turns(10, 1)
    assert load.overload.loss_on(TCP) == 99


def test_backlog_while_nearly_all_is_refused() -> None:
    """That little work is done since most is refused is no sign that there is little to do."""
    load = Load()
    load.waiting = 1.0
    load.turns(10, work=0.6)
    assert load.overload.loss == 99
    load.turns(10, work=0.6 * 0.01)
    assert load.overload.loss == 99


def test_flood_of_nothing() -> None:
    """A flood of what is not taken anyhow is no reason to refuse what is."""
    load = Load()
    load.waiting = 5.0
    load.turns(50, work=0.05)
    assert load.overload.loss == 0
    assert load.overload.lag == pytest.approx(0, abs=1e-6)


def test_stop() -> None:
    """After `stop` nothing is measured and nothing refused; it may be started again."""
    load = Load()
    load.turns(5, 1)
    load.overload.stop()
    assert load.clock.getDelayedCalls() == []
    assert (load.overload.loss, load.refused) == (0, 0)
    load.overload.stop()
    load.overload.start()
    load.overload.start()
    assert len(load.clock.getDelayedCalls()) == 1


def answered(load: Any, sent_by: str, branch: str = "z9hG4bK1", **fields: Any) -> Any:
    """The topmost Via of a response to a request from *sent_by*, and the text of all of them."""
    request = make_request(branch=branch, sent_by=sent_by, **fields)
    load.overload.answer_offer(request, UDP)
    values = request.response(503).headers.values("Via")
    return Via(values[0]), values


@pytest.mark.requirement("7339-1")
def test_feedback_in_overload() -> None:
    """Who offers "oc" is told the share to hold back, the algorithm, how long it holds, and a sequence number."""
    load = Load()
    load.turns(5, 0.5)
    via, _ = answered(load, OFFER)
    parameters = via.parameters
    assert parameters["oc"] == f"{load.overload.loss:.0f}"
    assert parameters["oc-algo"] == '"loss"'
    assert parameters["oc-validity"] == "1000"
    assert via.branch == "z9hG4bK1"
    assert via.text.count("oc-algo") == 1
    assert via.text.count(";oc") == 4


@pytest.mark.requirement("7339-1")
def test_feedback_without_overload() -> None:
    """With nothing to hold back it is said that there is not, which also ends what was said before."""
    via, _ = answered(Load(), OFFER)
    assert via.parameters["oc"] == "0"
    assert via.parameters["oc-validity"] == "0"


@pytest.mark.requirement("7339-1")
@pytest.mark.parametrize(
    ("sent_by", "branch"),
    [
        ("192.0.2.1", "z9hG4bK1"),
        ("192.0.2.1;oc", "z9hG4bK1"),
        ('192.0.2.1;oc;oc-algo="rate"', "z9hG4bK1"),
        ('192.0.2.1;oc=10;oc-algo="loss"', "z9hG4bK1"),
        ('192.0.2.1;oc-algo="loss"', "z9hG4bK1"),
        ('192.0.2.1;oc;oc-algo="lossy,gloss"', "z9hG4bK1"),
        ('192.0.2.1;oc;oc-algo="loss"', "old"),
    ],
)
def test_no_feedback(sent_by: str, branch: Any) -> None:
    """Without the offer, or the offer of our algorithm, the Via goes back as it came; so it does for RFC 2543."""
    load = Load()
    load.turns(5, 0.5)
    via, _ = answered(load, sent_by, branch)
    assert via.text == f"SIP/2.0/UDP {sent_by};branch={branch}"


@pytest.mark.requirement("7339-1")
@pytest.mark.parametrize("algorithms", ["loss", '"loss"', '"rate, LOSS"', '"loss,rate"'])
def test_spellings_of_the_offer(algorithms: Any) -> None:
    """The list of algorithms may be a token or quoted, in any case, with ours anywhere."""
    via, _ = answered(Load(), f"192.0.2.1;oc;oc-algo={algorithms}")
    assert via.parameters["oc"] == "0"


@pytest.mark.requirement("7339-1")
def test_only_the_topmost_via() -> None:
    """It is told to the next hop alone: the other Via values are as they came."""
    below = 'SIP/2.0/UDP 192.0.2.2;oc;oc-algo="loss";branch=z9hG4bK2'
    via, values = answered(Load(), OFFER, headers=(("Via", below),))
    assert "oc-seq" in via.parameters
    assert values[1] == below
    request = make_request(branch=f"z9hG4bK1, {below}", sent_by=OFFER)
    Load().overload.answer_offer(request, UDP)
    first, second = request.response(200).headers.values("Via")
    assert "oc-seq" in first
    assert second == below


@pytest.mark.requirement("7339-1")
def test_sequence_number() -> None:
    """The sequence number rises with every measurement, also when the clock is set back."""
    load = Load()
    numbers = []
    for back in (0, 0, 500, 0):
        load.clock.rightNow -= back
        load.overload.stop()
        load.overload.start()
        numbers.append(float(answered(load, OFFER)[0].parameters["oc-seq"]))
        load.turns(1)
    assert numbers == sorted(set(numbers))
