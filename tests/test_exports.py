"""Is what users import what the documentation promises, and nothing by accident?"""

from __future__ import annotations

import twisted_sipuas

PUBLIC = """
    Address Binding CSeq Dialog DialogEnd DialogState EndReason Headers IAuthenticator IBindingStore IFlow
    ILocationService IMessageReceiver IRequestSender IServerTransaction ITransactionUser Limits MemoryBindingStore
    MessageSyntaxError NameAddr RedirectServer Redirection Registrar Request Response SIPDatagramProtocol SIPError
    SIPService SIPStreamFactory SIPURI SQLiteBindingStore StartError Target TransportError TransportLimits
    UserAgentServer Via location_service parse_message
"""


def test_public_names():
    """The list of public names changes only on purpose."""
    assert sorted(twisted_sipuas.__all__) == sorted(PUBLIC.split())


def test_public_names_exist_and_are_documented():
    """Each public name is there, and says what it is."""
    for name in twisted_sipuas.__all__:
        assert getattr(twisted_sipuas, name).__doc__, name
