"""Is what users import what the documentation promises, and nothing by accident?"""

from __future__ import annotations

import twisted_sipuas

PUBLIC = """
    Address Binding CSeq Dialog DialogEnd DialogState DigestAuthenticator DigestCredentials EndReason
    GuardedLocationService Headers IAuthenticator IBindingStore IFlow ILocationService ILocationServicePlugin
    IMessageReceiver IRequestSender IServerTransaction ITransactionUser Limits location_service LocationKind
    MemoryBindingStore MessageSyntaxError NameAddr parse_message Protection Redirection RedirectServer Registrar
    Request Response SIPDatagramProtocol SIPError SIPService SIPStreamFactory SIPURI SQLiteBindingStore StartError
    Target TelURI TransportError TransportLimits UnavailableError URI UserAgentServer Via
"""


def test_public_names() -> None:
    """The list of public names changes only on purpose."""
    assert sorted(twisted_sipuas.__all__) == sorted(PUBLIC.split())


def test_public_names_exist_and_are_documented() -> None:
    """Each public name is there, and says what it is."""
    for name in twisted_sipuas.__all__:
        assert getattr(twisted_sipuas, name).__doc__, name
