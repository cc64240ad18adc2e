"""Session descriptions (RFC 8866), as far as one needs to be answered without media (RFC 3264): bytes in, bytes out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from twisted_sipuas.errors import MessageSyntaxError

__all__ = ["CONTENT_TYPE", "Media", "SessionDescription", "answer", "description", "offer", "parse_description"]

CONTENT_TYPE = "application/sdp"

_MEDIA = re.compile(r"(?P<media>[!-~]+) (?P<port>[0-9]{1,5})(?:/[0-9]+)? (?P<protocol>[!-~]+)(?P<formats>(?: [!-~]+)+)")
_ORIGIN = re.compile(r"[!-~\x80-\U0010ffff]+ (?P<id>[0-9]+) (?P<version>[0-9]+) IN IP[46] [!-~]+")
_MAPPING = re.compile(r"(?:rtpmap|fmtp):(?P<format>[!-~]+) [^\x00]+")

_RTP = ("RTP/AVP", "RTP/AVPF")  # those that need no keys (RFC 3551, RFC 4585)
_PORT = 9  # discard: there is no media, and an inactive stream has a port all the same (RFC 3264, 5.1)
_PAYLOADS = ("0", "8")  # PCMU and PCMA, which every phone knows (RFC 3551, 6)
_REFUSED = 0


class Media(NamedTuple):
    """One stream: an m= line, and the attributes that say what its formats are."""

    media: str
    port: int
    """0 for a stream that is refused, or was taken out (RFC 3264, 6 and 8.2)."""
    protocol: str
    formats: tuple[str, ...]
    mappings: tuple[str, ...] = ()
    """The ``rtpmap`` and ``fmtp`` attributes, as received."""

    @property
    def lines(self) -> list[str]:
        """The lines of an inactive stream."""
        stream = f"m={self.media} {self.port} {self.protocol} {' '.join(self.formats)}"
        if self.port == _REFUSED:
            return [stream]
        return [stream, *(f"a={mapping}" for mapping in self.mappings), "a=inactive"]


class SessionDescription(NamedTuple):
    """What an offer has that its answer depends on."""

    origin: tuple[int, int] | None
    """Session id and version of the o= line (RFC 8866, 5.2); None if it cannot be read."""
    time: str
    """The value of the t= line."""
    media: tuple[Media, ...]


def parse_description(octets: bytes) -> SessionDescription:
    """Return the session description that *octets* are.

    What phones do wrong without harm is let pass: LF for CRLF, missing lines, lines nobody knows. Raises
    `MessageSyntaxError`, with status 488, for what is none, and for a malformed m= line.
    """
    text = octets.decode("utf-8", "surrogateescape")
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if lines[0] != "v=0" or any("\r" in line or "\0" in line for line in lines):
        raise MessageSyntaxError("Malformed session description", status=488)
    origin, time, media = None, "0 0", list[Media]()
    for line in lines[1:]:
        kind, value = line[:2], line[2:]
        if kind == "m=":
            media.append(_parse_media(value))
        elif kind == "a=" and media:
            match = _MAPPING.fullmatch(value)
            if match is not None and match["format"] in media[-1].formats:
                media[-1] = media[-1]._replace(mappings=(*media[-1].mappings, value))
        elif kind == "o=" and (match := _ORIGIN.fullmatch(value)) is not None:
            origin = (int(match["id"][:20]), int(match["version"][:20]))
        elif kind == "t=" and not media:
            time = value
    return SessionDescription(origin, time, tuple(media))


def _parse_media(value: str) -> Media:
    match = _MEDIA.fullmatch(value.rstrip(" "))
    if match is None or int(match["port"]) > 65535:
        raise MessageSyntaxError("Malformed stream in the session description", status=488)
    return Media(match["media"], int(match["port"]), match["protocol"], tuple(match["formats"].split()))


def answer(offered: SessionDescription) -> tuple[Media, ...]:
    """Return the streams of the answer to *offered* (RFC 3264, 6): as many, in the same order.

    Audio and video by RTP is taken, with all its formats, and inactive, whatever direction was offered; all else is
    refused, and so is what needs keys. None is taken if all of them have port 0.
    """
    return tuple(
        stream._replace(port=_PORT)
        if stream.port and stream.protocol in _RTP and stream.media in ("audio", "video")
        else stream._replace(port=_REFUSED, mappings=())
        for stream in offered.media
    )


def offer(previous: Sequence[Media] = ()) -> tuple[Media, ...]:
    """Return the streams to offer: one of audio, with every format we would take in a new call (RFC 3264, 5).

    Within a session the *previous* streams stay, in their order and with their formats (RFC 3264, 8): that audio is
    offered in the first of them that is audio and was not refused, else behind them (RFC 3261, 14.2).
    """
    streams = list(previous)
    for place, stream in enumerate(streams):
        if stream.media == "audio" and stream.port != _REFUSED:
            formats = dict.fromkeys((*stream.formats, *_PAYLOADS))
            streams[place] = stream._replace(formats=tuple(formats))
            return tuple(streams)
    return (*streams, Media("audio", _PORT, "RTP/AVP", _PAYLOADS))


def description(media: Sequence[Media], host: str, session: int, version: int, time: str = "0 0") -> bytes:
    """Return the session description of *media*, which all are at *host*, an address or a name.

    *session* and *version* are those of the o= line, *time* is the value of the t= line, which an answer has as its
    offer had it (RFC 3264, 6).
    """
    at = f"IN IP{6 if ':' in host else 4} {host}"
    lines = ["v=0", f"o=- {session} {version} {at}", "s=-", f"c={at}", f"t={time}"]
    for stream in media:
        lines += stream.lines
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "surrogateescape")
