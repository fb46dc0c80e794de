"""One step of one rank in time: its kernels on the cores, and what the chip does between them.

Kernels follow each other: each starts when the one before has passed its last barrier and all its commands have
finished.  Layers of a repeat run the same commands at addresses a layer further on; they are simulated once, at the
addresses of the first.  A movement between chips takes what the communication protocol says of it (see
`docs/evaluate.md`), and one inside the chip what the SDMA engines of all cores and DRAM need for its bytes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block

from pmc.backends.cost.model import Target
from pmc.backends.cost.network import Transfer, network_of, transfer_of
from pmc.backends.cost.protocol import CommProtocol
from pmc.backends.g5 import cdma, dma
from pmc.backends.g5.cdma import ExchangeTimes, expert_loads, rounds_of, simulate_exchange
from pmc.backends.g5.clock import PS_PER_US, of_bytes
from pmc.backends.g5.critical_path import BARRIERS, critical_ps, fill_and_drain_ps
from pmc.backends.g5.energy import movement_energy_pj, program_energy_pj
from pmc.backends.g5.equal_programs import timing_key
from pmc.backends.g5.links import Links
from pmc.backends.g5.program import lower
from pmc.backends.g5.run import run
from pmc.backends.g5.times import ProgramTimes
from pmc.dialects.accounting import Accounting, accounting_of
from pmc.dialects.analyses.program_work import layer_symbols
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.g5 import ENGINES, ChipCommandOp, ProgramOp, RepeatOp, SdmaOp, StageOp, StreamOp

MOVING = "chip"
ACTIVITIES = (*ENGINES, "dram", "lmem port", "die to die", BARRIERS, MOVING, *cdma.ACTIVITIES)
"""What a step spends its time with: engines, what a DMA engine waits for while it moves, barriers, movements of the
whole chip, and what messages between chips wait for."""


CHIP_FIELDS = (
    "clocks.chip_ghz", "clocks.tiu_ghz", "cores", "dies", "lanes_per_core", "cube.m", "cube.n", "cube.k",
    "vector_eus_per_lane", "elementary_steps.exp", "elementary_steps.div", "elementary_steps.rsqrt",
    "dram.capacity_gib", "dram.bandwidth_gb_per_s", "dram.command_latency_ns", "dram.page_hit_latency_ns",
    "die_to_die.gb_per_s", "die_to_die.latency_ns",
    *(f"command_level.lmem.{name}" for name in ("bytes_per_core", "bytes_per_cycle", "latency_ns", "banks_per_lane")),
    "command_level.tiu.startup_cycles_nn", "command_level.tiu.startup_cycles_nt",
    *(f"command_level.{dma}.{name}" for dma in ("gdma", "sdma") for name in ("gb_per_s", "startup_ns", "efficiency")),
    *(f"command_level.hau.{name}" for name in ("sort_width", "cycles_per_compare", "startup_cycles")),
    *(f"command_level.noc.{name}" for name in ("mesh_columns", "cluster_columns", "cluster_rows", "cycles_per_hop")),
    *(f"command_level.dram_channels.{name}" for name in ("count", "interleave_bytes", "page_bytes")),
    "c2c.ports", "c2c.lanes_per_port", "c2c.gbit_per_s_per_lane",
    *(f"command_level.cdma.{name}" for name in (
        "engines_per_die", "threads_per_engine", "gb_per_s_per_engine", "credit_queue_depth", "startup_us", "sync_us",
    )),
    *(f"command_level.energy.pj_per_{name}" for name in (
        "mac", "vector_step", "gdma_byte", "sdma_byte", "dram_byte", "cdma_byte",
    )),
    *(f"command_level.issue.{name}" for name in ("queue_depth", "cycles_per_command", "barrier_cycles")),
)  # fmt: skip
"""What the simulator reads of a chip."""

TOPOLOGY_FIELDS = (*CommProtocol.CHOICE_PARAMETERS, "cpu_fetch_us")
"""What it reads of a topology."""


@dataclass(frozen=True)
class Part:
    """A kernel or a movement of the chip; times of one run."""

    path: str
    op: str
    count: int
    """Runs per step: the layers of the repeat around it."""
    duration_ps: int
    times: ProgramTimes | None
    """Every command of a kernel."""
    moves: ExchangeTimes | None = None
    """Every command of a movement between chips."""
    energy_pj: Mapping[str, float] | None = None
    """Of one run, by class; None where the chip file says nothing about it."""
    stage: int | None = None
    """The pipeline stage that runs it; None for every rank."""

    @cached_property
    def critical_ps(self) -> dict[str, int]:
        """What the critical path of one run spends its time with; adds up to the duration."""
        if self.times is not None:
            return critical_ps(self.times)
        return {MOVING: self.duration_ps} if self.moves is None else self.moves.critical_ps

    @cached_property
    def fill_and_drain_ps(self) -> tuple[int, int]:
        """What of the critical path of a kernel moves data before anything is computed, and after all is."""
        return (0, 0) if self.times is None else fill_and_drain_ps(self.times)

    @cached_property
    def busy_ps(self) -> dict[str, int]:
        """Of every engine how long it is busy on the core on which it is busy longest."""
        return {} if self.times is None else self.times.busy_ps()


@dataclass(frozen=True)
class StepTimes:
    """A simulated step of one rank."""

    chip: Chip
    parts: tuple[Part, ...]
    stage: int | None = None
    """The pipeline stage whose rank this is, the slowest one; None without stages."""
    expert_ranks: tuple[int, ...] = ()
    """The ranks along the axis of experts whose step this is, the slowest ones; empty where all are alike."""
    expert_load: float = 1.0
    """The rows of their experts over the mean of all ranks."""

    @property
    def total_ps(self) -> int:
        """From the first command to the last."""
        return sum(part.count * part.duration_ps for part in self.parts)

    @property
    def total_us(self) -> float:
        """The same in microseconds."""
        return self.total_ps / PS_PER_US

    @property
    def energy_uj(self) -> dict[str, float] | None:
        """Microjoules of one rank by class of command; None where the chip file says nothing about energy."""
        found: dict[str, float] = {}
        for part in self.parts:
            if part.energy_pj is None:
                return None
            for name, energy in part.energy_pj.items():
                found[name] = found.get(name, 0.0) + part.count * energy * 1e-6
        return found

    @property
    def commands(self) -> int:
        """Commands of all cores in the whole step, those of layers that are simulated once counted for each."""
        return sum(part.count * part.times.count for part in self.parts if part.times is not None)


def stream_of(module: ModuleOp) -> StreamOp:
    """The step of a module.  Raises PmcError for a module above the commands level."""
    streams = [op for op in module.ops if isinstance(op, StreamOp)]
    if len(streams) != 1:
        raise PmcError(f"the module holds {len(streams)} g5.stream ops, must be one: compile it to commands")
    return streams[0]


def simulate_parts(module: ModuleOp, chip: Chip | None = None) -> tuple[Part, ...]:
    """What the ranks of all pipeline stages do in a step, in program order.

    With `chip` the commands run on that one in place of the module's, which they were compiled for: the same chip at
    other clocks.  Raises PmcError as `simulate`.
    """
    stream, target = stream_of(module), Target.of(module)
    simulation = _Simulation(target if chip is None else replace(target, chip=chip), accounting_of(module, "simulate"))
    return tuple(simulation.parts(stream.body.block, 1, None))


def simulate(module: ModuleOp) -> StepTimes:
    """Run the commands of a module in time.

    Of pipeline stages the slowest is kept.  Raises PmcError for a module above the commands level or without a chip,
    and for commands that wait for what never happens.
    """
    return step_of(module, simulate_parts(module))


def step_of(module: ModuleOp, parts: Sequence[Part]) -> StepTimes:
    """The step of the slowest pipeline stage, from the parts of all."""
    chip = Target.of(module).chip
    stages: list[int | None] = [*{part.stage for part in parts if part.stage is not None}] or [None]
    steps = [StepTimes(chip, tuple(p for p in parts if p.stage in (None, stage)), stage) for stage in stages]
    return max(steps, key=lambda step: step.total_ps)


@dataclass(frozen=True)
class _Simulation:
    target: Target
    accounting: Accounting
    known: dict[Hashable, ProgramTimes] = field(default_factory=dict["Hashable", ProgramTimes])
    moved: dict[Transfer, ExchangeTimes] = field(default_factory=dict["Transfer", ExchangeTimes])

    def parts(self, block: Block, count: int, stage: int | None) -> Iterator[Part]:
        for op in block.ops:
            match op:
                case ProgramOp():
                    times = self.times(op)
                    energy = program_energy_pj(op, self.target.chip)
                    yield Part(op.path.data, op.op_name.data, count, times.duration_ps, times, None, energy, stage)
                case RepeatOp():
                    yield from self.parts(op.body.block, op.runs(count), stage)
                case StageOp():
                    yield from self.parts(op.body.block, count, op.index.value.data)
                case ChipCommandOp():
                    moves = None if isinstance(op, SdmaOp) else self.moves(op)
                    moved_ps = moves.duration_ps if moves is not None else self.movement_ps(op)
                    energy = movement_energy_pj(op, self.ranks(op), self.target.chip)
                    name = str(op.collective.name)
                    yield Part(op.path.data, name, count, moved_ps, None, moves, energy, stage)
                case _:
                    pass

    def times(self, program: ProgramOp) -> ProgramTimes:
        """The commands of a program in time; those of equal programs are simulated once."""
        chip, symbols = self.target.chip, layer_symbols(program)
        key = timing_key(program, chip, symbols)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = run(lower(program, chip, symbols), chip)
        return found

    def movement_ps(self, op: ChipCommandOp) -> int:
        """How long the chip takes for a movement in its DRAM; nothing for a receive, whose time is that of the send."""
        if isinstance(op, SdmaOp):
            work, sdma, chip = op.work(), self.target.chip.commands.sdma, self.target.chip
            moved = max(work.bytes_read.constant, work.bytes_written.constant)
            engines = int(dma.transfer_ps(sdma, np.asarray(-(-moved // chip.cores))))
            memory = int(of_bytes(work.bytes_read.constant + work.bytes_written.constant, chip.dram_bytes_per_s))
            return dma.startup_ps(sdma) + max(engines, memory)
        return 0

    def ranks(self, op: ChipCommandOp) -> int:
        """The size of the group in which an op sends."""
        transfer = transfer_of(op, self.target)
        return 1 if transfer is None else transfer.ranks

    def moves(self, op: ChipCommandOp) -> ExchangeTimes | None:
        """A movement between chips, by the steps of its algorithm; None where nothing is sent."""
        transfer = transfer_of(op, self.target)
        if transfer is None or transfer.ranks == 1:
            return None
        network, chip = network_of(op, self.target), self.target.chip
        protocol = CommProtocol(network.topology, self.accounting)
        if transfer.exchange.is_open:
            algorithm = protocol.algorithm_of(op, self.target, {})
            assert algorithm is not None
            transfer = transfer.by(algorithm)
        found = self.moved.get(transfer)
        if found is None:
            busiest = self.accounting.expert_load == "busiest"
            loads = expert_loads(transfer, self.target.routing) if busiest else ()
            rounds = rounds_of(transfer, network, loads)
            found = self.moved[transfer] = simulate_exchange(rounds, chip, Links(network, chip), protocol)
        return found
