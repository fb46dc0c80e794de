"""What models declare to read of chips and topologies is what they read; what nobody reads changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate import evaluate_module
from pmc.backends.evaluate.analyses.link_traffic import link_traffic
from pmc.backends.evaluate.footprint import MemoryOptions
from pmc.backends.evaluate.memory import memory_footprint
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, module_text, replace_accounting, run_pipeline, set_target
from pmc.compiler.field_readers import LABELS, covers, field_uses, readers
from pmc.compiler.pipelines import default_pipeline, pass_factories
from pmc.dialects.arch import Chip, ChipAttr, PerDType, Topology, TopologyAttr, VectorUnits, check_network
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level
from pmc.dialects.schema import Schema, leaves, models_in

from .recording import recording

CHIP, RACK = load_chip("sg2262"), load_topology("p1-r1-b4-c32")
SIZES = {"pods": 2, "racks_per_pod": 2, "boards_per_rack": 2}
PODS = Topology.model_validate({**RACK.model_dump(), **SIZES, "name": "pods"})
PROGRAMS: Mapping[str, tuple[str, str, Topology, dict[str, object]]] = {
    "mla": ("deepseek-v3", "dsv3-decode-ep32", RACK, {"dispatch": "per_node"}),
    "dense": ("llama-3.1-70b", "llama-70b-prefill-tp8", RACK, {"tp": 4, "pp": 2, "sp": True}),
    "racks": ("llama-3.1-70b", "llama-70b-decode-tp8", PODS, {"tp": 32}),
    "pods": ("llama-3.1-70b", "llama-70b-decode-tp8", PODS, {"tp": 64}),
    "eight bits": ("llama-3.1-8b", "llama-8b-decode", RACK, {"quantization.weights": "i8"}),
}
STAGED: Mapping[str, tuple[str, str, Topology, dict[str, object]]] = {
    "stages of mla": ("deepseek-v3", "dsv3-decode-ep32", RACK, {"dp": 16, "ep": 16, "pp": 2}),
    "stages of racks": ("llama-3.1-70b", "llama-70b-decode-tp8", PODS, {"tp": 32, "pp": 2}),
    "stages of pods": (
        "llama-3.1-70b",
        "llama-70b-decode-tp8",
        PODS.model_copy(update={"pods": 4}),
        {"tp": 64, "pp": 2},
    ),
}
"""Programs of several stages, which are costed to balance these."""
KERNEL_PASSES: dict[str, object] = {
    "fuse_rows": True,
    "fuse_gates": True,
    "pipeline_loops": True,
    "prefetch_weights": True,
}
"""Passes that read the chip only where a deployment asks for them."""


@cache
def compiled(name: str) -> ModuleOp:
    model, deployment, topology, options = PROGRAMS[name]
    return compile_model(load_model(model), CHIP, topology, load_deployment(deployment, options), "dist")


class Seen:
    """A chip and a topology that remember what is read of them."""

    def __init__(self) -> None:
        self.chip: set[str] = set()
        self.topology: set[str] = set()

    def module(self, name: str, accounting: str = "physical") -> ModuleOp:
        """A copy of the program on them."""
        module = compiled(name).clone()
        replace_accounting(module, load_accounting(accounting))
        module.attributes["arch.chip"] = ChipAttr(recording(CHIP, self.chip))
        module.attributes["arch.topology"] = TopologyAttr(recording(PROGRAMS[name][2], self.topology))
        return module


def evaluated(granularity: str) -> Seen:
    seen = Seen()
    for name in PROGRAMS:
        evaluate_module(seen.module(name), granularity)
    for name in ("mla", "dense"):
        evaluate_module(seen.module(name, "ds-tpu"), granularity)
    return seen


def by_pass() -> Iterator[tuple[str, Seen]]:
    """What every pass reads, over all programs that fit a single rank's search quickly."""
    found: dict[str, Seen] = {}
    cases: list[tuple[str, str, Level]] = [("mla", "physical", "commands"), ("dense", "physical", "commands")]
    staged: list[tuple[str, str, Level]] = [(name, how, "dist") for name in STAGED for how in ("physical", "ds-tpu")]
    for name, accounting, level in (*cases, *staged):
        model, deployment_name, topology, options = {**PROGRAMS, **STAGED}[name]
        module, deployment = load_model(model), load_deployment(deployment_name, {**options, **KERNEL_PASSES})
        set_target(module, CHIP, topology, deployment, load_accounting(accounting))
        for spec in default_pipeline(deployment, level):
            seen = found.setdefault(spec.name, Seen())
            module.attributes["arch.chip"] = ChipAttr(recording(CHIP, seen.chip))
            module.attributes["arch.topology"] = TopologyAttr(recording(topology, seen.topology))
            run_pipeline(module, [spec])
    for name, accounting in (("dense", "ds-tpu"), ("racks", "physical"), ("pods", "physical")):
        specs = default_pipeline(load_deployment(PROGRAMS[name][1], PROGRAMS[name][3]), "commands")
        module = found["select-algorithms"].module(name, accounting)
        run_pipeline(module, [spec for spec in specs if spec.name in ("bind-symbols", "select-algorithms")])
    yield from found.items()


def memory(seen: Seen) -> None:
    memory_footprint(seen.module("mla"), MemoryOptions(0.05, 0, 1, 1))


def links(seen: Seen) -> None:
    for name, accounting in (("mla", "physical"), ("dense", "ds-tpu"), ("racks", "physical"), ("pods", "physical")):
        link_traffic(seen.module(name, accounting))


def network(seen: Seen) -> None:
    check_network(recording(CHIP, seen.chip), recording(PODS, seen.topology))


def assert_declared(reader: str, seen: Seen) -> None:
    """Everything that was read is declared, and everything that is declared was read.

    A result may rest on what a pass has read of the topology and written into the IR.
    """
    declared = next(r for r in readers() if r.name == reader)
    in_the_ir = {path for factory in pass_factories().values() for path in factory().TOPOLOGY_FIELDS}
    network = seen.topology | in_the_ir.intersection(declared.topology)
    for read, paths in ((seen.chip, declared.chip), (network, declared.topology)):
        undeclared = sorted(p for p in read if p not in LABELS and not any(covers(d, p) for d in paths))
        assert undeclared == [], f"{reader} reads what it does not declare"
        unread = sorted(d for d in paths if not any(covers(d, p) for p in read))
        assert unread == [], f"{reader} declares what it does not read"


@pytest.mark.parametrize("granularity", ["chip", "core", "tile"])
def test_cost_models_read_what_they_declare(granularity: str) -> None:
    assert_declared(f"evaluate --granularity {granularity}", evaluated(granularity))


def test_passes_read_what_they_declare() -> None:
    known = {reader.name for reader in readers()}
    for name, seen in by_pass():
        if name in known:
            assert_declared(name, seen)
        else:
            assert not seen.chip | seen.topology, f"{name} reads {seen.chip | seen.topology} and declares nothing"


@pytest.mark.parametrize(
    ("reader", "run"),
    [
        ("analyze --what memory", memory),
        ("analyze --what links", links),
        ("check of chip against topology", network),
    ],
)
def test_analyses_read_what_they_declare(reader: str, run: Callable[[Seen], None]) -> None:
    seen = Seen()
    run(seen)
    assert_declared(reader, seen)


@pytest.mark.parametrize("schema", [Chip, Topology])
def test_every_field_is_read_or_says_who_will_read_it(schema: type[Chip] | type[Topology]) -> None:
    orphans = [use.path for use in field_uses(schema) if not use.readers and use.planned is None]
    assert orphans == [], "no model reads these: remove them, or mark them with what will (see Planned)"


def test_a_mark_goes_when_its_field_is_read() -> None:
    """A block that two engines share keeps its mark as long as one of them is not modelled."""
    unread = {use.path for use in field_uses(Chip) if use.planned is not None}
    marked: dict[int, list[str]] = {}
    for leaf in leaves(Chip):
        if leaf.planned is not None:
            marked.setdefault(id(leaf.info), []).append(leaf.path)
    assert marked
    stale = [paths for paths in marked.values() if not unread & set(paths)]
    assert stale == [], "these are read: take the mark away"


def test_declared_blocks_are_alternatives() -> None:
    """A block is declared as a whole only where a program reads one of its fields, by element type or width."""
    for reader in readers():
        for schema, paths in ((Chip, reader.chip), (Topology, reader.topology)):
            whole = {leaf.path for leaf in leaves(schema)}
            assert [p for p in paths if p not in whole and block_at(schema, p) not in (PerDType, VectorUnits)] == []


def block_at(schema: type[Schema], path: str) -> type[Any] | None:
    found: type[Any] | None = schema
    for part in path.split("."):
        found = next(iter(models_in(found.model_fields[part])), None) if found is not None else None
    return found


def scaled(value: Schema, path: str, factor: float) -> Any:
    """The same with one number changed, or one switch turned; without validation, as there is no such chip."""
    name, _, rest = path.partition(".")
    old = getattr(value, name)
    if rest:
        new = scaled(old, rest, factor)
    elif isinstance(old, bool) or old is None:
        new = None if old is None else not old
    else:
        new = max(1, int(old * factor)) if isinstance(old, int) else old * factor
    fields: dict[str, Any] = {**dict(value), name: new}
    return type(value).model_construct(None, **fields)


def test_what_nobody_reads_changes_nothing() -> None:
    """All marked fields at once: no time and no command changes."""
    chip: Chip = CHIP
    for use in field_uses(Chip):
        if use.planned is not None:
            chip = scaled(chip, use.path, 2)
    assert chip != CHIP
    for name in ("mla", "eight bits"):
        deployment = load_deployment(PROGRAMS[name][1], PROGRAMS[name][3])
        results: list[list[object]] = []
        for target in (CHIP, chip):
            module = compiled(name).clone()
            module.attributes["arch.chip"] = ChipAttr(target)
            times: list[object] = [evaluate_module(module, g).total_us for g in ("chip", "core", "tile")]
            run_pipeline(module, default_pipeline(deployment, "commands")[len(default_pipeline(deployment, "dist")) :])
            del module.attributes["arch.chip"]
            results.append([*times, module_text(module)])
        assert results[0] == results[1]


@pytest.mark.parametrize("granularity", ["chip", "core", "tile"])
def test_what_is_declared_changes_a_result(granularity: str) -> None:
    """Every number that a model says it reads changes the time of a program, as a much better or much worse one.

    Of granularity tile only those that granularity core lacks.
    """
    declared = {r.name: {*r.chip} for r in readers()}
    fields = declared[f"evaluate --granularity {granularity}"]
    if granularity == "tile":
        fields = fields - declared["evaluate --granularity core"]
    cases = (("mla", "physical"), ("dense", "physical"), ("mla", "ds-tpu"))

    def total_us(name: str, accounting: str, chip: Chip) -> float:
        module = compiled(name).clone()
        replace_accounting(module, load_accounting(accounting))
        module.attributes["arch.chip"] = ChipAttr(chip)
        try:
            return evaluate_module(module, granularity).total_us
        except PmcError:
            return np.inf  # nothing fits

    before = {case: total_us(*case, CHIP) for case in cases}
    assert np.isfinite([*before.values()]).all()
    silent = [
        leaf.path
        for leaf in leaves(Chip)
        if leaf.path in fields
        and not any(
            total_us(*case, scaled(CHIP, leaf.path, factor)) != before[case]
            for factor in (1 / 16, 16, 256)
            for case in cases
        )
    ]
    assert silent == []
