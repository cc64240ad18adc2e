"""What does the ``sipuas`` command run? ``twistd -n --pidfile= sipuas``, with the options it was given."""

import sys

from twisted.python.usage import UsageError
from twisted.scripts import twistd


def main() -> None:
    """Serve in the foreground until stopped, without a pid file; the command line's options are those of the plugin.

    A mistake in them is told in its own line, where twistd would show all of its help before it.
    """
    config = twistd.ServerOptions()  # type: ignore[attr-defined]  # there is one for each system, imported there
    try:
        config.parseOptions(["--nodaemon", "--pidfile=", "sipuas", *sys.argv[1:]])
    except UsageError as error:
        sys.exit(f"Usage: sipuas [options], see sipuas --help\nsipuas: {error}")
    twistd.runApp(config)


if __name__ == "__main__":
    main()
