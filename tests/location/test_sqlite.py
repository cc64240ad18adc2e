"""Does a binding that was answered survive, does a failure change nothing, and does a start say what is wrong?"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from twisted_sipuas.errors import SIPError, StartError
from twisted_sipuas.location import Binding, SQLiteBindingStore
from twisted_sipuas.location.database import BindingDatabase, Change
from twisted_sipuas.syntax.uri import parse_uri
from twisted_sipuas.testing import make_request

BOB = "sip:bob@example.com"


@pytest.fixture
def store(make_store: Any) -> Any:
    return make_store("sqlite")


@pytest.fixture
def path(tmp_path: Path) -> Any:
    """Where `make_store` has its file."""
    return str(tmp_path / "bindings.sqlite")


def put(store: Any, address: Any, *bindings: Any) -> Any:
    return store.replace(address, store.bindings(address)[1], bindings)


def rows(path: Path) -> Any:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT address_of_record, uri FROM bindings ORDER BY 1, position").fetchall()
    finally:
        connection.close()


# Durability


def test_restart(make_store: Any, clock: Any, binding: Any) -> None:
    """Everything of every binding is there again after a restart, in order."""
    bindings = (
        binding(q=0.5, display_name='B "ö"', parameters=';+sip.instance="<urn:uuid:1>"'),
        binding("tel:+1", left=90.125, q=0.0),
    )
    store = make_store("sqlite")
    clock.result(put(store, BOB, *bindings))
    clock.result(store.stopService())
    assert make_store("sqlite").bindings(BOB)[0] == bindings


def test_any_octets(make_store: Any, clock: Any, binding: Any) -> None:
    """What was received and is no UTF-8, and NUL from an escape, come back as they were."""
    address = "sip:\udcff\0ü@example.com"
    kept = binding("sip:\udcfe@h", display_name="\udcc3", parameters=";a=\udcff")
    store = make_store("sqlite")
    clock.result(put(store, address, kept))
    clock.result(store.stopService())
    assert make_store("sqlite").bindings(address)[0] == (kept,)


WRITER = """
import os, sys
from twisted.internet import reactor
from twisted_sipuas.location import Binding, SQLiteBindingStore

store = SQLiteBindingStore(sys.argv[1], reactor)

def write(number):
    done = store.replace(f"sip:{number}@h", 0, (Binding(f"tel:+{number}", reactor.seconds() + 3600, "call", 1),))
    done.addCallback(answered, number).addErrback(lambda _: os._exit(1))

def answered(was_done, number):
    assert was_done
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    write(number + 20)

store.startService()
for number in range(20):
    write(number)
reactor.run()
"""


def environment() -> Any:
    """The tests' own, with the project on the path however pytest was started."""
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}


def test_kill(path: Any) -> None:
    """Every binding that was answered for is there after the process was killed in the middle of writing."""
    from twisted.internet import reactor

    child = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, env=environment(), text=True)
    watchdog = threading.Timer(30, child.kill)
    watchdog.daemon = True
    watchdog.start()
    with child:
        assert child.stdout is not None
        answered = [int(child.stdout.readline()) for _ in range(300)]
        child.send_signal(signal.SIGKILL)
        answered += [int(line) for line in child.stdout if line.endswith("\n")]
    watchdog.cancel()
    watchdog.join()
    store = SQLiteBindingStore(path, reactor)
    store.privilegedStartService()
    store.stopService()
    for number in answered:
        assert [binding.uri_text for binding in store.bindings(f"sip:{number}@h")[0]] == [f"tel:+{number}"]


def test_stop_writes_what_was_taken(make_store: Any, clock: Any, binding: Any) -> None:
    """What was taken before the stop is written and answered, in the order taken; nothing is taken after it."""
    store = make_store("sqlite")
    taken = [put(store, f"sip:{number}@h", binding()) for number in range(10)]
    stopped = store.stopService()
    with pytest.raises(SIPError) as raised:
        put(store, BOB, binding())
    assert raised.value.status == 503
    assert [clock.result(done) for done in taken] == [True] * 10
    clock.result(stopped)
    assert make_store("sqlite").counters["addresses"] == 10


def test_groups(store: Any, clock: Any, binding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while a transaction is committed shares the next one."""
    groups: Any = []
    write = BindingDatabase.write
    monkeypatch.setattr(
        BindingDatabase, "write", lambda self, changes: (groups.append(len(changes)), write(self, changes))
    )
    taken = [put(store, f"sip:{number}@h", binding()) for number in range(50)]
    for done in taken:
        clock.result(done)
    assert groups == [1, 49]


# All or nothing


@pytest.mark.requirement("10.3-38")
def test_visible_when_committed(store: Any, clock: Any, binding: Any) -> None:
    """A change is visible when it is on the disk, and no earlier."""
    done = put(store, BOB, binding())
    assert store.bindings(BOB)[0] == ()
    assert store.lookup(parse_uri(BOB), make_request()) is None
    assert clock.result(done) is True
    assert store.bindings(BOB)[0] == (binding(),)


@pytest.fixture
def failing_store(make_store: Any, clock: Any, path: Path) -> Any:
    """A store on a file that refuses the contact tel:+666."""
    clock.result(make_store("sqlite").stopService())
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TRIGGER evil BEFORE INSERT ON bindings WHEN NEW.uri = CAST('tel:+666' AS BLOB) "
        "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    connection.commit()
    connection.close()
    return make_store("sqlite")


@pytest.mark.requirement("10.3-39")
def test_failed_write(failing_store: Any, clock: Any, binding: Any) -> None:
    """A change that cannot be written fails with 500, as does what shares its transaction; later ones do not."""
    clock.result(put(failing_store, BOB, binding()))
    first = put(failing_store, "sip:first@h", binding())
    others = [put(failing_store, BOB, binding("tel:+666")), put(failing_store, "sip:shares@h", binding())]
    assert clock.result(first) is True
    for done in others:
        with pytest.raises(SIPError) as raised:
            clock.result(done)
        assert (raised.value.status, raised.value.rule) == (500, "10.3-39")
    assert failing_store.counters["failed"] == 2
    assert clock.result(put(failing_store, "sip:shares@h", binding())) is True


@pytest.mark.requirement("10.3-40")
def test_failed_write_changes_nothing(failing_store: Any, clock: Any, binding: Any, path: Path) -> None:
    """After a change that could not be written the bindings are those before it, in memory and on the disk."""
    clock.result(put(failing_store, BOB, binding()))
    before = failing_store.bindings(BOB)
    with pytest.raises(SIPError):
        clock.result(put(failing_store, BOB, binding("tel:+1"), binding("tel:+666")))
    assert failing_store.bindings(BOB) == before
    clock.result(failing_store.stopService())
    assert rows(path) == [(BOB.encode(), b"sip:bob@192.0.2.4")]


def test_lost_race_hears_in_the_end(failing_store: Any, clock: Any, binding: Any) -> None:
    """Who lost to a change that then failed is told so only then, and has its way when it tries again."""
    failing = put(failing_store, BOB, binding("tel:+666"))
    lost = put(failing_store, BOB, binding())
    assert not lost.called
    assert failing_store.counters["pending"] == 2
    with pytest.raises(SIPError):
        clock.result(failing)
    assert clock.result(lost) is False
    assert failing_store.counters["pending"] == 0
    assert clock.result(put(failing_store, BOB, binding())) is True


# Bounds


def test_bound_on_pending(make_store: Any, clock: Any, binding: Any) -> None:
    """While too many changes wait for the disk, more are refused with 503 and Retry-After."""
    store = make_store("sqlite", max_pending=2)
    taken = [put(store, f"sip:{number}@h", binding()) for number in range(2)]
    with pytest.raises(SIPError) as raised:
        put(store, BOB, binding())
    assert raised.value.status == 503
    assert dict(raised.value.headers)["Retry-After"]
    assert (store.counters["pending"], store.counters["refused"]) == (2, 1)
    with pytest.raises(SIPError):
        put(store, "sip:0@h", binding("tel:+1"))  # who would only wait to hear that the race is lost
    assert [clock.result(done) for done in taken] == [True, True]
    assert clock.result(put(store, BOB, binding())) is True


def test_bound_on_addresses_counts_pending(make_store: Any, clock: Any, binding: Any) -> None:
    """The bound on addresses-of-record holds with changes on their way counted."""
    store = make_store("sqlite", max_addresses=2)
    taken = [put(store, f"sip:{number}@h", binding()) for number in range(2)]
    with pytest.raises(SIPError):
        put(store, BOB, binding())
    assert [clock.result(done) for done in taken] == [True, True]


def test_stop_is_bounded(clock: Any, tmp_path: Path, binding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs does not keep the service from stopping."""
    disk = threading.Event()
    write = BindingDatabase.write
    monkeypatch.setattr(BindingDatabase, "write", lambda self, changes: (disk.wait(5), write(self, changes)))
    store = SQLiteBindingStore(str(tmp_path / "slow"), clock)
    store.startService()
    done = put(store, BOB, binding())
    stopped = store.stopService()
    clock.advance(9)
    assert not stopped.called
    clock.advance(1)
    assert stopped.called
    disk.set()
    assert clock.result(done) is True


def test_unencodable(store: Any, binding: Any) -> None:
    """Text that no received octets make is refused at once, and harms no other change."""
    with pytest.raises(UnicodeEncodeError):
        put(store, BOB, binding(display_name="\ud800"))
    assert store.counters["pending"] == 0


# Expiry


def test_expired_rows_are_deleted(make_store: Any, clock: Any, binding: Any, path: Path) -> None:
    """What expired while the server ran, and while it did not, is no more in the file."""
    store = make_store("sqlite")
    for name, left in (("first", 15), ("second", 200), ("third", 900)):
        clock.result(put(store, f"sip:{name}@h", binding(left=left), binding("tel:+1", left=left + 5)))
    clock.pump([10] * 3)
    clock.result(store.stopService())
    assert {address for address, _ in rows(path)} == {b"sip:second@h", b"sip:third@h"}
    clock.advance(300)
    store = make_store("sqlite")
    assert store.counters["addresses"] == 1
    clock.result(store.stopService())
    assert {address for address, _ in rows(path)} == {b"sip:third@h"}


def test_sweep_and_change_on_its_way(make_store: Any, clock: Any, binding: Any) -> None:
    """A sweep of the old bindings does not undo the change that is on its way to the disk."""
    store = make_store("sqlite")
    clock.result(put(store, BOB, binding(left=5)))
    done = put(store, BOB, binding(left=600))
    clock.pump([10] * 2)
    assert store.counters["addresses"] == 0
    assert clock.result(done) is True
    clock.result(store.stopService())
    assert len(make_store("sqlite").bindings(BOB)[0]) == 1


# Files


def test_opens_nothing_early(clock: Any, path: Any) -> None:
    """Nothing is opened before the start, and no thread begins before `startService`, for twistd forks before that."""
    threads = threading.active_count()
    store = SQLiteBindingStore(path, clock)
    assert not os.path.exists(path)
    store.privilegedStartService()
    assert os.path.exists(path)
    assert threading.active_count() == threads
    assert clock.getDelayedCalls() == []
    with pytest.raises(SIPError):
        store.replace(BOB, 0, ())
    assert store.stopService().called


def test_no_thread_is_left(make_store: Any, clock: Any, binding: Any) -> None:
    """A store that stopped has ended its thread."""
    threads = threading.active_count()
    store = make_store("sqlite")
    clock.result(put(store, BOB, binding()))
    assert threading.active_count() == threads + 1
    clock.result(store.stopService())
    assert threading.active_count() == threads


def test_mode(make_store: Any, clock: Any, binding: Any, tmp_path: Path) -> None:
    """The file and what SQLite puts beside it are for their owner alone, whatever the umask."""
    umask = os.umask(0)
    try:
        store = make_store("sqlite")
        clock.result(put(store, BOB, binding()))
    finally:
        os.umask(umask)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"bindings.sqlite": 0o600, "bindings.sqlite-wal": 0o600}


def test_relative_path(clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is taken from the directory at the start, or from the first of $STATE_DIRECTORY."""
    store = SQLiteBindingStore("b.sqlite", clock)
    for name in ("current", "state"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    store.privilegedStartService()
    store.stopService()
    assert (tmp_path / "current" / "b.sqlite").exists()
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/state:/nowhere")
    store.privilegedStartService()
    store.stopService()
    assert (tmp_path / "state" / "b.sqlite").exists()


# Faults at start


def start_error(path: Path, clock: Any) -> Any:
    with pytest.raises(StartError) as raised:
        SQLiteBindingStore(str(path), clock).privilegedStartService()
    text = str(raised.value)
    assert text.startswith(f"cannot open {path}: ")
    assert text.endswith(": choose another file with --location sqlite:FILE")
    assert "\n" not in text
    return text[len(f"cannot open {path}: ") : -len(": choose another file with --location sqlite:FILE")]


def test_no_directory(clock: Any, tmp_path: Path) -> None:
    """A directory that is missing is named as the fault."""
    assert start_error(tmp_path / "missing" / "b", clock) == "No such file or directory"


def test_directory(clock: Any, tmp_path: Path) -> None:
    """A directory is no file."""
    assert start_error(tmp_path, clock) == "it is a directory"


@pytest.mark.parametrize(
    "change",
    [
        "expires_at = 'never'",
        "call_id = 'text'",
        "address_of_record = 'text'",
        "cseq = x'00'",
        "q = 'text'",
        "q = 2",
        "uri = x'00'",
    ],
)
def test_binding_of_others(clock: Any, tmp_path: Path, change: Any) -> None:
    """A binding that somebody has made by hand, and wrongly, is told in one line."""
    path = tmp_path / "b.sqlite"
    database = BindingDatabase(str(path))
    database.write([Change.of("sip:bob@h", [Binding("sip:bob@192.0.2.4", clock.seconds() + 60, "call", 1)])])
    database.close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE bindings SET {change}")
    connection.close()
    assert start_error(path, clock) == "it has a binding that this program has not written"


def test_no_database(clock: Any, tmp_path: Path) -> None:
    """A file that is no database is left as it is."""
    (tmp_path / "text").write_text("not a database, but long enough to be looked at\n" * 100)
    assert start_error(tmp_path / "text", clock) == "file is not a database"
    assert (tmp_path / "text").read_text().startswith("not a database")


def test_other_database(clock: Any, tmp_path: Path) -> None:
    """The database of another program is left as it is."""
    connection = sqlite3.connect(tmp_path / "other")
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = (tmp_path / "other").read_bytes()
    assert start_error(tmp_path / "other", clock) == "it is the database of another program"
    assert (tmp_path / "other").read_bytes() == before


def test_older_schema(path: Path, clock: Any, make_store: Any) -> None:
    """A file of the first version is brought to the present one, and its bindings are kept."""
    connection = sqlite3.connect(path)
    connection.executescript(
        """
        CREATE TABLE bindings (
            address_of_record BLOB NOT NULL, position INTEGER NOT NULL, uri BLOB NOT NULL, expires_at REAL NOT NULL,
            call_id BLOB NOT NULL, cseq INTEGER NOT NULL, q REAL, display_name BLOB NOT NULL, parameters BLOB NOT NULL,
            PRIMARY KEY (address_of_record, position)
        ) WITHOUT ROWID;
        INSERT INTO bindings VALUES (x'7369703a624068', 0, x'74656c3a2b31', 2e9, x'63', 7, 0.5, x'42', x'3b78');
        PRAGMA user_version = 1;
        """
    )
    connection.close()
    store = make_store("sqlite")
    (binding,), version = store.bindings("sip:b@h")
    assert binding == Binding("tel:+1", 2e9, "c", 7, 0.5, "B", ";x")
    changed = dataclasses.replace(binding, path="<sip:p;lr>")
    assert clock.result(store.replace("sip:b@h", version, (changed,))) is True
    clock.result(store.stopService())
    assert make_store("sqlite").bindings("sip:b@h")[0] == (changed,)


def test_newer_schema(store: Any, clock: Any, path: Path) -> None:
    """A file of a later version of this program is left as it is."""
    clock.result(store.stopService())
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    before = Path(path).read_bytes()
    assert start_error(path, clock) == "its schema is version 3, and this program knows 2"
    assert Path(path).read_bytes() == before


def test_damaged_file(store: Any, clock: Any, path: Path, binding: Any) -> None:
    """A file whose rows cannot be read is a fault at start, and not a server without bindings."""
    clock.result(put(store, BOB, *(binding(f"tel:+{number}") for number in range(100))))
    clock.result(store.stopService())
    octets = bytearray(Path(path).read_bytes())
    octets[4096:] = b"\xff" * (len(octets) - 4096)
    Path(path).write_bytes(octets)
    assert start_error(path, clock) == "database disk image is malformed"


OPENER = """
import sys
from twisted.internet.task import Clock
from twisted_sipuas.errors import StartError
from twisted_sipuas.location import Binding, SQLiteBindingStore

try:
    SQLiteBindingStore(sys.argv[1], Clock()).privilegedStartService()
except StartError as error:
    sys.stdout.write(str(error))
"""


def test_second_process(store: Any, path: Path) -> None:
    """A second server on the same file fails at its start, saying that the file is in use."""
    done = subprocess.run([sys.executable, "-c", OPENER, path], capture_output=True, env=environment(), text=True)
    assert done.stderr == ""
    assert done.stdout.startswith(f"cannot open {path}: it is in use by another process: ")


def test_second_store(store: Any, path: Path, clock: Any) -> None:
    """So does a second store in the same process, and the first one is none the worse for it."""
    assert start_error(path, clock) == "it is in use by another process"


@contextlib.contextmanager
def unprivileged() -> Iterator[Any]:
    """Be nobody, if it is root who runs the tests, whom no permission stops."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_permission_denied(clock: Any) -> None:
    """A file, or a directory, that may not be written is named as such."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to nobody
        directory = Path(name)
        store = SQLiteBindingStore(f"{name}/b.sqlite", clock)
        store.privilegedStartService()
        store.stopService()
        (directory / "b.sqlite").chmod(0o444)
        directory.chmod(0o555)
        with unprivileged():
            for name_of_file in ("b.sqlite", "new"):
                assert start_error(directory / name_of_file, clock).lower() == "permission denied"
        directory.chmod(0o755)
