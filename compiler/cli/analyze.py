"""`pmc analyze`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pmc.compiler.cli.analysis_output import analysis_text
from pmc.compiler.cli.compiled import rank_program
from pmc.compiler.cli.output import TableFormat, deliver, progress, refuse
from pmc.compiler.cli.target import MODELS, Output, TargetOptions
from pmc.compiler.files import check_writable_file
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from pmc.backends.evaluate import EngineResult
    from pmc.backends.evaluate.analyses.table import Analysis
    from pmc.backends.evaluate.footprint import MemoryFootprint

EXAMPLES = """
pmc analyze deepseek-v3 --what memory --reserve-fraction 0.05 --kv-block-tokens 16 --chip sg2262 \
    --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32
pmc analyze deepseek-v3 --what links --chip sg2262 --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32
pmc analyze dumps/06-partition-stages.mlir --what ops --granularity core --depth 2 --format csv
"""


class What(StrEnum):
    """The analyses."""

    OPS = "ops"
    MEMORY = "memory"
    COMM = "comm"
    LINKS = "links"
    COST = "cost"


class Board(StrEnum):
    """How chips of one board are connected, in place of what the topology says."""

    SWITCH = "switch"
    RING = "ring"
    FULL_MESH = "full-mesh"


USES: dict[What, tuple[str, ...]] = {
    What.OPS: ("granularity", "accounting", "depth"),
    What.MEMORY: ("reserve_fraction", "reserve_bytes", "kv_block_tokens", "micro_batches"),
    What.COMM: ("accounting",),
    What.LINKS: ("accounting", "board_wiring"),
    What.COST: ("granularity", "accounting", "dollars_per_chip_hour", "watts_per_chip", "dollars_per_kwh"),
}
"""The options that each analysis has."""

REQUIRED: dict[What, tuple[str, ...]] = {
    What.COST: ("dollars_per_chip_hour",),
}
"""Those of them that no analysis can guess."""

_OPS: dict[str, Any] = {"rich_help_panel": "Analyses ops and cost"}
_MEMORY: dict[str, Any] = {"rich_help_panel": "Analysis memory"}
_LINKS: dict[str, Any] = {"rich_help_panel": "Analysis links"}


def analyze_command(
    model: Annotated[
        str, typer.Argument(help="Preset, config.json, YAML; or a dump of pmc compile (.mlir).", autocompletion=MODELS)
    ],
    *,
    what: Annotated[What, typer.Option(help="What to count; only cost needs another option, --dollars-per-chip-hour.")],
    output: Output = None,
    output_format: Annotated[TableFormat, typer.Option("--format", help="The form of the table.")] = (TableFormat.TEXT),
    granularity: Annotated[
        str | None,
        typer.Option(help="How closely the chip is looked at: chip (if not given), core, tile.", **_OPS),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="ops: names of a path that make a block (3 if not given).", **_OPS)
    ] = None,
    dollars_per_chip_hour: Annotated[float | None, typer.Option(help="cost: price of a chip.", **_OPS)] = None,
    watts_per_chip: Annotated[
        float | None, typer.Option(help="cost: mean power, where energy is paid apart.", **_OPS)
    ] = None,
    dollars_per_kwh: Annotated[float | None, typer.Option(help="cost: price of that energy.", **_OPS)] = None,
    reserve_fraction: Annotated[
        float | None, typer.Option(help="Part of DRAM to keep free, 0 to 1 (0 if not given).", **_MEMORY)
    ] = None,
    reserve_bytes: Annotated[
        int | None, typer.Option(help="Bytes to keep free in addition (0 if not given).", **_MEMORY)
    ] = None,
    kv_block_tokens: Annotated[
        int | None, typer.Option(help="Tokens per block of a paged cache (1, no pages, if not given).", **_MEMORY)
    ] = None,
    micro_batches: Annotated[
        int | None, typer.Option(help="Parts that the batch runs in (1 if not given).", **_MEMORY)
    ] = None,
    board_wiring: Annotated[
        Board | None,
        typer.Option(help="How chips of a board are connected (if not given: see the topology).", **_LINKS),
    ] = None,
    target: TargetOptions,
) -> None:
    """Count what a program is made of: its ops, memory, collectives, links, or the price of its tokens.

    Exit code 1 says that the program does not fit (ops, memory and cost), what exceeds by how much, and the largest
    batch that fits.  A dump holds its own target; only --batch, --q-len and --kv-len may be given with it.
    """
    check_writable_file(output)
    options: dict[str, Any] = {
        "granularity": granularity,
        "accounting": target.accounting,
        "depth": depth,
        "dollars_per_chip_hour": dollars_per_chip_hour,
        "watts_per_chip": watts_per_chip,
        "dollars_per_kwh": dollars_per_kwh,
        "reserve_fraction": reserve_fraction,
        "reserve_bytes": reserve_bytes,
        "kv_block_tokens": kv_block_tokens,
        "micro_batches": micro_batches,
        "board_wiring": board_wiring,
    }
    _check_options(what, options)
    with progress(f"analysing {model}"):
        module, bindings = rank_program(model, target)
        analysis = _analysis(what, options, module, bindings)
    deliver(analysis_text(analysis, output_format, output), output)
    if analysis.misfits:
        refuse(analysis.misfits, output_format, output)


def _check_options(what: What, options: dict[str, Any]) -> None:
    foreign = [name for name, value in options.items() if value is not None and name not in USES[what]]
    if foreign:
        raise PmcError(f"--what {what.value} does not use {_flags(foreign)}; its options are {_flags(USES[what])}")
    missing = [name for name in REQUIRED.get(what, ()) if options[name] is None]
    if missing:
        raise PmcError(f"--what {what.value} needs {_flags(missing)}, as {_flags(missing)} 2.5")


def _flags(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names) or "none"


def _analysis(what: What, options: dict[str, Any], module: ModuleOp, bindings: dict[str, int]) -> Analysis:
    match what:
        case What.OPS:
            from pmc.backends.evaluate.analyses.ops_breakdown import ops_breakdown
            from pmc.backends.evaluate.feasibility import step_feasibility

            depth = 3 if options["depth"] is None else options["depth"]
            return ops_breakdown(
                module, _evaluated(options, module, bindings), depth, step_feasibility(module, bindings)
            )
        case What.MEMORY:
            return _memory(options, module, bindings)
        case What.COMM:
            from pmc.backends.evaluate.analyses.comm_pattern import comm_pattern

            return comm_pattern(module, bindings)
        case What.LINKS:
            from pmc.backends.evaluate.analyses.link_traffic import link_traffic

            if options["board_wiring"] is not None:
                _rewire(module, options["board_wiring"])
            return link_traffic(module, bindings)
        case What.COST:
            return _cost(options, module, bindings)


def _rewire(module: ModuleOp, board: Board) -> None:
    from pmc.dialects.arch import BoardWiring, TopologyAttr

    wirings: dict[Board, BoardWiring] = {
        Board.SWITCH: "switch", Board.RING: "ring", Board.FULL_MESH: "full_mesh",
    }  # fmt: skip
    topology = module.attributes.get("arch.topology")
    if isinstance(topology, TopologyAttr):
        wired = topology.data.model_copy(update={"board_wiring": wirings[board]})
        module.attributes["arch.topology"] = TopologyAttr(wired)


def _evaluated(options: dict[str, Any], module: ModuleOp, bindings: dict[str, int]) -> EngineResult:
    from pmc.backends.evaluate import evaluate_module

    return evaluate_module(module, options["granularity"] or "chip", bindings)


def _memory(options: dict[str, Any], module: ModuleOp, bindings: dict[str, int]) -> MemoryFootprint:
    from pmc.backends.evaluate.footprint import MemoryOptions
    from pmc.backends.evaluate.memory import memory_footprint

    assumed: dict[str, Any] = {"reserve_fraction": 0.0, "reserve_bytes": 0, "kv_block_tokens": 1, "micro_batches": 1}
    given = {name: value for name in USES[What.MEMORY] if (value := options[name]) is not None}
    return memory_footprint(module, MemoryOptions(**{**assumed, **given}), bindings)


def _cost(options: dict[str, Any], module: ModuleOp, bindings: dict[str, int]) -> Analysis:
    """One step after the other, with one batch in flight: the stages of a pipeline wait for each other."""
    from pmc.backends.evaluate.analyses.cost_per_token import CostOptions, cost_per_token
    from pmc.backends.evaluate.feasibility import step_feasibility
    from pmc.backends.evaluate.speculation import tokens_of_step

    prices = CostOptions(*(options[name] for name in ("dollars_per_chip_hour", "watts_per_chip", "dollars_per_kwh")))
    result = _evaluated(options, module, bindings)
    absent = [name for name in ("batch", "q_len") if name not in result.bindings]
    if absent:
        raise PmcError(f"the tokens of a step are batch*q_len, and {', '.join(absent)} has no value")
    tokens = tokens_of_step(module, result.bindings)
    name = f"{result.program} {result.phase}, granularity {result.granularity.value}"
    trust = (result.unvalidated, result.assumptions, result.lower_bound, step_feasibility(module, bindings))
    return cost_per_token(name, result.total_us, tokens, result.ranks, prices, *trust)
