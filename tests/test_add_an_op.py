"""docs/add-an-op.md, followed step by step with a toy op: y = max(x, 0)^2, from the layer level to executed commands.

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
from xdsl.ir import Dialect
from xdsl.irdl import irdl_attr_definition, irdl_op_definition, operand_def, result_def
from xdsl.parser import Parser

from pmc.backends.numeric.dist import run_dist
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.layer import run_layer, seeded_layer_environment
from pmc.backends.numeric.rank_programs import run_commands
from pmc.backends.numeric.tensor_ops import Context, Operands, Results, implements
from pmc.backends.numeric.vector_kinds import COMPUTATIONS, Tiles, computes, run_kind
from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import module_text, run_pipeline, set_target
from pmc.compiler.frontend import import_hf
from pmc.compiler.pipelines import default_pipeline
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.dialects import g5, layer
from pmc.dialects.analyses.workload import VectorWorkload, workload_of
from pmc.dialects.expr import Expr, expr
from pmc.dialects.interfaces import ShardingRule
from pmc.dialects.layer import HEAD, TOKEN, LayerOp
from pmc.dialects.layer_op import RowOp
from pmc.dialects.tensor import TensorType, tensor
from pmc.dialects.vector_kinds import Matrix, SiluMulAttr, VectorKindAttr
from pmc.dialects.vector_steps import VectorSteps
from pmc.passes.base import PassError

DOC = Path(__file__).parents[1] / "docs" / "add-an-op.md"


# [4]
@irdl_attr_definition
class ReluSquaredAttr(VectorKindAttr):
    """out = max(x, 0)^2.  Steps: max, mul, convert."""

    name: ClassVar[str] = "tile.relu_squared"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("x", "in"), Matrix("out", "out"))
    FLOPS: ClassVar[int] = 2
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=3)


# [/4]


# [1]
@irdl_op_definition
class ReluSquaredOp(RowOp):
    """y = max(x, 0)^2."""

    name = "layer.relu_squared"
    x = operand_def(TensorType)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Both have one shape."""
        self.require_shape(self.y, tensor(self.x).dims, "y")

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        del token
        return ReluSquaredAttr()

    def sharding_rule(self) -> ShardingRule:
        """Element-wise: rows and columns may be split."""
        return ShardingRule(((TOKEN, HEAD),), ((TOKEN, HEAD),))


# [/1]


# [2]
@implements(ReluSquaredOp)
def run_relu_squared(op: ReluSquaredOp, operands: Operands, context: Context) -> Results:
    (x,) = operands
    return (np.maximum(x, 0) ** 2,)


# [/2]


# [5]
@computes(ReluSquaredAttr)
def compute_relu_squared(kind: ReluSquaredAttr, tiles: Tiles) -> list[Array]:
    (x,) = tiles.ins
    return [np.maximum(x, 0) ** 2]


# [/5]


def with_the_op(module: ModuleOp, kind: type[LayerOp] = ReluSquaredOp) -> ModuleOp:
    """Step 3 in short: the op behind the down projection of every layer, where an expansion would build it."""
    for op in list(module.walk()):
        if isinstance(op, layer.MatmulOp) and op.path.data.endswith("down_proj"):
            added = kind.make([op.y], [op.y.type], "blocks.dense.ffn.relu_squared", like=op)
            block = op.parent_block()
            assert block is not None
            op.y.replace_all_uses_with(added.results[0])
            added.operands[0] = op.y
            block.insert_op_after(added, op)
    return module


def small_program(kind: type[LayerOp] = ReluSquaredOp, /, **changes: object) -> tuple[ModuleOp, Any]:
    """A small Llama at the layer level with the op in it, and the deployment whose pipeline it is to go through."""
    deployment = shrink_deployment(load_deployment("llama-8b-decode", changes))
    config, source = load_model_config("llama-3.1-8b")
    module = shrink_model(import_hf(config, source, "llama"), deployment, 2)
    set_target(module, shrink_chip(load_chip("sg2262")), load_topology("p1-r1-b4-c32"), deployment)
    run_pipeline(module, default_pipeline(deployment, "layer"))
    return with_the_op(module, kind), deployment


F32 = {f"quantization.{name}": "f32" for name in ("weights", "activations", "kv_cache", "attention")}


@pytest.mark.parametrize("mesh", [{"tp": 1}, {"tp": 2, "dp": 2, "pp": 2, "sp": True}])
def test_the_op_runs_at_every_level_and_computes_the_same(mesh: dict[str, object]) -> None:
    module, deployment = small_program(**F32, **mesh)
    bindings = {"batch": deployment.batch, "q_len": deployment.q_len, "kv_len": deployment.kv_len}
    environment = seeded_layer_environment(module, bindings, 3)
    expected = run_layer(module, environment).outputs[0]
    without = with_the_op_removed(module)
    assert np.abs(run_layer(without, environment).outputs[0] - expected).max() > 0.1, "the op does nothing"

    steps = default_pipeline(deployment, "commands")[2:]
    run_pipeline(module, steps[:4])
    np.testing.assert_allclose(run_dist(module, environment).outputs[0], expected, atol=1e-10)
    run_pipeline(module, steps[4:])
    programs = [op for op in module.walk() if isinstance(op, g5.ProgramOp)]
    kernels = [op for op in programs if op.op_name.data == "layer.relu_squared"]
    assert len(kernels) == (2 if deployment.pp == 2 else 1)  # one body per stage
    np.testing.assert_allclose(run_commands(module, environment).outputs[0], expected, atol=1e-4)


def with_the_op_removed(module: ModuleOp) -> ModuleOp:
    copy = module.clone()
    for op in list(copy.walk()):
        if isinstance(op, ReluSquaredOp):
            op.y.replace_all_uses_with(op.x)
            op.detach()
            op.erase()
    return copy


def test_the_op_reads_back_prints_and_says_its_work() -> None:
    context = IrContext()
    context.load_dialect(Builtin)
    context.load_dialect(Dialect("layer", [*layer.Layer.operations, ReluSquaredOp], list(layer.Layer.attributes)))
    module = ModuleOp([])
    weight = layer.WeightOp.make(
        [], [TensorType.of((expr("batch"), 8), Float32Type())], "x",
        {"axes": layer.ArrayAttr([layer.StringAttr("")] * 2)},
    )  # fmt: skip
    added = ReluSquaredOp.make([weight.result], [weight.result.type], "p")
    module.body.block.add_ops([weight, added])
    module.verify()
    for generic in (False, True):
        again = Parser(context, module_text(module, generic)).parse_module()
        assert again.is_structurally_equivalent(module)
    work = added.work()
    assert [str(e) for e in (work.flops, work.bytes_read, work.bytes_written)] == [
        "batch*16", "batch*32", "batch*32",
    ]  # fmt: skip
    assert workload_of(added) == VectorWorkload(expr("batch"), expr(8), VectorSteps(basic=3), VectorSteps(), "f32")


@irdl_op_definition
class UnknownOp(LayerOp):
    """An op that is not row-wise and that nobody tiles."""

    name = "layer.unknown"
    x = operand_def(TensorType)
    y = result_def(TensorType)

    def sharding_rule(self) -> ShardingRule:
        return ShardingRule(((TOKEN, HEAD),), ((TOKEN, HEAD),))


@irdl_op_definition
class UnfedOp(RowOp):
    """A row-wise op whose kind has more matrices than the op has operands."""

    name = "layer.unfed"
    x = operand_def(TensorType)
    y = result_def(TensorType)

    def vector_kind(self, token: Expr) -> VectorKindAttr:
        return SiluMulAttr()

    def sharding_rule(self) -> ShardingRule:
        return ShardingRule(((TOKEN, HEAD),), ((TOKEN, HEAD),))


def test_an_op_without_a_step_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody sees who forgets a step."""
    where = "at 'blocks.dense.ffn.relu_squared'"
    for kind, message in (
        (UnknownOp, f"layer.unknown {where} has no lowering to tiles"),
        (UnfedOp, f"layer.unfed {where}: operands and matrices of #tile.silu_mul do not correspond"),
    ):
        module, deployment = small_program(kind)
        with pytest.raises(PassError, match=message):
            run_pipeline(module, default_pipeline(deployment, "tile")[2:])
    monkeypatch.delitem(COMPUTATIONS, ReluSquaredAttr)
    with pytest.raises(NumericError, match=r"vector kind #tile\.relu_squared has no numeric semantics"):
        run_kind(ReluSquaredAttr(), Tiles([], [], (1,), {}))


def test_the_doc_shows_the_code_of_this_file() -> None:
    mine = Path(__file__).read_text()
    doc = DOC.read_text()
    shown = {n: body for n, body in re.findall(r"# \[(\d)\]\n(.*?)# \[/\1\]", mine, re.DOTALL)}
    assert sorted(shown) == ["1", "2", "4", "5"]
    for number, body in shown.items():
        assert dedent(body).strip() in doc, f"step {number} of {DOC.name} is not the code of this test"
    for path in re.findall(r"`((?:dialects|passes|backends|compiler|tests|docs)/[\w./-]+)`", doc):
        assert (DOC.parents[1] / path).exists(), f"{DOC.name} names {path}, which does not exist"
