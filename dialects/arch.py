"""The target, held on the module as attributes: chip, topology and deployment.

Each is a schema without defaults (a field that may be absent is written ``null``) and an attribute that
prints it as a nested dictionary::

    #arch.chip<{name = "sg2262", ..., clocks = {chip_ghz = 1.5, tiu_ghz = 1.5}, ...}>

Parsing validates with the same schema that configuration files go through.
GB is 1e9 bytes, GiB is 2**30 bytes, one multiply-accumulate (MAC) is 2 FLOP.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, TypeAlias, cast, get_args

from pydantic import Field, model_validator
from xdsl.ir import Dialect
from xdsl.irdl import irdl_attr_definition

from pmc.dialects.accounting import AccountingAttr
from pmc.dialects.calibration import CalibrationAttr
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import (
    Bytes,
    Count,
    Cycles,
    GbitPerS,
    GbPerS,
    Ghz,
    GiB,
    Name,
    Ns,
    Paths,
    Pj,
    Planned,
    Ratio,
    Schema,
    Share,
    ShortName,
    Us,
    models_in,
)
from pmc.dialects.schema_text import SchemaAttr
from pmc.dialects.stacked_arch import StackedArchAttr
from pmc.dialects.vector_steps import VectorSteps

LinkLevel: TypeAlias = Literal["c2c", "b2b", "r2r", "p2p"]
"""Levels of the network from fast to slow: within a board, a rack, a pod, and between pods."""

ROUNDING = 0.01
"""How much faster than the ports a link may be stated: data sheets quote 448 GB/s as 450."""

DTYPE_BITS: dict[str, int] = {
    "i4": 4, "f4E2M1FN": 4, "i8": 8, "f8E4M3FN": 8, "f8E5M2": 8, "f16": 16, "bf16": 16, "tf32": 32, "f32": 32,
}  # fmt: skip


class Clocks(Schema, frozen=True):
    """Clock domains."""

    chip_ghz: Ghz = Field(description="Clock of vector units, LMEM and NoC; from the data sheet")
    tiu_ghz: Ghz = Field(description="Clock of the matrix units, which sets the peak; from the data sheet")


class PerDType(Schema, frozen=True):
    """One count per element type; ``null`` where the hardware has no path for that type."""

    i4: Count | None = Field(description="4-bit integer")
    f4E2M1FN: Count | None = Field(description="4-bit float, 2 exponent bits")
    i8: Count | None = Field(description="8-bit integer")
    f8E4M3FN: Count | None = Field(description="8-bit float, 4 exponent bits")
    f8E5M2: Count | None = Field(description="8-bit float, 5 exponent bits")
    f16: Count | None = Field(description="IEEE half precision")
    bf16: Count | None = Field(description="bfloat16")
    tf32: Count | None = Field(description="TensorFloat-32")
    f32: Count | None = Field(description="IEEE single precision")

    def get(self, dtype: str) -> int | None:
        """The count of ``dtype``, or None where it is unsupported or no element type at all."""
        return cast(int | None, getattr(self, dtype)) if dtype in PerDType.model_fields else None

    def supported(self) -> list[str]:
        """The element types that have a count."""
        return [d for d in PerDType.model_fields if self.get(d) is not None]


class Cube(Schema, frozen=True):
    """The smallest block that a matrix unit works on; operands are padded to its multiples."""

    m: Count = Field(description="Rows of the left operand, in elements; from the instruction set")
    n: Count = Field(description="Columns of the right operand, in elements; from the instruction set")
    k: PerDType = Field(description="Contraction length, in elements; from the instruction set")


class VectorUnits(Schema, frozen=True):
    """Element operations that the vector units of one lane start per cycle, by element width."""

    bits_8: Count = Field(description="Vector units per lane for 8-bit (and narrower) elements; from the data sheet")
    bits_16: Count = Field(description="Vector units per lane for 16-bit elements; from the data sheet")
    bits_32: Count = Field(description="Vector units per lane for 32-bit elements; from the data sheet")


class ElementarySteps(Schema, frozen=True):
    """Steps of a vector unit for one element of the functions that are more than one operation."""

    exp: Count = Field(description="Steps of an exponential; from the kernel templates")
    div: Count = Field(description="Steps of a division; from the kernel templates")
    rsqrt: Count = Field(description="Steps of a reciprocal square root; from the kernel templates")


class Dram(Schema, frozen=True):
    """Off-chip memory of one chip."""

    capacity_gib: GiB = Field(description="DRAM capacity; from the data sheet")
    bandwidth_gb_per_s: GbPerS = Field(description="Peak DRAM bandwidth of the chip; from the data sheet")
    command_latency_ns: Ns | None = Field(
        description="DRAM latency of one command, page miss; null on a chip without a command level"
    )
    page_hit_latency_ns: Ns | None = Field(
        description="DRAM latency of one command, page hit; null on a chip without a command level"
    )


class DieToDie(Schema, frozen=True):
    """The link between the dies of one package."""

    gb_per_s: GbPerS = Field(description="Bandwidth one way; from the data sheet")
    latency_ns: Ns = Field(description="Latency one way; from the data sheet")


class ChipToChip(Schema, frozen=True):
    """The chip's ports to other chips: what the package can drive; the topology says what a link reaches."""

    ports: Count = Field(description="Ports per chip; from the data sheet")
    lanes_per_port: Count = Field(description="Lanes per port one way; from the data sheet")
    gbit_per_s_per_lane: GbitPerS = Field(description="Line rate of a lane one way; from the data sheet")
    max_chips: Count = Field(description="Largest number of chips in one network; from the data sheet")
    max_cluster_chips: Count = Field(description="Largest number of chips on one board; from the data sheet")

    @property
    def gb_per_s(self) -> float:
        """Bandwidth of all ports together one way, GB/s."""
        return self.ports * self.lanes_per_port * self.gbit_per_s_per_lane / 8


class Lmem(Schema, frozen=True):
    """Core-local SRAM."""

    bytes_per_core: Annotated[Bytes, ShortName("lmem_bytes")] = Field(
        description="LMEM capacity of one core; from the data sheet"
    )
    bytes_per_cycle: Bytes = Field(description="LMEM bandwidth of one core per chip cycle; from the data sheet")
    latency_ns: Ns = Field(description="LMEM latency; from the data sheet")
    banks_per_lane: Count = Field(description="LMEM banks per lane; from the data sheet")
    tile_budget_fraction: Ratio = Field(description="Part of LMEM that tiles may occupy; from the compiler's rule")


class Tiu(Schema, frozen=True):
    """Start-up of matrix commands, by which operands are transposed."""

    startup_cycles_nn: Cycles = Field(description="Start of MM2, no operand transposed; from the command manual")
    startup_cycles_nt: Cycles = Field(description="Start of MM2, right operand transposed; from the command manual")
    startup_cycles_tt: Annotated[Cycles, Planned("matrix commands that transpose both operands (not emitted)")] = Field(
        description="Start of MM2, both operands transposed; from the command manual"
    )


class Dma(Schema, frozen=True):
    """A DMA engine of one core."""

    gb_per_s: GbPerS = Field(description="Peak bandwidth of one core's engine; from the data sheet")
    startup_ns: Ns = Field(description="Time from issue to first byte; from the command manual")
    efficiency: Ratio = Field(description="Part of the peak that long transfers reach; measured")


MOST_CDMA_ENGINES = 4096
"""Of a chip: each of them is simulated."""


class Cdma(Schema, frozen=True):
    """The engines that send and receive between chips."""

    engines_per_die: Count = Field(description="CDMA engines per die; from the data sheet")
    threads_per_engine: Count = Field(description="Independent threads per engine; from the data sheet")
    gb_per_s_per_engine: GbPerS = Field(description="Peak bandwidth of one engine; from the data sheet")
    credit_queue_depth: Count = Field(description="Outstanding transfers per engine; from the data sheet")
    startup_us: Us = Field(description="Start-up of SEND and RECV (alpha); from the protocol")
    sync_us: Us = Field(description="Synchronisation of SEND and RECV (beta); from the protocol")


class Hau(Schema, frozen=True):
    """The sort and top-k unit of one core."""

    sort_width: Count = Field(description="Elements compared per step; from the data sheet")
    cycles_per_compare: Cycles = Field(description="Cycles of one compare step; from the data sheet")
    startup_cycles: Cycles = Field(description="Start of a command; from the command manual")


class Noc(Schema, frozen=True):
    """The mesh of cores; cores are numbered cluster by cluster."""

    mesh_columns: Count = Field(description="Columns of the mesh; from the data sheet")
    mesh_rows: Count = Field(description="Rows of the mesh; from the data sheet")
    cluster_columns: Count = Field(description="Columns of one cluster of cores; from the data sheet")
    cluster_rows: Count = Field(description="Rows of one cluster of cores; from the data sheet")
    cycles_per_hop: Cycles = Field(description="Chip cycles per hop; from the data sheet")

    def position(self, core: int) -> tuple[int, int]:
        """Mesh column and row of a core: clusters run row by row, cores row by row inside their cluster."""
        cluster, inner = divmod(core, self.cluster_columns * self.cluster_rows)
        cluster_y, cluster_x = divmod(cluster, self.mesh_columns // self.cluster_columns)
        y, x = divmod(inner, self.cluster_columns)
        return cluster_x * self.cluster_columns + x, cluster_y * self.cluster_rows + y

    def hops(self, source: int, target: int) -> int:
        """Manhattan distance between two cores."""
        (x0, y0), (x1, y1) = self.position(source), self.position(target)
        return abs(x0 - x1) + abs(y0 - y1)


MOST_CHANNELS, MOST_INTERLEAVE_BYTES = 4096, 2**24
"""Of DRAM: the bytes that a transfer asks of every channel are counted one by one."""


class DramChannels(Schema, frozen=True):
    """How addresses are dealt out to the channels of DRAM."""

    count: Count = Field(description="Channels of the chip; from the data sheet")
    interleave_bytes: Bytes = Field(
        description="Adjacent bytes of one channel before the next one follows; from the memory controller"
    )
    page_bytes: Bytes = Field(description="Bytes of a DRAM page of one channel; from the data sheet")

    @model_validator(mode="after")
    def _check(self) -> "DramChannels":
        for field, most in (("count", MOST_CHANNELS), ("interleave_bytes", MOST_INTERLEAVE_BYTES)):
            if getattr(self, field) > most:
                raise ValueError(f"{field} must be at most {most}, found {getattr(self, field)}")
        return self


class Issue(Schema, frozen=True):
    """How a core gives its commands."""

    queue_depth: Count = Field(description="Commands that wait in the queue of one engine; from the command manual")
    cycles_per_command: Cycles = Field(description="Chip cycles from one command to the next; from the command manual")
    barrier_cycles: Cycles = Field(
        description="Chip cycles from the last core that comes to a barrier until all go on; from the command manual"
    )


class CommandEnergy(Schema, frozen=True):
    """What commands take beside idle power, by what they do."""

    pj_per_mac: Pj = Field(description="A multiply-accumulate of the matrix unit, operands from LMEM; measured")
    pj_per_vector_step: Pj = Field(description="A step of one vector or sort element, operands from LMEM; measured")
    pj_per_gdma_byte: Pj = Field(description="A byte between DRAM interface and LMEM; measured")
    pj_per_sdma_byte: Pj = Field(description="A byte from core to core or inside of DRAM; measured")
    pj_per_dram_byte: Pj = Field(description="A byte read from or written to DRAM; from the data sheet")
    pj_per_cdma_byte: Pj = Field(description="A byte sent to another chip; measured")


class CommandLevel(Schema, frozen=True):
    """What the tile and command levels need to know of an accelerator that runs command streams."""

    lmem: Lmem = Field(description="Core-local SRAM")
    tiu: Tiu = Field(description="Matrix unit")
    gdma: Dma = Field(description="DRAM to LMEM")
    sdma: Dma = Field(description="Core to core and DRAM to DRAM")
    cdma: Cdma = Field(description="Chip to chip")
    hau: Hau = Field(description="Sort and top-k unit")
    noc: Noc = Field(description="Network of cores")
    dram_channels: DramChannels = Field(description="Channels of DRAM")
    issue: Issue = Field(description="Front end of a core")
    energy: CommandEnergy | None = Field(description="Energy of commands; null where it is not known")


class Chip(Schema, frozen=True):
    """One accelerator package.

    ``unvalidated`` lists paths of fields (or of blocks of fields) never checked against silicon: results that
    rest on them are relative only.  So are those of every granularity that is not in ``compared_with_silicon``.
    """

    name: Name = Field(description="Name of the chip")
    unvalidated: Paths = Field(description="Paths of the fields never validated against silicon")
    compared_with_silicon: Annotated[tuple[Literal["chip", "core", "tile", "commands"], ...], Field(strict=False)] = (
        Field(description="Granularities of which results for this chip were compared with measurements on it")
    )
    dies: Count = Field(description="Dies per chip; from the data sheet")
    cores: Count = Field(description="Cores (SMs of a GPU) of all dies; from the data sheet")
    lanes_per_core: Count = Field(description="Lanes (tensor cores of an SM) per core; from the data sheet")
    clocks: Clocks = Field(description="Clock domains")
    cube: Cube = Field(description="Granularity of the matrix unit")
    macs_per_lane_per_cycle: PerDType = Field(description="Dense multiply-accumulates; from the data sheet")
    vector_eus_per_lane: VectorUnits = Field(description="Vector units")
    elementary_steps: ElementarySteps = Field(description="Steps of elementary functions on a vector unit")
    dram: Dram = Field(description="Off-chip memory")
    compute_dma_overlap_rate: Share = Field(description="Part of the shorter of compute and DMA that is hidden; fitted")
    gdma_multicast: bool = Field(description="One DRAM read serves all cores that need it; from the data sheet")
    alignment_bytes: Bytes = Field(description="Row alignment in memory; from the instruction set")
    die_to_die: DieToDie | None = Field(description="Link between dies; null on a single-die chip")
    c2c: ChipToChip = Field(description="Ports to other chips")
    command_level: CommandLevel | None = Field(
        description="Engines and LMEM; null on a chip that pmc does not emit commands for"
    )

    @model_validator(mode="after")
    def _check(self) -> "Chip":
        for path in self.unvalidated:
            _check_path(Chip, path)
        if self.cube.k.supported() != self.macs_per_lane_per_cycle.supported():
            raise ValueError("cube.k and macs_per_lane_per_cycle must be null for the same element types")
        if self.cores % self.dies:
            raise ValueError(f"cores ({self.cores}) must be a multiple of dies ({self.dies})")
        if (self.die_to_die is None) != (self.dies == 1):
            raise ValueError(f"die_to_die must be given exactly where dies > 1, and dies is {self.dies}")
        if self.command_level is not None:
            noc = self.command_level.noc
            if noc.mesh_columns * noc.mesh_rows != self.cores:
                raise ValueError(f"command_level.noc: {noc.mesh_columns} x {noc.mesh_rows} is not {self.cores} cores")
            if noc.mesh_columns % noc.cluster_columns or noc.mesh_rows % noc.cluster_rows:
                raise ValueError("command_level.noc: clusters must tile the mesh")
            engines = self.dies * self.command_level.cdma.engines_per_die
            if engines > MOST_CDMA_ENGINES:
                raise ValueError(
                    "the CDMA engines (dies x command_level.cdma.engines_per_die) must be at most "
                    f"{MOST_CDMA_ENGINES}, found {engines}"
                )
            if self.dram.command_latency_ns is None or self.dram.page_hit_latency_ns is None:
                raise ValueError("dram: command_latency_ns and page_hit_latency_ns are needed with command_level")
        return self

    @classmethod
    def following(cls, given: Mapping[str, object], value_at: Callable[[str], object]) -> Mapping[str, object]:
        """Other cores are other rows of the mesh, where its columns and clusters allow them and it is not given too."""
        sizes = (
            given.get("cores"),
            *(value_at(f"command_level.noc.{name}") for name in ("mesh_columns", "cluster_rows")),
        )
        if any(path.startswith("command_level") for path in given) or not all(
            isinstance(n, int) and n > 0 for n in sizes
        ):
            return {}
        cores, columns, cluster_rows = cast(tuple[int, int, int], sizes)
        rows = cores // columns
        return {"command_level.noc.mesh_rows": rows} if rows * columns == cores and rows % cluster_rows == 0 else {}

    def peak_flops_per_s(self, dtype: str) -> float:
        """Dense matrix peak at ``clocks.tiu_ghz``, FLOP/s: MACs x 2 x lanes x cores x clock.

        Raises PmcError where the matrix unit has no path for operands of ``dtype``: nothing is converted.
        """
        macs = self.matrix_count(self.macs_per_lane_per_cycle, dtype)
        return macs * 2.0 * self.lanes_per_core * self.cores * self.clocks.tiu_ghz * 1e9

    def matrix_count(self, counts: PerDType, dtype: str) -> int:
        """The entry of ``dtype`` in a table of the matrix unit.  Raises PmcError where it has no path for the type."""
        count = counts.get(dtype)
        if count is None:
            has = ", ".join(counts.supported())
            raise PmcError(f"chip {self.name}: the matrix unit has no rate for element type '{dtype}'; it has {has}")
        return count

    def vector_ops_per_s(self, dtype: str) -> float:
        """Element operations per second of all vector units at ``clocks.chip_ghz``, by width of ``dtype``.

        One operation per unit and cycle: a model that counts a multiply-add as two applies the factor itself.
        """
        if dtype not in DTYPE_BITS:
            raise PmcError(f"unknown element type '{dtype}'; known: {', '.join(DTYPE_BITS)}")
        units = self.vector_eus_per_lane
        per_lane = {8: units.bits_8, 16: units.bits_16, 32: units.bits_32}[max(8, DTYPE_BITS[dtype])]
        return per_lane * self.lanes_per_core * self.cores * self.clocks.chip_ghz * 1e9

    def vector_steps(self, count: VectorSteps) -> int:
        """The steps of a vector unit for so many elementary functions."""
        cost = self.elementary_steps
        return count.basic + count.exp * cost.exp + count.div * cost.div + count.rsqrt * cost.rsqrt

    @property
    def dram_bytes_per_s(self) -> float:
        """Peak DRAM bandwidth, bytes/s."""
        return self.dram.bandwidth_gb_per_s * 1e9

    @property
    def dram_bytes(self) -> int:
        """DRAM capacity, bytes."""
        return int(self.dram.capacity_gib * 2**30)

    @property
    def lmem_tile_budget_bytes(self) -> int:
        """LMEM bytes that the tiles of one core may occupy. Raises PmcError without a command level."""
        lmem = self.commands.lmem
        return int(lmem.bytes_per_core * lmem.tile_budget_fraction)

    @property
    def commands(self) -> CommandLevel:
        """The command level. Raises PmcError where the chip has none."""
        if self.command_level is None:
            raise PmcError(
                f"chip {self.name} has no command level (command_level is null): there are only the granularities "
                "chip and core, and the levels down to dist"
            )
        return self.command_level

    def is_unvalidated(self, path: str) -> bool:
        """Whether the field at the dotted ``path``, or a block around it, is listed as never validated."""
        return _covers(self.unvalidated, path)


BoardWiring = Literal["switch", "ring", "full_mesh"]
"""How the chips of a board are connected."""


class Link(Schema, frozen=True):
    """One level of the network."""

    gb_per_s: GbPerS = Field(description="Bandwidth of one chip one way; from the data sheet")
    latency_us: Us = Field(description="Latency one way; from the data sheet or measured")


class Links(Schema, frozen=True):
    """The network levels; ``null`` where the topology has no such level."""

    c2c: Link = Field(description="Chip to chip on one board")
    b2b: Link | None = Field(description="Board to board in one rack")
    r2r: Link | None = Field(description="Rack to rack in one pod")
    p2p: Link | None = Field(description="Pod to pod")


class TwoLevels(Schema, frozen=True):
    """A size of groups that the published protocol all-reduces in rings of neighbours and rings across these."""

    ranks: Count = Field(description="Ranks of the group; from the protocol")
    inner: Count = Field(description="Neighbours in an inner ring, a divisor of the ranks; from the protocol")

    @model_validator(mode="after")
    def _check(self) -> "TwoLevels":
        if not 1 < self.inner < self.ranks or self.ranks % self.inner:
            raise ValueError(f"inner ({self.inner}) must divide ranks ({self.ranks}) and be neither 1 nor all of them")
        return self


MOST_CHIPS = 2**20
"""Chips of an installation: what a step of a collective puts on the links is counted rank by rank."""


class Topology(Schema, frozen=True):
    """How chips are wired, and the constants of the communication protocol.

    Rank r is chip r; boards, racks and pods are filled in order.
    """

    name: Name = Field(description="Name of the topology")
    unvalidated: Paths = Field(description="Paths of the fields never validated against silicon")
    pods: Count = Field(description="Pods; a choice of the installation")
    racks_per_pod: Count = Field(description="Racks per pod; a choice of the installation")
    boards_per_rack: Count = Field(description="Boards per rack; a choice of the installation")
    chips_per_board: Count = Field(description="Chips per board; from the data sheet")
    board_wiring: BoardWiring = Field(
        description="Whom the ports of a chip reach on its board: all of them any chip (switch), half of them either "
        "neighbour (ring), equal parts each of the others (full_mesh); from the data sheet"
    )
    links: Links = Field(description="Bandwidth and latency of each level")
    bandwidth_utilisation: Ratio = Field(description="Part of a link's bandwidth that payload reaches; measured")
    sync_us: Us = Field(description="Synchronisation per step; measured")
    switch_us: Us = Field(description="Latency of one switch between boards; from the data sheet")
    cable_us: Us = Field(description="Latency of one cable between boards; from its length")
    memory_read_us: Us = Field(description="Memory read at the sender; measured")
    memory_write_us: Us = Field(description="Memory write at the receiver; measured")
    noc_us: Us = Field(description="On-chip network on the way to the port; measured")
    die_to_die_us: Us = Field(description="One die crossing on the way to the port; measured")
    cpu_fetch_us: Us = Field(description="Fetch of descriptors by the CPU; measured")
    two_level_all_reduce: Annotated[tuple[TwoLevels, ...], Field(strict=False)] = Field(
        description="Sizes of groups for which the published protocol all-reduces in two levels; others use one ring"
    )

    @model_validator(mode="after")
    def _check(self) -> "Topology":
        for path in self.unvalidated:
            _check_path(Topology, path)
        if self.chips > MOST_CHIPS:
            raise ValueError(
                "the chips (pods x racks_per_pod x boards_per_rack x chips_per_board) must be at most "
                f"{MOST_CHIPS}, found {self.chips}"
            )
        sizes = [entry.ranks for entry in self.two_level_all_reduce]
        twice = next((size for size in sizes if sizes.count(size) > 1), None)
        if twice is not None:
            raise ValueError(f"two_level_all_reduce: groups of {twice} ranks are given twice")
        for level, count, field in (
            ("b2b", self.boards_per_rack, "boards_per_rack"),
            ("r2r", self.racks_per_pod, "racks_per_pod"),
            ("p2p", self.pods, "pods"),
        ):
            if count > 1 and getattr(self.links, level) is None:
                raise ValueError(f"links.{level} must be given (it is null): {field} is {count}")
        return self

    @property
    def chips(self) -> int:
        """Chips of the whole installation."""
        return self.pods * self.racks_per_pod * self.boards_per_rack * self.chips_per_board

    def link_of_span(self, ranks: Sequence[int]) -> LinkLevel:
        """The slowest level that a group of ranks spans: c2c on one board (or for one rank), b2b, r2r or p2p.

        Raises PmcError for an empty group or a rank that is no chip.
        """
        if not ranks or min(ranks) < 0 or max(ranks) >= self.chips:
            raise PmcError(
                f"topology {self.name}: ranks must be in 0..{self.chips - 1}, found {sorted(set(ranks))[:4]}"
            )
        low, high = (
            min(ranks),
            max(ranks),
        )  # boards, racks and pods are contiguous: the extremes span the most
        level: LinkLevel
        size = 1
        for level, parts in zip(get_args(LinkLevel), self._parts(), strict=True):
            size *= parts
            if low // size == high // size:
                return level
        raise AssertionError("one network holds every chip")

    def link(self, level: LinkLevel) -> Link:
        """Bandwidth and latency of a level. Raises PmcError where the topology has no such level."""
        link = cast(Link | None, getattr(self.links, level))
        if link is None:
            raise PmcError(f"topology {self.name} has no {level} link (links.{level} is null)")
        return link

    def inner_ring(self, ranks: int) -> int | None:
        """The neighbours in an inner ring where the published protocol all-reduces in two levels, None in one ring."""
        return next((entry.inner for entry in self.two_level_all_reduce if entry.ranks == ranks), None)

    def is_unvalidated(self, path: str) -> bool:
        """Whether the field at the dotted ``path``, or a block around it, is listed as never validated."""
        return _covers(self.unvalidated, path)

    def _parts(self) -> tuple[int, int, int, int]:
        return self.chips_per_board, self.boards_per_rack, self.racks_per_pod, self.pods


def check_network(chip: Chip, topology: Topology) -> None:
    """Raises PmcError where the ports of the chip cannot drive the links, or fewer chips can be connected."""
    ports, allowed = chip.c2c, chip.c2c.gb_per_s * (1 + ROUNDING)
    for level in get_args(LinkLevel):
        link = cast(Link | None, getattr(topology.links, level))
        if link is not None and link.gb_per_s > allowed:
            raise PmcError(
                f"topology {topology.name}: links.{level}.gb_per_s is {link.gb_per_s:g}, the ports of chip {chip.name} "
                f"reach {ports.gb_per_s:g} (c2c: {ports.ports} ports x {ports.lanes_per_port} lanes x "
                f"{ports.gbit_per_s_per_lane:g} Gbit/s)"
            )
    for count, where, field in (
        (topology.chips, "", "max_chips"),
        (topology.chips_per_board, " on a board", "max_cluster_chips"),
    ):
        most = cast(int, getattr(ports, field))
        if count > most:
            raise PmcError(
                f"topology {topology.name} has {count} chips{where}, chip {chip.name} allows {most} (c2c.{field})"
            )


def _covers(paths: Sequence[str], path: str) -> bool:
    return any(path == p or path.startswith(p + ".") for p in paths)


def _check_path(schema: type[Schema], path: str) -> None:
    field: object = schema
    for part in path.split("."):
        field = next((m.model_fields[part] for m in models_in(field) if part in m.model_fields), None)
        if field is None:
            raise ValueError(f"unvalidated: '{path}' names no field")


@irdl_attr_definition
class ChipAttr(SchemaAttr[Chip]):
    """``#arch.chip<{...}>``: the chip the module is compiled for."""

    name = "arch.chip"
    SCHEMA = Chip


@irdl_attr_definition
class TopologyAttr(SchemaAttr[Topology]):
    """``#arch.topology<{...}>``: how chips are wired."""

    name = "arch.topology"
    SCHEMA = Topology


@irdl_attr_definition
class DeploymentAttr(SchemaAttr[Deployment]):
    """``#arch.deployment<{...}>``: parallelism, workload and element types."""

    name = "arch.deployment"
    SCHEMA = Deployment


Arch = Dialect("arch", [], [ChipAttr, TopologyAttr, DeploymentAttr, AccountingAttr, CalibrationAttr, StackedArchAttr])
