"""The former name of `crossstage.data.toy`; it goes with the next release."""

import sys

from crossstage.data.toy.generate import main

if __name__ == "__main__":
    print("crossstage.data.shapes is now crossstage.data.toy; this name goes with the next release", file=sys.stderr)
    sys.exit(main())
