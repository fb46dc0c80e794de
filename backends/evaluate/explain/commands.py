"""The commands that an op became: how often they run on the busiest core of their engine, and how long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.command_time import ENGINES, dram_seconds, engine_seconds
from pmc.backends.cost.rates import CoreRates
from pmc.backends.evaluate.engine import Site, program_of, sites
from pmc.dialects import g5, tile
from pmc.dialects.accounting import accounting_of
from pmc.dialects.analyses.expand import Runs, expand
from pmc.dialects.analyses.program_resources import ProgramResources, command_resources, program_resources
from pmc.dialects.analyses.program_work import layer_symbols
from pmc.dialects.arch import ChipAttr
from pmc.dialects.errors import PmcError


@dataclass(frozen=True)
class CommandRow:
    """One command of the program, over its runs on the busiest core of its engine."""

    engine: str
    command: str
    """What it does: `mm2`, the direction of a transfer, the kind of a vector command."""
    runs: int
    bytes: int
    """Moved by a DMA command."""
    us: float


@dataclass(frozen=True)
class OpCommands:
    """The commands of one execution of an op.  Times in us."""

    cores: int
    rows: tuple[CommandRow, ...]
    """In program order."""
    engines_us: dict[str, float]
    """Every engine on its busiest core, and the DRAM of the chip."""

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


class CommandTable:
    """The programs of commands in a module, by the op that they came from."""

    def __init__(self, module: ModuleOp) -> None:
        """Raises PmcError for a module without commands, chip or accounting."""
        program, chip = program_of(module), module.attributes.get("arch.chip")
        if not isinstance(program, g5.StreamOp) or not isinstance(chip, ChipAttr):
            raise PmcError("commands are looked up in a module of commands with its chip")
        self.rates = CoreRates(chip.data, accounting_of(module, "explain"))
        self.programs: dict[tuple[int, str, str], g5.ProgramOp] = {
            (site.stage, site.path, site.op.op_name.data): site.op
            for site in sites(program)
            if isinstance(site.op, g5.ProgramOp)
        }

    def of(self, site: Site) -> OpCommands | None:
        """The commands of an op or kernel, None for one that became none: a transfer between chips."""
        name = site.op.op_name.data if isinstance(site.op, tile.KernelOp | g5.ProgramOp) else site.op_name
        program = self.programs.get((site.stage, site.path, name))
        return None if program is None else commands_of(program, self.rates)


def commands_of(program: g5.ProgramOp, rates: CoreRates) -> OpCommands:
    """The commands of a program, in the first layer of a repeat.  Raises PmcError for an unrolled program."""
    chip, cores = rates.chip, program.cores.value.data
    counted = program_resources(program, chip)
    seconds = engine_seconds(counted, rates)
    busiest = {engine: int(seconds[engine].argmax()) for engine in ENGINES}
    rows = [
        row
        for runs in expand(program, range(cores), layer_symbols(program))
        for row in _rows(runs, command_resources(runs, cores, chip), busiest, rates)
    ]
    engines_us = {engine: float(seconds[engine].max()) * 1e6 for engine in ENGINES}
    return OpCommands(cores, tuple(rows), {**engines_us, "dram": dram_seconds(counted, rates) * 1e6})


def _rows(runs: Runs, counted: ProgramResources, busiest: dict[str, int], rates: CoreRates) -> Iterator[CommandRow]:
    """The row of a command; a barrier, which keeps no engine busy, has none."""
    for engine, column in engine_seconds(counted, rates).items():
        core = busiest[engine]
        if column[core] > 0:
            moved = int((counted.gdma_bytes + counted.sdma_bytes)[core])
            times = int((runs.core == core).sum())
            yield CommandRow(engine, _name(runs.op), times, moved, float(column[core]) * 1e6)


def _name(op: g5.CommandOp) -> str:
    match op:
        case g5.TiuOp():
            return "mm2"
        case g5.GdmaOp():
            return op.direction.data
        case g5.VectorCommandOp():
            return op.kind.name.removeprefix("tile.")
        case _:
            return op.name.removeprefix("g5.")
