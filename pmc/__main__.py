"""`python -m pmc` is `pmc`."""

from pmc.compiler.main import run

run()
