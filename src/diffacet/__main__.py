"""`python -m diffacet`: the command line."""

import sys

from diffacet.app.cli import main

sys.exit(main())
