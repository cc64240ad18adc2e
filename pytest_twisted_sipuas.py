"""pytest plugin: the fixture `sip_server`.

It is no part of the package `twisted_sipuas`: pytest imports it in every run on a machine where that is installed, and
must not import all of that, Twisted included, for tests that ask for nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from twisted_sipuas.testing import BlockingServer

__all__ = ["sip_server"]


@pytest.fixture
def sip_server() -> Iterator[BlockingServer]:
    """A SIP server on a free port of loopback that does what the test says: `twisted_sipuas.testing.sip_server`."""
    from twisted_sipuas import testing

    with testing.sip_server() as server:
        yield server
