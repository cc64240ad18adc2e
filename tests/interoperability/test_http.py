"""Does a server with ``--location http:`` send real clients where a real router says, and outlive it?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import maybeDeferred
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.any_reactor import reactor
from tests.interoperability.test_redirected_call import call, times

pytestmark = [pytest.mark.interoperability, pytest.mark.deadline(60)]


class Router(Resource):
    """Sends alice to her phone, and refuses others; `questions` has what was asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[dict[str, Any]] = []
        self.answers = {"alice": {"targets": ["sip:alice@127.0.0.1:5099"], "headers": {"X-Route": "7"}}}

    def render_POST(self, request: Any) -> bytes:
        question = json.load(request.content)
        self.questions.append(question)
        request.setHeader("Content-Type", "application/json")
        refusal = {"refuse": {"status": 480, "reason": "Gone Home"}}
        return json.dumps(self.answers.get(question["user"], refusal)).encode()


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def site(router: Router) -> Iterator[Any]:
    """The listening port of the router."""
    listening = reactor.listenTCP(0, Site(router), interface="127.0.0.1")
    yield listening
    pytest_twisted.blockon(maybeDeferred(listening.stopListening))


@pytest_twisted.ensureDeferred
async def test_call(
    make_server: Callable[..., Any], run_client: Callable[..., Any], router: Any, site: Any, tmp_path: Path
) -> None:
    """SIPp's call is redirected as the router says, which was told where the call came from."""
    server = make_server("--location", f"http,headers=Contact:http://127.0.0.1:{site.getHost().port}/")
    trace = await deferToThread(call, run_client, tmp_path, server.port, "udp", before_ack=1, after_ack=1)
    assert len(times(trace, "SIP/2.0 302 ")) == 1
    assert "X-Route: 7\n" in trace
    (question,) = router.questions
    assert (question["method"], question["user"], question["host"]) == ("INVITE", "alice", "127.0.0.1")
    assert question["from"]["display_name"] == "sipp"
    source = question["source"]
    assert (source["host"], source["transport"]) == ("127.0.0.1", "UDP")
    assert question["headers"] == {"Contact": [f"<sip:sipp@127.0.0.1:{source['port']}>"]}
    await closed(server)


@pytest_twisted.ensureDeferred
async def test_refusal_and_next(
    make_server: Callable[..., Any], run_client: Callable[..., Any], router: Any, site: Any
) -> None:
    """A refusal of the router is the answer; who is not known to it is looked for in the next service."""
    port = site.getHost().port
    server = make_server("--location", f"http:http://127.0.0.1:{port}/", "--location", "memory:", "--no-registrar")
    done = await deferToThread(run_client, "sipsak", "-vv", "-s", f"sip:bob@127.0.0.1:{server.port}")
    assert "SIP/2.0 480 Gone Home" in done.stdout
    router.answers["bob"] = {}
    done = await deferToThread(run_client, "sipsak", "-vv", "-s", f"sip:bob@127.0.0.1:{server.port}")
    assert "SIP/2.0 404 Not Found" in done.stdout
    await closed(server)


@pytest_twisted.ensureDeferred
async def test_wrong_answer(
    make_server: Callable[..., Any], run_client: Callable[..., Any], router: Any, site: Any
) -> None:
    """A wrong answer gives 500 without why, which is in the log, and no password with it."""
    server = make_server("--location", f"http:http://joe:secret@127.0.0.1:{site.getHost().port}/r?key=secret")
    router.answers["bob"] = {"targets": [{"uri": "sip:bob@h", "q": 7}]}
    done = await deferToThread(run_client, "sipsak", "-vv", "-s", f"sip:bob@127.0.0.1:{server.port}")
    assert "SIP/2.0 500 Server Internal Error" in done.stdout
    assert "/r gave a wrong answer, which is answered 500: targets[0].q: expected a number from 0 to 1" in server.log
    assert "Traceback" not in server.log
    assert "secret" not in server.log
    await closed(server)


@pytest_twisted.ensureDeferred
async def test_router_that_goes_and_comes(
    make_server: Callable[..., Any], run_client: Callable[..., Any], router: Any, site: Any
) -> None:
    """Without its router the server answers 503 with Retry-After, and by itself as before when that is back."""
    port = site.getHost().port
    server = make_server("--location", f"http:http://127.0.0.1:{port}/")
    await site.stopListening()
    done = await deferToThread(run_client, "sipsak", "-vvv", "-s", f"sip:bob@127.0.0.1:{server.port}")
    assert "SIP/2.0 503 Service Unavailable" in done.stdout
    assert "Retry-After: 5" in done.stdout
    back = reactor.listenTCP(port, Site(router), interface="127.0.0.1")
    done = await deferToThread(run_client, "sipsak", "-vv", "-s", f"sip:bob@127.0.0.1:{server.port}")
    assert "SIP/2.0 480 Gone Home" in done.stdout
    await closed(server)
    await back.stopListening()


async def closed(server: Any) -> None:
    """Stop *server*, and with it the connections that it keeps to the router in this process."""
    await deferToThread(server.stop)
