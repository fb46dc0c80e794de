"""One run of a program: by the compiled event loop where there is one, else by its plain form."""

from __future__ import annotations

from pmc.backends.g5 import kernel
from pmc.backends.g5.machine import Machine
from pmc.backends.g5.program import Commands
from pmc.backends.g5.times import ProgramTimes
from pmc.dialects.arch import Chip


def run(commands: Commands, chip: Chip) -> ProgramTimes:
    """The times of all commands.  Raises PmcError where commands wait for what never happens."""
    times = kernel.run(commands, chip) if kernel.available() else None
    # The plain form knows which commands wait for what.
    return times if times is not None else Machine(commands, chip).run()
