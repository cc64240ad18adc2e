"""What does ``man sipuas`` say? The manual page, its options from the options themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable

from twisted_sipuas import __version__
from twisted_sipuas.option_help import OptionGroup, filled

_BEFORE = r"""
.\" Made by: python -m tools.shared_data
.TH SIPUAS 1 "" "twisted-sipuas {version}" "User Commands"
.\" Words stay whole, for they are typed.
.nh
.ad l
.SH NAME
sipuas \- SIP redirect server, registrar and user agent server
.SH SYNOPSIS
.B sipuas
.RI [ options ]
.br
.B twistd
.RI [ "options of twistd" ]
.B sipuas
.RI [ options ]
.SH DESCRIPTION
{description}
.P
.B sipuas
serves in the foreground until it is stopped, and logs to standard output;
it is short for
.BR "twistd \-n \-\-pidfile= sipuas" ,
and its options are the same.
By
.B twistd
it can be a daemon, become another user, write its log to a file.
.P
Relative paths are those of the working directory at the start; if
.B STATE_DIRECTORY
is in the environment, as systemd sets it, that directory is taken for all but
a file of routes and what that names.
.SH OPTIONS
""".strip()

_AFTER = r"""
.SH EXIT STATUS
0 after a signal to stop, and 1 after a mistake in an option, or if a port or
a file cannot be opened; the last line printed says which, and what to do.
.SH SIGNALS
.TP
.B SIGHUP
Reads the files of
.BR \-\-allow ", " \-\-deny
and certificates again. A file with a fault leaves things as they were, and
the log says so.
.TP
.BR SIGINT ", " SIGTERM
Stop the server when what it owes is done, within 5 seconds; a second one ends
the waiting.
.SH FILES
.TP
.I sipuas.sqlite
Who is registered where, unless
.B \-\-location
says otherwise.
.TP
.I twistd.pid
The process, if
.B twistd
started it.
.SH EXAMPLES
A registrar and redirect server on loopback, port 5060, UDP and TCP:
.P
.in +4
.EX
sipuas
.EE
.in
.P
The same for others, with passwords in a file:
.P
.in +4
.EX
sipuas \-\-listen udp:5060:interface=192.0.2.1 \-\-domain example.com \-\-auth file:users
.EE
.in
.P
A server that answers every call with 486 (Busy Here):
.P
.in +4
.EX
sipuas \-\-mode stateful \-\-answer 486
.EE
.in
.SH SEE ALSO
.BR twistd (1)
.P
RFC 3261, SIP: Session Initiation Protocol
""".strip()


def manual_page(description: str, groups: Iterable[OptionGroup]) -> str:
    """Return the manual page, for the macros of man(7)."""
    lines = [_BEFORE.format(version=_escaped(__version__), description=_escaped(description))]
    for group in groups:
        lines.append(f".SS {_escaped(group.title)}")
        for option in group.options:
            value = rf" \fI{_escaped(option.value)}\fR" if option.value else ""
            default = f" The default is: {option.default}." if option.default else ""
            lines += [".TP", rf"\fB\-\-{_escaped(option.name)}\fR{value}", _escaped(option.meaning + default)]
    return "\n".join([*lines, _AFTER, ""])


def _escaped(text: str) -> str:
    """Return *text* as roff that prints it: hyphens as they are typed, and no line that begins with a control."""
    lines = filled(text.replace("\\", r"\e").replace("-", r"\-"), others="")
    return re.sub(r"^([.'])", r"\\&\1", lines, flags=re.MULTILINE)
