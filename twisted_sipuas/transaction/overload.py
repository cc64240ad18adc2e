"""Is more asked of us than we can do, and how much of it has to be refused (RFC 3261, 21.5.4; RFC 7339)?"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from twisted_sipuas.interfaces import IFlow
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.fields import Via
from twisted_sipuas.syntax.grammar import unquote
from twisted_sipuas.syntax.message import Request

__all__ = ["FEEDBACK", "Overload"]

_log = Logger()

FEEDBACK = ";oc="
"""What our word on the overload begins with, at the end of the topmost Via."""

_PERIOD = 0.1  # seconds between two measurements
_RISE = 10.0  # per cent more that is refused, for each time that the delay is as long as it may be
_FALL = 5.0  # per cent less, when the delay is down to half of that
_VALIDITY = 1000  # milliseconds for which an upstream may go by what we tell it: several measurements
_MOST = 99.0  # per cent: some have to be taken, or nobody would know whether they could be
_MUCH = 0.25  # of the time
_LOG_INTERVAL = 60.0  # seconds


class _Share:
    """The per cent of new requests to be refused for one kind of delay."""

    __slots__ = ("_was_late", "loss")

    def __init__(self) -> None:
        self._was_late = False
        self.loss = 0.0

    def measured(self, delay: float, most: float) -> float:
        """Take the latest *delay*, which may be *most*, in seconds; return the share."""
        if delay > most:
            if self._was_late:
                self.loss = min(_MOST, self.loss + _RISE * delay / most)
            self._was_late = True
        else:
            self._was_late = False
            if delay <= most / 2:
                self.loss = max(0.0, self.loss - _FALL)
        return self.loss


class Overload:
    """Measures how late we are, and refuses a share of what is new so that we do not get later (`loss`).

    Late is a call of *clock* that fires after its time, because something held the reactor up. To what waits in a
    socket a fair reactor is blind, so *backlog* tells for how long something has waited there, in seconds; it counts
    if at least a quarter of the time goes into requests that we took, seconds that *worked* adds up: a flood of
    anything else is no reason to refuse these. It is no reason either to refuse who comes by a connection, which has
    its turn whatever waits there.

    If two measurements in a row are above *max_lag* seconds the share rises, the faster the later we are; it stays
    where it is until the delay is down to half of that, and then falls, slowly. One hiccup refuses nobody.
    """

    def __init__(
        self,
        clock: IReactorTime,
        max_lag: float,
        backlog: Callable[[], float] = lambda: 0.0,
        worked: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._clock = clock
        self._max_lag = max_lag
        self._backlog = backlog
        self._worked = worked
        self._worked_before = 0.0
        self._call: IDelayedCall | None = None
        self._began = 0.0  # when the measurement that is under way began
        self._turns = _Share()
        self._sockets = _Share()
        self._sequence = 0.0  # the time of the latest measurement, or later if the clock was set back
        self._debt = 0.0  # per cent of a request that are still to be refused
        self._logged_at = -_LOG_INTERVAL
        self.loss = 0.0
        """Per cent of new requests that are refused, of those that come in datagrams."""
        self.stream_loss = 0.0
        """The same of those that come by connections."""
        self.lag = 0.0
        """How late we were at the latest measurement, in seconds."""

    def start(self) -> None:
        """Measure from now on."""
        self.stop()
        self._begin()

    def stop(self) -> None:
        """Measure no longer, and refuse nothing."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.loss = self.stream_loss = self.lag = self._debt = 0.0
        self._turns, self._sockets = _Share(), _Share()

    def _begin(self) -> None:
        self._began = self._clock.seconds()
        self._worked_before = self._worked()
        self._sequence = max(self._began, self._sequence + 0.001)
        self._call = self._clock.callLater(_PERIOD, self._measure)

    def _measure(self) -> None:
        took = self._clock.seconds() - self._began
        turn = max(0.0, took - _PERIOD)
        waiting = self._backlog() if self._is_at_work(took) else 0.0
        before = self.loss
        self.lag = max(turn, waiting)
        self.stream_loss = self._turns.measured(turn, self._max_lag)
        self.loss = max(self.stream_loss, self._sockets.measured(waiting, self._max_lag))
        if self.loss > before:
            self._log()
        self._begin()

    def _is_at_work(self, took: float) -> bool:
        """Whether requests that we take are much of the work of *took* seconds, or would be if none were refused."""
        return self._worked() - self._worked_before >= _MUCH * took * (1 - self.loss / 100)

    def _log(self) -> None:
        now = self._clock.seconds()
        if not self._logged_at <= now < self._logged_at + _LOG_INTERVAL:
            self._logged_at = now
            _log.warn("Overloaded, {lag:.1f} s late: refusing a share of new requests with 503", lag=self.lag)

    def loss_on(self, flow: IFlow) -> float:
        """Return the per cent of new requests that are refused of those that come as on *flow*."""
        return self.stream_loss if flow.is_reliable else self.loss

    def refuses(self, flow: IFlow) -> bool:
        """Whether the next new request, which came on *flow*, is one of those to be refused: they are spread evenly."""
        self._debt += self.loss_on(flow)
        if self._debt < 100:
            return False
        self._debt -= 100
        return True

    def answer_offer(self, request: Request, flow: IFlow) -> None:
        """Tell the upstream that sent *request* on *flow* how much to hold back, if it offers to (RFC 7339).

        It is said in the topmost Via of the responses, which the upstream takes off again, and so to nobody else. "oc"
        without a value is the offer, for the algorithms in "oc-algo", of which ours is "loss" (4.1, 4.2).
        """
        via = request.via
        if _offers_loss(via):
            loss = self.loss_on(flow)
            validity = _VALIDITY if loss else 0  # 4.3: 0 ends what was said before
            request.overwrite_via(
                via.with_parameters(
                    {
                        "oc": f"{loss:.0f}",
                        "oc-algo": '"loss"',
                        "oc-validity": str(validity),
                        "oc-seq": f"{self._sequence:.3f}",
                    }
                )
            )


def _offers_loss(via: Via) -> bool:
    """Whether *via* has the offer, and is of a client that does not know RFC 3261 by hearsay: it has a magic cookie.

    Without it the whole Via tells transactions apart (17.2.3), and has to stay as it came.
    """
    parameters = via.parameters
    algorithms = unquote(parameters.get("oc-algo") or "").lower().split(",")
    return (
        parameters.get("oc", "") is None
        and "loss" in map(str.strip, algorithms)
        and (via.branch or "").startswith("z9hG4bK")
    )
