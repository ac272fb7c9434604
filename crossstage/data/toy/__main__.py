"""`python -m crossstage.data.toy`."""

import sys

from crossstage.data.toy.generate import main

sys.exit(main())
