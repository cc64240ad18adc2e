"""Do the benchmarks run? With counts so small that they measure nothing."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from twisted_sipuas import Request, parse_message

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def table(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command that makes the README's table."""
    command = [sys.executable, str(BENCHMARKS / "table.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What imports a module of the benchmarks, as they do."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_measures_every_transport() -> None:
    """The command prints a row for ours with all its figures, over datagrams and over a connection by TLS."""
    done = table("call", "tls", "--rounds", "2", "--seconds", "0.05", "--warm-up", "20")
    assert done.returncode == 0, done.stderr
    for exchange in ("INVITE, 200, ACK, BYE, 200", "TLS"):
        row = next(line for line in done.stdout.splitlines() if line.startswith(f"| {exchange}"))
        assert len(re.findall(r"[0-9.,]+ \([0-9.,]+ to [0-9.,]+\)", row)) == 4, row


def test_compares_with_peers() -> None:
    """A peer is measured in turns with ours, and its row says how many times its CPU time ours takes."""
    done = table("stateless", "--rounds", "1", "--seconds", "0.05", "--warm-up", "20")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "`twisted.protocols.sip`" in line)
    assert re.search(r"\| [0-9.]+ \([0-9.]+ to [0-9.]+\) \| [0-9]+\.[0-9]{2} \|", row), row


def test_stops_a_server_while_others_have_their_turn(module: Any) -> None:
    """A server that is paused does nothing until it is resumed, and can be ended as it is."""
    processes, peers = module("processes"), module("peers")
    with peers.echo("socket")() as server, processes.client_of(server) as client:
        assert client.run("options", None, count=10).right == 10
        processes.pause(server)
        assert client.run("options", None, count=10).lost == 10
        processes.resume(server)
        assert client.run("options", None, count=10).right == 10
        processes.pause(server)
    assert not Path(f"/proc/{server.process}").exists()


def test_others_are_stopped_in_a_turn(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one server of a case is asked the others are stopped, for what they are late with would be at its cost."""
    table, processes = module("table"), module("processes")
    states: list[set[str]] = []
    servers: list[Any] = []

    def asked(running: Any, **how: float) -> Any:
        if running._server not in servers:
            servers.append(running._server)
        else:
            others = [f"/proc/{server.process}/stat" for server in servers if server != running._server]
            states.append({Path(stat).read_text().rpartition(")")[2].split()[0] for stat in others})
        return running.row.count(processes.Result(1, 0, 0, 1.0, 0.0))

    monkeypatch.setattr(table.Running, "_ask", asked)
    table.measure(module("cases").CASES["echo"], 1, 0.01, 1)
    assert states == [{"T"}] * 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nonsense"], "nonsense is no case"), (["--rounds", "0"], "greater than 0"), (["tls", "--readme"], "all cases")],
)
def test_mistakes(arguments: list[str], said: str) -> None:
    """A mistake in the arguments ends at once, with a last line that says what it is."""
    done = table(*arguments)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]


def test_readme_has_its_place(module: Any) -> None:
    """The table takes the place of the one before between the README's markers, and nothing else changes."""
    table = module("table")
    before = table.README.read_text()
    after = table.put_into(before, "| a \\1 | b |")
    begin, end = (re.escape(marker) for marker in table.MARKERS)
    pattern = re.compile(f"{begin}.*{end}", re.DOTALL)
    assert pattern.findall(after) == [f"{table.MARKERS[0]}\n| a \\1 | b |\n{table.MARKERS[1]}"]
    assert pattern.sub("", after) == pattern.sub("", before)
    with pytest.raises(ValueError, match="there is no <!-- benchmarks -->"):
        table.put_into("no markers", "| a | b |")


def parsed(octets: bytes) -> Request:
    request = parse_message(octets)
    assert isinstance(request, Request)
    return request


@pytest.mark.parametrize("kind", ["options", "register", "invite", "call"])
def test_asks_in_sip(module: Any, kind: str) -> None:
    """What the client sends are requests by RFC 3261, 8.1.1, each of a transaction of its own."""
    exchanges = module("messages").Exchanges(kind, 200, "udp", 5060, users=10, cseq=7)
    requests = [parsed(exchanges.request(number)) for number in range(20)]
    assert len({request.via.parameters["branch"] for request in requests}) == 20
    assert {request.method for request in requests} == {"INVITE" if kind in ("invite", "call") else kind.upper()}
    if kind == "register":
        assert [request.cseq.number for request in requests] == [7] * 10 + [8] * 10


def test_takes_a_call_to_its_end(module: Any) -> None:
    """A 200 to an INVITE gets an ACK and a BYE in its dialog (12.2.1.1), and the exchange ends with the 200 to that."""
    exchanges = module("messages").Exchanges("call", 200, "udp", 5060)
    invite = parsed(exchanges.request(3))
    trying, taken = invite.response(100), invite.response(200, headers=[("Contact", "<sip:b@192.0.2.9>")])
    assert exchanges.step(trying.to_bytes("")) is None
    step = exchanges.step(taken.to_bytes("b1"))
    ack, bye = map(parsed, step.messages)
    assert (step.number, step.is_right, ack.method, bye.method) == (3, None, "ACK", "BYE")
    assert str(ack.uri) == str(bye.uri) == "sip:b@192.0.2.9"
    assert bye.to.tag == "b1"
    assert exchanges.step(bye.response(200).to_bytes("")) == (3, (), True)
