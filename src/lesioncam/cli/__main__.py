"""`python -m lesioncam.cli`."""

import sys

from lesioncam.cli import main

sys.exit(main())
