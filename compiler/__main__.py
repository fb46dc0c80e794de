"""`python -m pmc.compiler` is `pmc`."""

from pmc.compiler.main import run

run()
