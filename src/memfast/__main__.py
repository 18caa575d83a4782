"""`python -m memfast` is the `memfast` command."""

import sys

from memfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
