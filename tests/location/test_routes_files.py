"""Is every fault in a routes file told by file and line, with what was expected?"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twisted_sipuas.location.routes import files
from twisted_sipuas.location.routes.files import RoutesFileError, RoutesFiles
from twisted_sipuas.location.routes.lines import line_of

T = '[[route]]\ntargets = ["sip:a@b"]\n'
"""A good route, which may go on in line 3."""

FAULTS = [
    ("x", "1: no TOML: Expected '=' after a key in a key/value pair at the end"),
    (T + "x = [", "3: no TOML: Invalid value at the end"),
    (T + "\nx = 1 2\n", "4: no TOML: Expected newline or end of document after a statement at column 7"),
    ("", "1: expected one [[route]] at least"),
    ("[route]\n", "1: expected one [[route]] at least"),
    ("[[routes]]\n", "1: the key routes is unknown: did you mean route?"),
    ("[[route]]\n", "1: this route answers nothing: expected one of targets, refuse, table"),
    ("route = [1]", "1: expected a table [[route]], not 1"),
    (T + 'prefx = "1"', "3: the key prefx is unknown: did you mean prefix?"),
    (T + "name = 3", "3: name: expected text in quotes, not 3"),
    (T + "first = 1", "3: first: expected true or false, not 1"),
    (T + 'first = true\ndomain = "x"', "4: expected one of first and domain in a route, not both"),
    (T + 'domain = ["x",\n"y z"]', "4: domain: expected a domain, *.domain or an address, not 'y z'"),
    (T + 'prefix = "+49"\nuser = "x"', "3: expected one of user and prefix in a route, not both"),
    (T + "prefix = []", "3: prefix: expected one at least"),
    (
        T + 'prefix = "+49 30"',
        "3: prefix: expected up to 32 digits, perhaps behind a +, without separators, not '+49 30'",
    ),
    (T + 'user = ""', "3: user: expected a user, not nothing"),
    (T + 'user = "+49-30"', "3: user: expected the number without separators, +4930, not '+49-30'"),
    (T + 'user = "a\\u0000"', "3: user: expected one line without control characters, not 'a\\x00'"),
    (T + 'pattern = "("', "3: '(' is no regular expression: missing ), unterminated subpattern at character 1"),
    (T + 'user = "a"\npattern = "a"', "4: expected one of user and pattern in a route, not both"),
    (T + "pattern = '(?P<user>a)'", "3: pattern: a group is named user, as a placeholder is: expected another name"),
    (T + "status = 305", "3: status: expected one of 300, 301, 302, 380, not 305"),
    (T + "status = true", "3: status: expected one of 300, 301, 302, 380, not True"),
    (T + "refuse = 404", "3: expected one of targets and refuse in a route, not both"),
    ("[[route]]\nrefuse = 302", '2: refuse: expected a status from 400 to 699, or "404 Reason", not 302'),
    ("[[route]]\nrefuse = 404\nstatus = 302", "3: expected one of refuse and status in a route, not both"),
    (T + "headers = 1", '3: headers: expected a table like { Reason = "Q.850" }, not 1'),
    (T + 'headers = { Via = "x" }', "3: headers: expected a header field that is not the server's, not 'Via'"),
    (T + 'headers = { e = "x" }', "3: headers: expected a header field that is not the server's, not 'e'"),
    (T + 'headers = { Require = "x" }', "3: headers: expected a header field that is not the server's, not 'Require'"),
    (T + "headers = { X = 1 }", "3: X: expected text in quotes, not 1"),
    (
        T + 'headers = { X = "{foo}" }',
        "3: '{foo}': there is no placeholder {foo}: expected one of domain, number, scheme, user",
    ),
    (T + 'balance = "one"', "3: balance: expected a weight for each target"),
    ("[[route]]\ntargets = []", "2: targets: expected one at least"),
    ("[[route]]\ntargets = [\n3]", '3: expected a URI in quotes, or a table like { uri = "sip:...", q = 0.5 }, not 3'),
    ('[[route]]\ntargets = ["sip:a@b",\n{ q = 1 }]', "3: this target has no uri"),
    ('[[route]]\ntargets = ["sip:a@b",\n{ uri = "sip:c@d", q = 2 }]', "3: q: expected a number from 0 to 1, not 2"),
    (
        '[[route]]\n[[route.targets]]\nuri = "sip:a@b"\nexpires = -1',
        "4: expires: expected a whole number from 0 to 4294967295, not -1",
    ),
    ('[[route]]\ntargets = "bob"', "2: 'bob' is no URI: Malformed URI"),
    ('[[route]]\ntargets = "sip:{usr}@b"', "2: 'sip:{usr}@b': there is no placeholder {usr}: did you mean user?"),
    (
        '[[route]]\ntargets = "sip:{1}@b"',
        "2: 'sip:{1}@b': there is no placeholder {1}: expected one of domain, number, scheme, user",
    ),
    ('[[route]]\ntargets = "sip:a@{user}"', "2: {user} is in the host or port: expected only {domain}, and as host"),
    (
        '[[route]]\ntargets = { uri = "sip:a", parameters = 1 }',
        '2: parameters: expected a table like { methods = "INVITE", isfocus = true }, not 1',
    ),
    (
        '[[route]]\ntargets = { uri = "sip:a", parameters.q = "1" }',
        "2: parameters: expected a token, and neither q nor expires, not 'q'",
    ),
    (
        '[[route]]\ntargets = { uri = "sip:a", parameters.x = "a b" }',
        "2: x: expected a token, or a quoted string with its quotes, not 'a b'",
    ),
    (
        '[[route]]\ntargets = [{ uri = "sip:a", weight = 1 },\n"sip:b"]',
        "3: expected a weight for this target too, as others have one",
    ),
    ('[[route]]\ntargets = [{ uri = "sip:a", weight = 0 }]', "2: weight: expected one above 0 among the targets"),
    (
        '[[route]]\ntargets = { uri = "sip:a", weight = 1, q = 1 }\nbalance = "one"',
        '3: balance: expected no q with "one", which names one target alone',
    ),
    (
        '[[route]]\ntargets = { uri = "sip:a", weight = 1 }\nbalance = "all"',
        '3: balance: expected "order" or "one", not \'all\'',
    ),
    ("[[route]]\ntable = 1", '2: table: expected prefixes with targets, like "+49" = "sip:...", not 1'),
    ('[[route]]\n[route.table]\n"+49" = "sip:x@"', "3: 'sip:x@' is no URI: Malformed SIP URI"),
    (
        '[[route]]\n[route.table]\nx = "sip:x"',
        "3: prefix: expected up to 32 digits, perhaps behind a +, without separators, not 'x'",
    ),
    ('[[route]]\n[route.table]\n"+49" = [\n{ uri = "sip:z", q = 3 }]', "4: q: expected a number from 0 to 1, not 3"),
    ('[[route]]\n[route.table]\n"+49" = 1979-05-27', "3: '1979-05-27' is no URI: Malformed URI"),
    (T + 'file = ""', "3: file: expected the name of a file"),
]


def fault(routes_of: Callable[..., Any], text: str, **rows: Any) -> str:
    """Return the fault of *text* and *rows*, the names of files without their directory."""
    with pytest.raises(RoutesFileError) as raised:
        routes_of(text, **rows)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def short(said: str, tmp_path: Path) -> str:
    return said.replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(("text", "said"), FAULTS)
def test_faults(routes_of: Callable[..., Any], tmp_path: Path, text: str, said: str) -> None:
    """A fault of syntax or of sense is one line: the file, the line, what is wrong, what was expected."""
    assert short(fault(routes_of, text), tmp_path) == f"routes.toml:{said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (T + T, "3: every user has a route already, at routes.toml:1"),
        (T + 'prefix = ["+49",\n"+49"]', "4: the prefix +49 has a route already, at routes.toml:3"),
        (
            T + 'user = "a"\ndomain = "X"\n' + T + 'user = "a"\ndomain = ["y", "x"]',
            "7: the user a at x has a route already, at routes.toml:3",
        ),
        (
            '[[route]]\n[route.table]\n"+4" = "sip:x"\n' + T + 'prefix = "+4"',
            "6: the prefix +4 has a route already, at routes.toml:3",
        ),
        (
            T + 'prefix = "+4"\npattern = "a"\n' + T + 'prefix = ["+4", "+5"]\n' + T + 'prefix = "+5"',
            "10: the prefix +5 has a route already, at routes.toml:7",
        ),
    ],
)
def test_ambiguity(routes_of: Callable[..., Any], tmp_path: Path, text: str, said: str) -> None:
    """Two routes that match the same, neither by a pattern, are a fault that names both lines."""
    assert short(fault(routes_of, text), tmp_path) == f"routes.toml:{said}"


F = '[[route]]\nfile = "rows.csv"\ntargets = ["sip:{number}@{gw}"]\n'


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("", "rows.csv:1: expected one column prefix, or one column user, not the columns "),
        ("prefix,gw\n", "rows.csv:1: expected one row at least behind the names of the columns"),
        (
            "prefix\n+1\n",
            "routes.toml:3: 'sip:{number}@{gw}': there is no placeholder {gw}: "
            "expected one of domain, number, prefix, scheme, user",
        ),
        (
            "prefix,user,gw\n",
            "rows.csv:1: expected one column prefix, or one column user, not the columns prefix, user, gw",
        ),
        ("prefix,gw,gw\n", "rows.csv:1: expected names of columns, each once, of letters, digits and _, not 'gw'"),
        (
            "\n# x\nprefix,g w\n",
            "rows.csv:3: expected names of columns, each once, of letters, digits and _, not 'g w'",
        ),
        ("prefix,gw,number\n", "rows.csv:1: a column is named number, as a placeholder is: expected another name"),
        ("prefix,gw\n+1\n", "rows.csv:2: expected 2 cells, prefix, gw, not 1"),
        ("prefix,gw\n+1,gw\n\n+1,gw\n", "rows.csv:4: the prefix +1 has a route already, at rows.csv:2"),
        ("prefix,gw\n+1,a b\n", "rows.csv:2: 'sip:{number}@a b' is no URI: Malformed SIP URI"),
        (
            "prefix,gw\n+1,{x}\n",
            "rows.csv:2: 'sip:{number}@{x}': there is no placeholder {x}: expected one of domain, number, scheme, user",
        ),
        ('prefix,gw\n+1,"x\n', "rows.csv:2: no row of cells: unexpected end of data"),
        ("prefix;gw\n+1;\n", "rows.csv:2: expected a target: the cells that those of the route name are empty"),
        (
            "prefix,gw\n+1x,gw\n",
            "rows.csv:2: prefix: expected up to 32 digits, perhaps behind a +, without separators, not '+1x'",
        ),
        ("user,gw\n,gw\n", "rows.csv:2: user: expected a user, not nothing"),
    ],
)
def test_faults_of_rows(routes_of: Callable[..., Any], tmp_path: Path, rows: str, said: str) -> None:
    """A fault in a row names the file with rows and its line there; one in the placeholders that of the route."""
    assert short(fault(routes_of, F, rows=rows), tmp_path) == said


def test_patterns_together_are_bounded(routes_of: Callable[..., Any], tmp_path: Path) -> None:
    """Patterns that would be quick enough each are a fault where they are not together."""
    text = "[[route]]\npattern = '(.*)-(.*)-(.*)'\nrefuse = 404\n" * 2
    said = "routes.toml:5: pattern: all patterns together could take too long: expected fewer"
    assert short(fault(routes_of, text), tmp_path) == said


def test_files_that_cannot_be_read(
    routes_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not there, is no file, is too long or no UTF-8 is told so; a pipe is not waited for."""
    with pytest.raises(RoutesFileError, match=r"^cannot read /nowhere/x: No such file or directory$"):
        RoutesFiles("/nowhere/x").read()
    with pytest.raises(RoutesFileError, match=r"^cannot read .*: Is a directory$|expected an ordinary file$"):
        RoutesFiles(str(tmp_path)).read()
    os.mkfifo(tmp_path / "rows.csv")
    said = short(fault(routes_of, F), tmp_path)
    assert said == "routes.toml:2: file: rows.csv: expected an ordinary file"
    (tmp_path / "latin").write_bytes(b"# a\n# \xe4\n")
    with pytest.raises(RoutesFileError, match=r"latin:2: expected UTF-8, not the octet 0xE4$"):
        RoutesFiles(str(tmp_path / "latin")).read()
    monkeypatch.setattr(files, "_MAX_OCTETS", 3)
    with pytest.raises(RoutesFileError, match=r"latin: expected 3 octets at most$"):
        RoutesFiles(str(tmp_path / "latin")).read()


def test_nested_too_deeply(routes_of: Callable[..., Any], tmp_path: Path) -> None:
    """Arrays without end in a file are a fault like any other."""
    said = fault(routes_of, "x = " + "[" * 100_000)
    assert short(said, tmp_path) == "routes.toml: its arrays and tables are nested too deeply"


def test_byte_order_mark_and_line_ends(tmp_path: Path) -> None:
    """Files as they are written on Windows are read."""
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbfprefix;gw\r\n+49;de\r\n")
    (tmp_path / "routes.toml").write_bytes(b"\xef\xbb\xbf" + F.replace("\n", "\r\n").encode())
    assert RoutesFiles(str(tmp_path / "routes.toml")).read().table.prefixes == 1


DOCUMENT = '''\
# a comment with ] and "
a = 1
"b.c" = """x
[[route]]
"""
[[route]]
prefix = ["+49", # one
  "+43",
  "\\"]" ]
targets = [
  'sip:"x',
  { uri = "sip:y", q = 2.5, parameters.x = "1", y = [ { z = {} } ] },
]
[route.table]
"+4\\u0039" = "sip:z"
'+50' = 1979-05-27 07:32:00
[[route]]   # again
x . y = +1.5e3
[[route.targets]]
uri = \'\'\'
a\'\'\'\'
[[route.targets]]
uri = "b"
[route.targets.more]
c = true
[other]
z = [[1,2],[
3]]
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 2),
        (("b.c",), 3),
        (("route",), 1),
        (("route", 0), 6),
        (("route", 0, "prefix", 1), 8),
        (("route", 0, "prefix", 2), 9),
        (("route", 0, "prefix", 9), 7),
        (("route", 0, "targets", 0), 11),
        (("route", 0, "targets", 1, "q"), 12),
        (("route", 0, "targets", 1, "y", 0, "z"), 12),
        (("route", 0, "table"), 14),
        (("route", 0, "table", "+49"), 15),
        (("route", 0, "table", "+50"), 16),
        (("route", 1), 17),
        (("route", 1, "x", "y"), 18),
        (("route", 1, "targets", 0, "uri"), 20),
        (("route", 1, "targets", 1), 22),
        (("route", 1, "targets", 1, "more", "c"), 25),
        (("other", "z", 1, 0), 28),
    ],
)
def test_line_of(path: Any, line: Any) -> None:
    """The line of a value, or of what holds it, is known whatever strings and comments look like."""
    assert vars(files)["tomllib"].loads(DOCUMENT)
    assert line_of(DOCUMENT, path) == line
