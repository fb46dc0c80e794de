"""docs/add-an-op.md, followed step by step with a toy op: y = silu(x) * x, from the layer level to executed commands.

The doc shows these code blocks; a test holds that they are the same text.
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import Any, ClassVar

import numpy as np
import pytest
from xdsl.context import Context as IrContext
from xdsl.dialects.builtin import Builtin, Float32Type, ModuleOp
from xdsl.ir import Dialect, Operation
from xdsl.irdl import irdl_op_definition, operand_def, result_def
from xdsl.parser import Parser

from pmc.backends.numeric.dist import run_dist
from pmc.backends.numeric.layer import run_layer, seeded_layer_environment
from pmc.backends.numeric.rank_programs import run_commands
from pmc.backends.numeric.semantics import silu_mul
from pmc.backends.numeric.tensor_ops import Context, Operands, Results, implements
from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import module_text, run_pipeline, set_target
from pmc.compiler.frontend import import_hf
from pmc.compiler.pipelines import default_pipeline
from pmc.compiler.shrink import shrink_chip, shrink_config, shrink_deployment
from pmc.dialects import g5, layer
from pmc.dialects.analyses.workload import VectorWorkload, Workload, describes, workload_of
from pmc.dialects.expr import expr
from pmc.dialects.interfaces import ShardingRule
from pmc.dialects.layer import HEAD, TOKEN, LayerOp
from pmc.dialects.tensor import TensorType, element_name, tensor
from pmc.dialects.tile import KernelOp, PlanAttr
from pmc.dialects.vector_kinds import SiluMulAttr
from pmc.passes.base import PassError
from pmc.passes.tiling.families import FAMILIES
from pmc.passes.tiling.kernels import Arrays
from pmc.passes.tiling.rowwise import Rows, plan_rows, row_tiles, used_cores
from pmc.passes.tiling.target import Target

DOC = Path(__file__).parents[1] / "docs" / "add-an-op.md"


# [1]
@irdl_op_definition
class SelfGateOp(LayerOp):
    """y = silu(x) * x."""

    name = "layer.self_gate"
    FLOPS_PER_ELEMENT: ClassVar[int] = 5
    x = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Both have one shape."""
        self.require_shape(self.y, tensor(self.x).dims, "y")

    def sharding_rule(self) -> ShardingRule:
        """Element-wise: rows and columns may be split."""
        return ShardingRule(((TOKEN, HEAD),), ((TOKEN, HEAD),))


# [/1]


# [2]
@implements(SelfGateOp)
def run_self_gate(op: SelfGateOp, operands: Operands, context: Context) -> Results:
    (x,) = operands
    return (silu_mul(x, x),)


# [/2]


# [4]
class SelfGateFamily:
    """Rows over the cores; each tile is loaded, gated and stored."""

    def plan(self, op: Operation, target: Target) -> PlanAttr:
        assert isinstance(op, SelfGateOp)
        return plan_rows(self.rows(op), target, op.name, op.path.data)

    def lower(self, op: Operation, plan: PlanAttr, arrays: Arrays, target: Target) -> KernelOp:
        assert isinstance(op, SelfGateOp)
        rows = self.rows(op)
        source, result = (f(v, *rows.dims(rows.width)) for f, v in ((arrays.array, op.x), (arrays.result, op.y)))
        code = arrays.code(op)
        with row_tiles(code, plan, rows.outer, rows.inner) as at:
            x, y = (code.alloc(at.capacity, rows.width, source.element_type) for _ in range(2))
            code.load(source, x, at.offsets(source), at.sizes(source))
            code.vector(SiluMulAttr(), at.rows, rows.width, [x, x], [y])
            code.store(result, y, at.offsets(result), at.sizes(result))
        return code.kernel(used_cores(plan, rows))

    def rows(self, op: SelfGateOp) -> Rows:
        count, width = (d.constant for d in tensor(op.x).dims)
        element = tensor(op.x).element_type
        return Rows(count, 1, width, ((element, width), (element, width)))


# [/4]


# [5]
@describes(SelfGateOp)
def self_gate_workload(op: SelfGateOp) -> Workload:
    rows, columns = tensor(op.x).dims
    return VectorWorkload(rows, columns, 70, 0, element_name(tensor(op.x).element_type))


# [/5]


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry in `FAMILIES`."""
    monkeypatch.setitem(FAMILIES, SelfGateOp, SelfGateFamily())


def with_self_gate(module: ModuleOp) -> ModuleOp:
    """Step 3 in short: the op behind the down projection of every layer, where an expansion would build it."""
    for op in list(module.walk()):
        if isinstance(op, layer.MatmulOp) and op.path.data.endswith("down_proj"):
            gate = SelfGateOp.make([op.y], [op.y.type], "blocks.dense.ffn.self_gate", like=op)
            block = op.parent_block()
            assert block is not None
            op.y.replace_all_uses_with(gate.y)
            gate.operands[0] = op.y
            block.insert_op_after(gate, op)
    return module


def small_program(**changes: object) -> tuple[ModuleOp, Any]:
    """A small Llama at the layer level with the op in it, and the deployment whose pipeline it is to go through."""
    deployment = shrink_deployment(load_deployment("llama-8b-decode", changes))
    config, source = load_model_config("llama-3.1-8b")
    module = import_hf(shrink_config(config, deployment, 2), source, "llama")
    set_target(module, shrink_chip(load_chip("sg2262")), load_topology("p1-r1-b4-c32"), deployment)
    run_pipeline(module, default_pipeline(deployment, "layer"))
    return with_self_gate(module), deployment


F32 = {"quantization.weights": "f32", "quantization.activations": "f32", "quantization.kv_cache": "f32"}


@pytest.mark.parametrize("mesh", [{"tp": 1}, {"tp": 2, "dp": 2, "pp": 2, "sp": True}])
def test_the_op_runs_at_every_level_and_computes_the_same(mesh: dict[str, object]) -> None:
    module, deployment = small_program(**F32, **mesh)
    bindings = {"batch": deployment.batch, "q_len": deployment.q_len, "kv_len": deployment.kv_len}
    environment = seeded_layer_environment(module, bindings, 3)
    expected = run_layer(module, environment).outputs[0]
    without = with_self_gate_removed(module)
    assert np.abs(run_layer(without, environment).outputs[0] - expected).max() > 0.1, "the op does nothing"

    steps = default_pipeline(deployment, "commands")[2:]
    run_pipeline(module, steps[:4])
    np.testing.assert_allclose(run_dist(module, environment).outputs[0], expected, atol=1e-10)
    run_pipeline(module, steps[4:])
    programs = [op for op in module.walk() if isinstance(op, g5.ProgramOp)]
    kernels = [op for op in programs if op.op_name.data == "layer.self_gate"]
    assert len(kernels) == (2 if deployment.pp == 2 else 1)  # one body per stage
    np.testing.assert_allclose(run_commands(module, environment).outputs[0], expected, atol=1e-4)


def with_self_gate_removed(module: ModuleOp) -> ModuleOp:
    copy = module.clone()
    for op in list(copy.walk()):
        if isinstance(op, SelfGateOp):
            op.y.replace_all_uses_with(op.x)
            op.detach()
            op.erase()
    return copy


def test_the_op_reads_back_prints_and_says_its_work() -> None:
    context = IrContext()
    context.load_dialect(Builtin)
    context.load_dialect(Dialect("layer", [*layer.Layer.operations, SelfGateOp], list(layer.Layer.attributes)))
    module = ModuleOp([])
    weight = layer.WeightOp.make(
        [], [TensorType.of((expr("batch"), 8), Float32Type())], "x",
        {"axes": layer.ArrayAttr([layer.StringAttr("")] * 2)},
    )  # fmt: skip
    gate = SelfGateOp.make([weight.result], [weight.result.type], "p")
    module.body.block.add_ops([weight, gate])
    module.verify()
    for generic in (False, True):
        again = Parser(context, module_text(module, generic)).parse_module()
        assert again.is_structurally_equivalent(module)
    work = gate.work()
    assert [str(e) for e in (work.flops, work.bytes_read, work.bytes_written)] == [
        "batch*40", "batch*32", "batch*32",
    ]  # fmt: skip
    assert workload_of(gate) == VectorWorkload(expr("batch"), expr(8), 70, 0, "f32")


def test_an_op_without_a_step_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody sees who forgets a step."""
    module, deployment = small_program()
    monkeypatch.delitem(FAMILIES, SelfGateOp)
    with pytest.raises(PassError, match=r"layer.self_gate at 'blocks.dense.ffn.self_gate' has no lowering to tiles"):
        run_pipeline(module, default_pipeline(deployment, "tile")[2:])


def test_the_doc_shows_the_code_of_this_file() -> None:
    mine = Path(__file__).read_text()
    doc = DOC.read_text()
    shown = {n: body for n, body in re.findall(r"# \[(\d)\]\n(.*?)# \[/\1\]", mine, re.DOTALL)}
    assert sorted(shown) == ["1", "2", "4", "5"]
    for number, body in shown.items():
        assert dedent(body).strip() in doc, f"step {number} of {DOC.name} is not the code of this test"
    for path in re.findall(r"`((?:dialects|passes|backends|compiler|tests|docs)/[\w./-]+)`", doc):
        assert (DOC.parents[1] / path).exists(), f"{DOC.name} names {path}, which does not exist"
