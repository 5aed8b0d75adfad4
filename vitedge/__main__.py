"""`python -m vitedge`."""

import sys

from vitedge.cli import main

if __name__ == "__main__":
    sys.exit(main())
