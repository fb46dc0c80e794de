"""`python -m pmc.compiler` is `pmc`."""

import sys

from pmc.compiler.main import main

sys.exit(main())
