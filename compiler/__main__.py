"""`python -m pmc.compiler` is `pmc`."""

import sys

from .main import main

sys.exit(main())
