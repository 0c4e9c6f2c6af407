"""`python -m lesioncam.cli`."""

import sys

from lesioncam.cli import main

if __name__ == "__main__":
    sys.exit(main())
