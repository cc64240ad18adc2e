"""Does a server keep up with its routes file, and keep the old routes where the new ones are wrong?"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogEvent, capturedLogs

from twisted_sipuas import RedirectServer, SIPError, SIPService, StartError, location_service
from twisted_sipuas.location.routes import RoutesLocationService, files, service
from twisted_sipuas.testing import RecordingFlow, make_request

ROUTE = '[[route]]\nname = "one"\ntargets = "sip:{}"\n'
FILE = '[[route]]\nfile = "rows.csv"\ntargets = "sip:{at}"\n'

_times = itertools.count(1_700_000_000_000_000_000)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write a file, so that it has another time of modification than before whatever the clock of the disk."""

    def write(text: str, name: str = "routes.toml") -> Any:
        path = tmp_path / name
        path.write_text(text)
        moment = next(_times)
        os.utime(path, ns=(moment, moment))
        return str(path)

    return write


@pytest.fixture
def make_routes(clock: Any, write: Any) -> Iterator[Any]:
    """Start the service for a text; each is stopped in the end."""
    made = []

    def make(text: str) -> Any:
        routes = RoutesLocationService(write(text), clock)
        routes.privilegedStartService()
        routes.startService()
        made.append(routes)
        return routes

    yield make
    for routes in made:
        if routes.running:
            routes.stopService()
    assert clock.getDelayedCalls() == []


def target(routes: Any) -> Any:
    """Return the host that everybody is sent to."""
    request = make_request("INVITE", "sip:bob@h")
    return routes.lookup(request.uri, request).targets[0].uri.host


def look(clock: Any, times: int = 1) -> None:
    """Let *times* intervals pass, and the thread look each time."""
    for _ in range(times):
        clock.advance(1)
        clock.take_from_thread()


def test_kind(clock: Any, write: Any) -> None:
    """`routes:FILE` answers at once, and so is neither given a deadline nor a cache unasked."""
    routes = location_service(f"routes:{write(ROUTE.format('a'))}", clock)
    assert isinstance(routes, RoutesLocationService)
    assert routes.description == f"routes:{routes.path}"
    with pytest.raises(ValueError, match="expected the name of a file"):
        location_service("routes:", clock)


def test_lookup_and_counters(make_routes: Any) -> None:
    """What is held and what was answered is counted, by route for those with a name."""
    routes = make_routes(
        ROUTE.format("a") + 'prefix = ["+49", "+43"]\n[[route]]\nname = "two"\nuser = "bob"\nrefuse = 486'
    )
    number, bob, nobody = (make_request("INVITE", uri) for uri in ("tel:+491", "sip:bob@h", "sip:nobody@h"))
    assert routes.lookup(number.uri, number).targets[0].uri.host == "a"
    with pytest.raises(SIPError) as raised:
        routes.lookup(bob.uri, bob)
    assert raised.value.status == 486
    assert routes.lookup(nobody.uri, nobody) is None
    assert routes.counters == {
        "routes": 2,
        "prefixes": 2,
        "users": 1,
        "lookups": 3,
        "not_found": 1,
        "reloads": 0,
        "reload_failures": 0,
        "hits_one": 1,
        "hits_two": 1,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read {path}: No such file or directory: mend it, or choose another file with --location "),
        ("[[route]]\nq = 1", "{path}:2: the key q is unknown: expected one of "),
    ],
)
def test_wrong_at_start(clock: Any, write: Any, tmp_path: Path, text: str, said: str) -> None:
    """A file that is missing or wrong at start is a StartError of one line."""
    path = str(tmp_path / "routes.toml") if text is None else write(text)
    routes = RoutesLocationService(path, clock)
    with pytest.raises(StartError) as raised:
        routes.privilegedStartService()
    assert str(raised.value).startswith(said.format(path=path))
    assert "\n" not in str(raised.value)


def test_change_takes_effect(make_routes: Any, write: Any, clock: Any) -> None:
    """A file that changed is read once it rests, one interval later, and then answers."""
    routes = make_routes(ROUTE.format("a"))
    look(clock)
    assert target(routes) == "a"
    write(ROUTE.format("b"))
    look(clock)
    assert target(routes) == "a", "it may not be written to its end"
    look(clock)
    assert target(routes) == "b"
    look(clock, 3)
    assert routes.counters["reloads"] == 1


def test_file_that_is_being_written_is_left(make_routes: Any, write: Any, clock: Any) -> None:
    """A file that changes from look to look is not read, whatever is in it meanwhile."""
    routes = make_routes(ROUTE.format("a"))
    for number in range(5):
        write(ROUTE.format(f"b{number}"))
        look(clock)
    assert target(routes) == "a"
    look(clock)
    assert target(routes) == "b4"
    assert routes.counters["reloads"] == 1


def test_file_that_is_written_while_it_is_read(
    make_routes: Any, write: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of a file that changed meanwhile is not used, and the file is read again when it rests."""
    routes = make_routes(ROUTE.format("a"))
    read = service._read

    def slow_read(path: Path) -> Any:
        look = read(str(path))
        write(ROUTE.format("c"))
        monkeypatch.undo()
        return look

    monkeypatch.setattr(service, "_read", slow_read)
    write(ROUTE.format("b"))
    look(clock, 2)
    assert target(routes) == "a"
    look(clock, 2)
    assert target(routes) == "c"
    assert routes.counters["reloads"] == 1


def test_wrong_change_keeps_the_old(make_routes: Any, write: Any, clock: Any) -> None:
    """A file that is wrong is told once, with its line, and changes nothing until it is mended."""
    routes = make_routes(ROUTE.format("a"))
    path = write("[[route]]\ntarget = 1\n")
    with capturedLogs() as logs:
        look(clock, 5)
    (event,) = logs
    assert event["fault"] == f"{path}:2: the key target is unknown: did you mean targets?"
    assert target(routes) == "a"
    assert routes.counters["reload_failures"] == 1
    write(ROUTE.format("b"))
    look(clock, 2)
    assert target(routes) == "b"


@pytest.mark.parametrize("text", ["", ROUTE.format("b")[:-9]])
def test_cut_file_is_wrong(make_routes: Any, write: Any, clock: Any, text: str) -> None:
    """A file of which only the begin is there, if no more comes, keeps the old routes too."""
    routes = make_routes(ROUTE.format("a"))
    write(text)
    look(clock, 3)
    assert target(routes) == "a"
    assert routes.counters["reload_failures"] == 1


def test_file_renamed_into_place(make_routes: Any, write: Any, clock: Any, tmp_path: Path) -> None:
    """Editors that write another file and rename it, even to the same size and time, are noticed."""
    routes = make_routes(ROUTE.format("a"))
    state = os.stat(tmp_path / "routes.toml")
    write(ROUTE.format("b"), "new")
    os.utime(tmp_path / "new", ns=(state.st_mtime_ns, state.st_mtime_ns))
    os.rename(tmp_path / "new", tmp_path / "routes.toml")
    look(clock, 2)
    assert target(routes) == "b"


def test_file_that_is_gone(make_routes: Any, write: Any, clock: Any, tmp_path: Path) -> None:
    """A file that goes away leaves the routes, is told once, and is read when it comes back."""
    routes = make_routes(ROUTE.format("a"))
    (tmp_path / "routes.toml").unlink()
    with capturedLogs() as logs:
        look(clock, 4)
    assert [event["fault"] for event in logs] == [f"cannot read {routes.path}: No such file or directory"]
    write(ROUTE.format("b"))
    look(clock, 2)
    assert target(routes) == "b"


def test_file_that_may_not_be_read(
    make_routes: Any, write: Any, clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the server's user may not read is told once, and read when its mode, and nothing else, changed."""
    routes = make_routes(ROUTE.format("a"))
    path = tmp_path / "routes.toml"

    def refuse(path: Path, flags: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files, "_open", refuse)  # as the tests may be root's
    write(ROUTE.format("b"))
    with capturedLogs() as logs:
        look(clock, 5)
    assert [event["fault"] for event in logs] == [f"cannot read {path}: Permission denied"]
    assert target(routes) == "a"
    monkeypatch.undo()
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.chmod(0o644)
    look(clock, 2)
    assert target(routes) == "b"


def test_files_with_rows(make_routes: Any, write: Any, clock: Any, tmp_path: Path) -> None:
    """A file with rows is kept up with as well, from when it is named, there or not."""
    routes = make_routes(ROUTE.format("a"))
    write(FILE.replace('file = "rows.csv"', "").replace("{at}", "c") + FILE)
    look(clock, 2)
    assert routes.counters["reload_failures"] == 1
    write("user,at\nbob,b\n", "rows.csv")
    look(clock, 2)
    assert target(routes) == "b"
    write("user,at\nbob,d\n", "rows.csv")
    look(clock, 2)
    assert target(routes) == "d"
    assert routes.counters["reloads"] == 2


def test_reload_at_once(make_routes: Any, write: Any, clock: Any) -> None:
    """`reload` does not wait for a file to rest, and reads one that did not change."""
    routes = make_routes(ROUTE.format("a"))
    write(ROUTE.format("b"))
    routes.reload()
    clock.take_from_thread()
    assert target(routes) == "b"
    routes.reload()
    clock.take_from_thread()
    assert routes.counters["reloads"] == 2
    assert len(clock.getDelayedCalls()) == 1


def test_reload_while_looking(make_routes: Any, write: Any, clock: Any) -> None:
    """`reload` while the thread looks has the file read when that is over, once however often it is called."""
    routes = make_routes(ROUTE.format("a"))
    clock.advance(1)
    write(ROUTE.format("b"))
    routes.reload()
    routes.reload()
    clock.take_from_thread()
    clock.take_from_thread()
    assert target(routes) == "b"
    assert routes.counters["reloads"] == 1


def test_hits_survive_a_reload(make_routes: Any, write: Any, clock: Any) -> None:
    """Hits are counted on for names that are there still, and those of others are forgotten."""
    routes = make_routes(ROUTE.format("a"))
    target(routes)
    write(ROUTE.format("b") + '[[route]]\nname = "two"\nuser = "x"\nrefuse = 404')
    look(clock, 2)
    target(routes)
    assert {name: hits for name, hits in routes.counters.items() if name.startswith("hits")} == {
        "hits_one": 2,
        "hits_two": 0,
    }
    write(ROUTE.format("b").replace("one", "three"))
    look(clock, 2)
    assert [name for name in routes.counters if name.startswith("hits")] == ["hits_three"]


def test_stop_while_looking(make_routes: Any, write: Any, clock: Any) -> None:
    """What a look finds after the stop is dropped, and a new start reads the file."""
    routes = make_routes(ROUTE.format("a"))
    clock.advance(1)
    routes.stopService()
    routes.reload()
    clock.take_from_thread()
    assert clock.getDelayedCalls() == []
    write(ROUTE.format("b"))
    routes.startService()
    assert target(routes) == "b"
    look(clock, 2)
    assert routes.counters["reloads"] == 0


def test_unexpected_failure(
    make_routes: Any, write: Any, clock: Any, monkeypatch: pytest.MonkeyPatch, logged_failures: list[LogEvent]
) -> None:
    """A failure that nobody thought of is logged, the old routes stay, and the next look is made."""
    routes = make_routes(ROUTE.format("a"))
    monkeypatch.setattr(service, "states_of", lambda paths: 1 / 0)
    look(clock)
    assert [event["log_failure"].type for event in logged_failures] == [ZeroDivisionError]
    logged_failures.clear()
    monkeypatch.undo()
    write(ROUTE.format("b"))
    look(clock, 2)
    assert target(routes) == "b"


def test_path_is_kept_from_the_start(clock: Any, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name is that from the directory at start, wherever the process goes later."""
    write(ROUTE.format("a"))
    monkeypatch.chdir(tmp_path)
    routes = RoutesLocationService("routes.toml", clock)
    routes.privilegedStartService()
    monkeypatch.chdir("/")
    routes.startService()
    write(ROUTE.format("b"))
    look(clock, 2)
    assert target(routes) == "b"
    routes.stopService()


@pytest.mark.parametrize("options", ["", ",cache=30"])
def test_server_reloads(clock: Any, write: Any, options: Any) -> None:
    """SIGHUP, that is `SIPService.reload`, reaches the routes, guarded or not; a 302 has the new Contact (8.3)."""
    routes = location_service(f"routes{options}:{write(ROUTE.format('{user}@a'))}", clock)
    server = SIPService(clock, RedirectServer([routes]))
    server.startService()
    flow = RecordingFlow()
    write(ROUTE.format("{user}@b"))
    server.reload()
    clock.take_from_thread()
    server.message_received(make_request("INVITE", "sip:bob@h"), flow)
    assert flow.responses[-1].status == 302
    assert flow.responses[-1].headers.get("Contact") == "<sip:bob@b>"
    server.stopService()
    server.hasten_stop()
    assert server.counters["location_1_reloads"] == 1
