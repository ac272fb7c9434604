"""Train or evaluate a detector from its config; `--help` has examples.

`main(arguments)` runs the same from Python, where one process is enough, and returns the exit status.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # configs name targets in projects/

from crossstage.engine.run import main

if __name__ == "__main__":
    sys.exit(main())
