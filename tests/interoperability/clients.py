"""Programs that talk to the server for a while, rather than to an end: what they print is waited for."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

DEADLINE = 20.0  # seconds that anything may take

_BARESIP = """\
module_path {modules}
module g711.so
module aubridge.so
module_tmp uuid.so
module_tmp account.so
module_app menu.so
sip_listen 127.0.0.1:0
audio_source aubridge,nil
audio_player aubridge,nil
"""
# Versions after 1.0.0 verify our certificate by what these say; 1.0.0 takes any.
_VERIFYING = """\
sip_cafile {cafile}
sip_verify_server yes
"""
_MODULES = [Path("/usr/lib/baresip/modules"), Path("/usr/local/lib/baresip/modules")]


def wait_for(pattern: str, text: Callable[[], str], seconds: float = DEADLINE) -> re.Match[str]:
    """Return the first match of *pattern* once there is one in what *text* returns, within so many *seconds*."""
    deadline = time.monotonic() + seconds
    while (match := re.search(pattern, text())) is None:
        assert time.monotonic() < deadline, f"no {pattern!r} in {text()}"
        time.sleep(0.02)
    return match


class Client:
    """A program that runs until it is stopped; `output` is what it printed so far."""

    def __init__(self, directory: Path, number: int, arguments: Sequence[str]) -> None:
        self._output = directory / f"client-{number}"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                arguments, cwd=directory, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")  # with bare LF for CRLF

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return the first match of *pattern* in the output, once there is one."""
        return wait_for(pattern, lambda: self.output)

    def stop(self) -> None:
        """Stop the program, if it is there still."""
        assert self.process.stdin is not None
        self.process.terminate()
        self.process.wait(DEADLINE)
        self.process.stdin.close()


def baresip_arguments(
    directory: Path,
    port: int,
    transport: str,
    *,
    registers: bool,
    cafile: Path | None = None,
    password: str | None = None,
) -> list[str]:
    """Write baresip's files for alice, who is at 127.0.0.1:*port*, and return the arguments that have them read."""
    modules = next((path for path in _MODULES if path.exists()), _MODULES[0])
    directory.mkdir()
    config = _BARESIP.format(modules=modules)
    if cafile is not None:
        config += _VERIFYING.format(cafile=cafile)
    (directory / "config").write_text(config)
    (directory / "contacts").touch()
    (directory / "accounts").write_text(
        f"<sip:alice@127.0.0.1:{port};transport={transport}>;regint={60 if registers else 0};audio_codecs=pcmu"
        f"{'' if password is None else f';auth_user=alice;auth_pass={password}'}\n"
    )
    return ["-4", "-f", str(directory), "-s"]
