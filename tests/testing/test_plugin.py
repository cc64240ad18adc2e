"""Is the pytest plugin there for who asks, and nothing to all others?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_pytest(tmp_path: Path) -> Any:
    """Return what runs a test file in a pytest of its own, with the plugins that its *options* name alone."""

    def run(text: str, *options: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_it.py").write_text(text)
        command = [sys.executable, "-W", "error", "-m", "pytest", *options]
        command += ["-p", "no:cacheprovider", "-p", "pytest_twisted_sipuas"]
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
        environment.pop("PYTEST_ADDOPTS", None)
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


ASKS = """
import socket
from twisted_sipuas.testing import make_request

def test_asks(sip_server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(make_request("MESSAGE").to_bytes(), sip_server.address)
        sip_server.expect("MESSAGE").answer(200)
"""

IN_THE_REACTOR = """
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

@pytest_twisted.ensureDeferred
async def test_in_the_reactor(sip_server):
    await deferLater(reactor, 0.01)
    test_asks(sip_server)
    await deferLater(reactor, 0.01)
"""


def test_who_does_not_ask(run_pytest: Any) -> None:
    """In the run of others neither this package nor Twisted is imported, and so no reactor is installed."""
    result = run_pytest(
        "import sys\ndef test_it():\n"
        "    ours = [name for name in sys.modules if name.partition('.')[0] in ('twisted', 'twisted_sipuas')]\n"
        "    assert not ours\n"
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_fixture(run_pytest: Any) -> None:
    """The fixture is a server that is listening; it installs no reactor either."""
    result = run_pytest(
        ASKS + "\n\ndef test_no_reactor():\n    import sys\n    assert 'twisted.internet.reactor' not in sys.modules\n"
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("kind", ["default", "asyncio"])
def test_beside_pytest_twisted(run_pytest: Any, kind: Any) -> None:
    """Beside pytest-twisted, whose tests run in a reactor, a test may block and wait for the server."""
    result = run_pytest(ASKS + IN_THE_REACTOR, "-p", "pytest_twisted", "--reactor", kind)
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_was_not_expected(run_pytest: Any) -> None:
    """A request that the test does not expect fails it, when it is over."""
    result = run_pytest(ASKS.replace('sip_server.expect("MESSAGE").answer(200)', "import time; time.sleep(0.1)"))
    assert result.returncode == 1
    assert "expected nothing more, got MESSAGE sip:bob@example.com" in result.stdout
