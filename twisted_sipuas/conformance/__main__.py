"""`python -m twisted_sipuas.conformance`."""

import sys

from twisted_sipuas.conformance.command import main

if __name__ == "__main__":
    sys.exit(main())
