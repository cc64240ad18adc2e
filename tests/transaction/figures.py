"""What do the tests of the two machines share? A figure of the RFC as data, and a driver that checks a cell of it."""

from __future__ import annotations

from typing import Any

import pytest

from twisted_sipuas.transaction.server import State


class Figures:
    """The figure of one machine, for unreliable and for reliable transports, and how to bring about what it speaks of.

    *situations* gives for each situation its state, and the inputs after the request of *method* that lead there;
    *inputs* how each input is made to a `Stack`. *unreliable* and *reliable* give for situation and input what is sent,
    the next state, and what the transaction user is told.
    """

    def __init__(
        self,
        method: str,
        situations: dict[str, Any],
        inputs: dict[str, Any],
        unreliable: dict[str, Any],
        reliable: dict[str, Any],
    ) -> None:
        self.method = method
        self.situations = situations
        self.inputs = inputs
        self.by_transport = {"UDP": unreliable, "TCP": reliable}

    @property
    def cells(self) -> list[Any]:
        """The parameters of a test: transport, situation and input."""
        return [
            pytest.param(transport, situation, event, id=f"{transport}-{situation}-{event}")
            for transport, figure in self.by_transport.items()
            for situation, row in figure.items()
            for event in row
        ]

    def check(self, stack: Any, situation: Any, event: Any) -> None:
        """Check what comes of input *event* in *situation*."""
        self._enter(stack, situation)
        self.inputs[event](stack)
        assert _outcome(stack) == self._expected(stack, situation, event)

    def check_when_sending_fails(self, stack: Any, situation: Any, event: Any) -> None:
        """Check the same where nothing can be sent; CANCEL has a transaction of its own, and that one ends."""
        self._enter(stack, situation)
        stack.flow.failure = "no route to host"
        self.inputs[event](stack)
        sent, state, told = self._expected(stack, situation, event)
        if sent and "CANCEL" not in sent:
            state, told = State.TERMINATED, "ended: transport failed"
        assert _outcome(stack) == ("", state, told)
        assert stack.layer.counters["send_failures"] == bool(sent)

    def check_is_total(self, states: Any, of_unreliable_transports: Any) -> None:
        """Check that there is a cell for each of *states* and each input.

        On reliable transports the situations *of_unreliable_transports* are left as they are entered.
        """
        assert {state for state, _ in self.situations.values()} == states
        assert set(self.by_transport["UDP"]) == set(self.situations)
        assert set(self.by_transport["TCP"]) == set(self.situations) - of_unreliable_transports
        for figure in self.by_transport.values():
            assert all(set(row) == set(self.inputs) for row in figure.values())

    def _expected(self, stack: Any, situation: Any, event: Any) -> Any:
        return self.by_transport[stack.flow.transport][situation][event]

    def _enter(self, stack: Any, situation: Any) -> None:
        """Bring the transaction into *situation*, and forget what was sent and told on the way."""
        state, events = self.situations[situation]
        stack.receive(self.method)
        for event in events:
            self.inputs[event](stack)
        stack.sent(), stack.told()
        assert stack.transaction.state is state


def _outcome(stack: Any) -> Any:
    return ", ".join(stack.sent()), stack.transaction.state, ", ".join(stack.told())
