"""`crossstage predict` as a script of the checkout; `--help` has examples."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crossstage.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
