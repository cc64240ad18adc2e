"""What does the ``sipuas`` command run? ``twistd -n --pidfile= sipuas``, with the options it was given."""

import sys

from twisted.scripts.twistd import run


def main() -> None:
    """Serve in the foreground until stopped, without a pid file; the command line's options are those of the plugin."""
    sys.argv[1:] = ["--nodaemon", "--pidfile=", "sipuas", *sys.argv[1:]]
    run()


if __name__ == "__main__":
    main()
