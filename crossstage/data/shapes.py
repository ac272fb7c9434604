"""The former name of `crossstage.data.toy`, which the next release removes."""

import sys

from crossstage.data.toy.generate import main

if __name__ == "__main__":
    print("crossstage.data.shapes is now crossstage.data.toy; the next release removes the old name", file=sys.stderr)
    sys.exit(main())
