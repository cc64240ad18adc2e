"""For testing handlers, location services and the framework itself: no socket, no sleep, a clock that you step.

clock = Clock()
flow = RecordingFlow()
service = SIPService(clock, Greeter())
service.message_received(make_request("MESSAGE"), flow)
assert flow.responses[0].status == 202
"""

from twisted_sipuas.testing.messages import RecordingFlow, RecordingTransactionUser, make_request
from twisted_sipuas.testing.stores import BINDING_STORE_CHECKS, BindingStoreCase

__all__ = [
    "BINDING_STORE_CHECKS",
    "BindingStoreCase",
    "RecordingFlow",
    "RecordingTransactionUser",
    "make_request",
]
