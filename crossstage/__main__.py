"""`python -m crossstage`: the command `crossstage`."""

import sys

from crossstage.cli import main

if __name__ == "__main__":
    sys.exit(main())
