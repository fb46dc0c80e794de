"""The allocate-dram pass: aligned addresses, shared memory for what does not live at once, and the capacity."""

from itertools import combinations, pairwise

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import compile_model
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import shrink_chip, shrink_config, shrink_deployment
from pmc.dialects.arch import Chip
from pmc.dialects.tile import GlobalOp, StageOp, memref_type
from pmc.passes.base import PassError


def compiled(model: str, deployment: str, chip: Chip | None = None, pp: int = 1) -> ModuleOp:
    small = shrink_deployment(load_deployment(deployment, {"pp": pp}))
    config, source = load_model_config(model)
    module = import_hf(shrink_config(config, small, 3), source, model)
    target = chip or shrink_chip(load_chip("sg2262"))
    return compile_model(module, target, load_topology("p1-r1-b4-c32"), small, "tile")


def ranges(module: Operation) -> dict[str, list[range]]:
    """The bytes of every array in an op, by kind."""
    found: dict[str, list[range]] = {}
    for op in module.walk():
        if isinstance(op, GlobalOp):
            assert op.address is not None, op.path
            start = op.address.value.data
            found.setdefault(op.kind.data, []).append(range(start, start + memref_type(op.result).bytes))
    return found


@pytest.mark.parametrize(
    ("model", "deployment"), [("llama-3.1-8b", "llama-8b-prefill"), ("deepseek-v3", "dsv3-decode-ep32")]
)
def test_what_stays_never_overlaps_and_activations_share(model: str, deployment: str) -> None:
    module = compiled(model, deployment)
    found = ranges(module)
    step = load_chip("sg2262").alignment_bytes
    assert all(r.start % step == 0 for group in found.values() for r in group)
    stays = [r for kind, group in found.items() if kind != "activation" for r in group]
    for a, b in combinations(sorted(stays, key=lambda r: r.start), 2):
        assert a.stop <= b.start
    activations = found["activation"]
    assert all(r.start >= max(s.stop for s in stays) for r in activations)
    peak = max(r.stop for r in activations) - min(r.start for r in activations)
    assert peak < sum(len(r) for r in activations)  # memory is used again


def test_too_little_dram_says_by_how_much() -> None:
    data = shrink_chip(load_chip("sg2262")).model_dump()
    data["dram"]["capacity_gib"] = 2**-18  # 4 KiB
    with pytest.raises(PassError) as error:
        compiled("llama-3.1-8b", "llama-8b-decode", Chip.model_validate(data))
    top = max(r.stop for group in ranges(compiled("llama-3.1-8b", "llama-8b-decode")).values() for r in group)
    assert str(error.value) == (
        f"allocate-dram: program 'llama-3.1-8b' needs {top} bytes of DRAM, sg2262-small has 4096: "
        f"{top - 4096} bytes too many"
    )


def stages(module: ModuleOp) -> list[StageOp]:
    return [op for op in module.walk() if isinstance(op, StageOp)]


def test_every_stage_has_the_memory_after_the_inputs_for_itself() -> None:
    module = compiled("llama-3.1-8b", "llama-8b-prefill", pp=2)
    (tokens,) = ranges(module)["input"]
    step = load_chip("sg2262").alignment_bytes
    base = -(-tokens.stop // step) * step
    for stage in stages(module):
        found = ranges(stage)
        assert "input" not in found
        stays = sorted((r for kind, g in found.items() if kind != "activation" for r in g), key=lambda r: r.start)
        assert stays[0].start == base
        assert all(a.stop <= b.start for a, b in pairwise(stays))
        assert all(r.start >= stays[-1].stop for r in found["activation"])


def test_the_stage_that_needs_too_much_is_named() -> None:
    """Of 3 layers the last stage runs 2 and the head, so that a chip may hold the first stage and not the second."""
    tops = [max(r.stop for group in ranges(s).values() for r in group) for s in stages(two_stages())]
    assert tops[0] < tops[1]
    data = shrink_chip(load_chip("sg2262")).model_dump()
    data["dram"]["capacity_gib"] = tops[0] / 2**30
    with pytest.raises(PassError) as error:
        two_stages(Chip.model_validate(data))
    assert str(error.value) == (
        f"allocate-dram: stage 1 of program 'llama-3.1-8b' needs {tops[1]} bytes of DRAM, sg2262-small has {tops[0]}: "
        f"{tops[1] - tops[0]} bytes too many"
    )
    data["dram"]["capacity_gib"] = tops[1] / 2**30
    two_stages(Chip.model_validate(data))


def two_stages(chip: Chip | None = None) -> ModuleOp:
    return compiled("llama-3.1-8b", "llama-8b-decode", chip, pp=2)
