"""Does the supervisor replace workers, have them stop together, and give up on none but in time?"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, eventAsJSON, globalLogPublisher
from twisted.python.failure import Failure

from tests.log_observers import log_observer
from twisted_sipuas.errors import StartError
from twisted_sipuas.interfaces import Address
from twisted_sipuas.supervisor import Supervisor
from twisted_sipuas.transport.listeners import Listening

KEY = bytes(range(32))


class Child:
    """A worker process, as its parent sees it."""

    def __init__(self, protocol: Any, arguments: list[str], descriptors: dict[int, int | str], pid: int) -> None:
        self.protocol = protocol
        self.arguments = arguments
        self.descriptors = descriptors
        self.pid: int | None = pid
        self.told = b""

    def write(self, data: bytes) -> None:
        self.told += data

    @property
    def words(self) -> list[str]:
        """What it was told after its assignment."""
        return self.told.decode().splitlines()[1:]

    def report(self, line: str) -> None:
        self.protocol.childDataReceived(3, line.encode() + b"\n")

    def end(self, status: int = 0, by: int | None = None) -> None:
        """End, with everything that it was connected by."""
        for descriptor in (0, 1, 2, 3):
            self.protocol.childConnectionLost(descriptor)
        self.exit(status, by)

    def exit(self, status: int = 0, by: int | None = None) -> None:
        """End, but for what it was connected by, which another process still has."""
        self.pid = None
        error = ProcessTerminated(status, by) if status or by else ProcessDone(0)
        self.protocol.processExited(Failure(error))


class Reactor(Clock):
    """A reactor that starts children, as far as a test says how."""

    def __init__(self) -> None:
        super().__init__()
        self.running = False
        self.children: list[Child] = []
        self.refusal: OSError | None = None
        self.turn: Callable[[], object] = lambda: None

    def spawnProcess(self, protocol: Any, executable: str, args: list[str], env: object, childFDs: Any) -> None:
        assert env is None, "the parent's environment"
        if self.refusal is not None:
            raise self.refusal
        self.children.append(Child(protocol, args, childFDs, 1000 + len(self.children)))
        protocol.makeConnection(self.children[-1])

    def iterate(self, delay: float = 0) -> None:
        self.turn()
        self.advance(delay)

    def serve(self) -> None:
        """Have every child that was not heard of yet say that it serves."""
        for child in self.children:
            if not child.protocol.is_serving and child.pid is not None:
                child.report("listening")


class Sockets:
    """What `SharedListeners` is to the supervisor."""

    listening = (Listening("udp", Address("127.0.0.1", 5060)),)

    def __init__(self) -> None:
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def descriptors(self, process: int) -> list[tuple[int, ...]]:
        return [(40 + process, 50), (60,)]

    def close(self) -> Deferred[None]:
        self.is_open = False
        return succeed(None)


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


@pytest.fixture
def sockets() -> Sockets:
    return Sockets()


@pytest.fixture
def supervisor(reactor: Reactor, sockets: Sockets) -> Supervisor:
    """A supervisor of two workers, not yet started."""
    return Supervisor(
        reactor, 2, sockets, arguments=["--answer", "\udce9"], directory="/there", key=KEY  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def started(supervisor: Supervisor, reactor: Reactor) -> Supervisor:
    reactor.turn = reactor.serve
    supervisor.privilegedStartService()
    supervisor.startService()
    reactor.running = True
    return supervisor


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was killed, and by which signal."""
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda pid, number: calls.append((pid, number)))
    return calls


@pytest.fixture
def events() -> Iterator[Any]:
    logged: list[LogEvent] = []
    logged_observer = log_observer(logged.append)
    globalLogPublisher.addObserver(logged_observer)
    yield logged
    globalLogPublisher.removeObserver(logged_observer)


def test_assignment(started: Any, reactor: Any) -> None:
    """Each worker is told the command line as it was given, the shared key, and its own sockets, none of it in `ps`."""
    for number, child in enumerate(reactor.children):
        assert child.arguments[-1] == f"worker {number + 1}"
        assert child.descriptors == {0: "w", 1: "r", 2: "r", 3: "r", 4: 40 + number, 5: 50, 6: 60}
        line, *words = child.told.decode().splitlines()
        assert json.loads(line) == [
            number + 1, ["--answer", "\udce9"], "/there", Reactor.__module__, KEY.hex(), [[4, 5], [6]]
        ]  # fmt: skip
        assert words == []
        assert KEY.hex() not in " ".join(child.arguments)


def test_start_waits(supervisor: Any, reactor: Any, sockets: Any) -> None:
    """`startService` returns when every worker serves, as nobody else could tell a daemon's parent."""
    listening = supervisor.when_listening()
    turns = iter([lambda: None, lambda: reactor.children[1].report("listening"), reactor.serve])
    reactor.turn = lambda: next(turns)()
    supervisor.startService()
    assert sockets.is_open
    assert supervisor.counters == {"workers_serving": 2, "workers_lost": 0}
    assert listening.called


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (lambda child: child.report('failed "routes.toml: wrong"'), "worker 2: routes.toml: wrong"),
        (lambda child: child.end(1), "worker 2: it ended before it served"),
        (lambda child: child.exit(by=11), "worker 2: it was ended by signal 11"),
        (
            lambda child: [child.protocol.childDataReceived(2, b"...\nMemoryError: no room\n"), child.end(1)],
            "worker 2: it ended before it served: MemoryError: no room",
        ),
        (lambda child: None, "worker [12]: it does not serve after 30 s"),
    ],
    ids=["fault", "end", "signal", "crash", "silence"],
)
def test_start_fault(supervisor: Any, reactor: Any, sockets: Any, killed: Any, happens: Any, said: str) -> None:
    """A worker that cannot start is the fault of the start, in one line; the others are ended, the sockets closed."""
    reactor.turn = lambda: happens(reactor.children[1])
    with pytest.raises(StartError, match=said):
        supervisor.startService()
    assert (reactor.children[0].pid, signal.SIGKILL) in killed
    assert not sockets.is_open
    assert not supervisor.running
    assert reactor.getDelayedCalls() == []


def test_no_python(supervisor: Any, reactor: Any, sockets: Any) -> None:
    """Where no process can be started at all, after --chroot say, the fault names the program."""
    reactor.refusal = FileNotFoundError(2, "No such file or directory")
    with pytest.raises(StartError, match=r"worker 1: cannot start .*python.*: No such file or directory"):
        supervisor.startService()
    assert not sockets.is_open
    assert reactor.getDelayedCalls() == []


def test_fault_in_a_running_reactor(supervisor: Any, reactor: Any) -> None:
    """In a reactor that runs already, starting waits for nothing, and `when_listening` tells of the fault."""
    reactor.running = True
    supervisor.startService()
    listening = supervisor.when_listening()
    reactor.children[0].report('failed "wrong"')
    faults: list[Failure] = []
    listening.addErrback(faults.append)
    assert str(faults[0].value) == "worker 1: wrong"


def test_replaced(started: Any, reactor: Any, events: Any) -> None:
    """A worker that ends is replaced at once, by one with the same number and sockets; it is logged and counted."""
    reactor.children[0].end(by=9)
    reactor.advance(0)
    assert started.counters["workers_lost"] == 1
    assert started.counters["workers_serving"] == 1
    replacement = reactor.children[2]
    assert replacement.descriptors == reactor.children[0].descriptors
    assert replacement.arguments == reactor.children[0].arguments
    replacement.report("listening")
    assert started.counters["workers_serving"] == 2
    logged = [event for event in events if event.get("log_level") is LogLevel.error]
    assert [event["log_format"].format(**event) for event in logged] == [
        "Worker 1 was ended by signal 9; another takes its place now"
    ]


def test_growing_delay(started: Any, reactor: Any) -> None:
    """One that keeps ending is replaced ever later, until one has lasted."""
    delays = []
    for _ in range(8):
        reactor.children[-1].end(1)
        delays.append(round(reactor.getDelayedCalls()[0].getTime() - reactor.seconds()))
        reactor.advance(delays[-1])
        reactor.children[-1].report("listening")
    assert delays == [0, 1, 2, 4, 8, 16, 30, 30]
    reactor.advance(60)
    reactor.children[-1].end(1)
    assert reactor.getDelayedCalls()[0].getTime() == reactor.seconds()


def test_replacement_that_hangs(started: Any, reactor: Any, killed: Any) -> None:
    """A replacement that does not come to serve in 30 s is killed, and replaced in turn."""
    reactor.children[0].end(by=9)
    reactor.advance(0)
    reactor.advance(30)
    assert killed == [(1002, signal.SIGKILL)]
    reactor.children[2].end(by=9)
    reactor.advance(1)
    assert len(reactor.children) == 4


def test_output_held_by_another(started: Any, reactor: Any) -> None:
    """A worker that ended is replaced though another process still has its output, and says nothing by that."""
    reactor.children[0].exit(1)
    reactor.advance(0)
    assert len(reactor.children) == 3
    reactor.children[0].report('failed "late"')
    reactor.children[0].report('counters {"late": 1}')
    for descriptor in (1, 2, 3):
        reactor.children[0].protocol.childConnectionLost(descriptor)
    reactor.serve()
    assert started.counters == {"workers_serving": 2, "workers_lost": 1}


def test_stop_together(started: Any, reactor: Any, sockets: Any) -> None:
    """No worker stops before all have done what they owe: until then each refuses new requests with 503."""
    stopped = started.stopService()
    one, two = reactor.children
    assert (one.words, two.words) == (["drain"], ["drain"])
    one.report("drained")
    assert one.words == ["drain"]
    two.report("drained")
    assert (one.words, two.words) == (["drain", "stop"], ["drain", "stop"])
    one.end()
    assert sockets.is_open
    two.end()
    assert not sockets.is_open
    assert stopped.called
    assert reactor.getDelayedCalls() == []
    assert started.counters["workers_lost"] == 0


def test_stop_with_one_gone(started: Any, reactor: Any, sockets: Any) -> None:
    """A worker that is being replaced is not waited for when the service stops, nor started any more."""
    for _ in range(2):
        reactor.children[-1].end(1)
        reactor.advance(0)
    stopped = started.stopService()
    reactor.children[0].report("drained")
    assert reactor.children[0].words == ["drain", "stop"]
    reactor.children[0].end()
    assert stopped.called
    reactor.advance(100)
    assert len(reactor.children) == 3


def test_stop_is_bounded(started: Any, reactor: Any, killed: Any) -> None:
    """What hangs is not waited for: after 6 s workers are told to stop, 10 s later they are killed."""
    stopped = started.stopService()
    reactor.advance(6)
    assert [child.words for child in reactor.children] == [["drain", "stop"]] * 2
    reactor.advance(10)
    assert killed == [(1000, signal.SIGKILL), (1001, signal.SIGKILL)]
    for child in reactor.children:
        child.end(by=9)
    assert stopped.called
    assert reactor.getDelayedCalls() == []


def test_hasten(started: Any, reactor: Any) -> None:
    """A hastened stop is every worker's; before a stop there is nothing to hasten."""
    started.hasten_stop()
    assert reactor.children[0].words == []
    started.stopService()
    started.hasten_stop()
    assert [child.words for child in reactor.children] == [["drain", "stop", "hasten"]] * 2
    for child in reactor.children:
        child.end()


def test_reload(started: Any, reactor: Any) -> None:
    """What is to be read again every worker reads again."""
    started.reload()
    assert [child.words for child in reactor.children] == [["reload"], ["reload"]]


def test_counters(started: Any, reactor: Any) -> None:
    """Each worker's own counters are there under its number, the latest that it told; those of the dead are gone."""
    reactor.children[0].report('counters {"connections": 1}')
    reactor.children[0].report('counters {"connections": 2}')
    reactor.children[1].report('counters {"connections": 7}')
    assert started.counters == {
        "workers_serving": 2, "workers_lost": 0, "worker_1_connections": 2, "worker_2_connections": 7
    }  # fmt: skip
    reactor.children[1].end(1)
    assert "worker_2_connections" not in started.counters


def test_log(started: Any, reactor: Any, events: Any) -> None:
    """A log event of a worker keeps its level, its time and its text, and says whose it is."""
    event = {"log_format": "{what} went", "what": object(), "log_level": LogLevel.warn, "log_time": 12.5}
    line = f"log {eventAsJSON({**event, 'log_namespace': 'some.where'})}\n".encode()
    for octet in range(len(line)):
        reactor.children[1].protocol.childDataReceived(3, line[octet : octet + 1])
    reactor.children[0].protocol.childDataReceived(1, b"\xff past it\n")
    assert [(each["log_system"], each["log_level"]) for each in events[-2:]] == [
        ("worker 2, some.where#warn", LogLevel.warn),
        ("worker 1", LogLevel.warn),
    ]
    assert events[-2]["log_time"] == 12.5
    assert events[-1]["line"] == "\\xff past it"


def test_endless_line(started: Any, reactor: Any) -> None:
    """A line without an end is not kept without an end."""
    protocol = reactor.children[0].protocol
    for _ in range(40):
        protocol.childDataReceived(2, b"x" * 65536)
    assert len(protocol._lines[2]._rest) <= 1024 * 1024
