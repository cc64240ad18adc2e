"""What kind of location service is added? Every twistd on the machine reads this, so it does not import the code."""

from twisted_sipuas.location import LocationKind

hours = LocationKind(
    "hours",
    "hours:OPEN_URI CLOSED_URI redirects by the time of day. Options: open=HHMM-HHMM (0900-1700), days=DAY-DAY "
    "(mon-fri), zone=NAME, such as Europe/Berlin (the machine's).",
    "office_hours",
)
