"""docs/add-a-model.md, followed step by step: a family of known parts, and one with a block that there was not.

The doc shows these code blocks; a test holds that they are the same text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any, ClassVar

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, IntegerAttr, ModuleOp
from xdsl.ir import Dialect, Operation, SSAValue
from xdsl.irdl import irdl_op_definition, prop_def
from xdsl.parser import Parser

from pmc.backends.numeric import model as reference
from pmc.backends.numeric.errors import Array
from pmc.compiler import shrink
from pmc.compiler.check import check_small
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, module_text
from pmc.compiler.frontend import import_hf
from pmc.compiler.frontend.blocks import LLAMA_FFN, LLAMA_GQA
from pmc.compiler.frontend.families import FAMILIES, dense
from pmc.compiler.frontend.family import Block, Family
from pmc.compiler.frontend.readings import Properties, activation, constant, integer
from pmc.dialects import g5, layer, model
from pmc.dialects.deployment import Deployment
from pmc.dialects.model_block import BlockOp, WeightSpec
from pmc.passes.expand_blocks import program
from pmc.passes.expand_blocks.block_builder import BlockBuilder
from tests.reference.configs import COMMON

DOC = Path(__file__).parents[1] / "docs" / "add-a-model.md"


# [3]
@irdl_op_definition
class TokenGatedFfnOp(BlockOp):
    """A network that every token scales for itself: sigmoid(x g) * down(max(up(x), 0)^2)."""

    name = "model.token_gated_ffn"
    POSITIVE: ClassVar[tuple[str, ...]] = ("intermediate_size",)
    intermediate_size = prop_def(IntegerAttr)

    def verify_(self) -> None:
        """Sizes are positive; the shape stays."""
        super().verify_()
        self.require_same_type()

    def weights(self) -> list[WeightSpec]:
        """Up, down, and the gate: one column."""
        hidden, inner = self.width, self.intermediate_size.value.data
        return [
            WeightSpec("up_proj.weight", (hidden, inner), ("", "ffn")),
            WeightSpec("down_proj.weight", (inner, hidden), ("ffn", "")),
            WeightSpec("token_gate.weight", (hidden, 1), ("", "")),
        ]


# [/3]


class Reference(reference.ModelMachine):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.blocks[TokenGatedFfnOp] = self.token_gated_ffn

    # [4]
    def token_gated_ffn(self, block: TokenGatedFfnOp, x: Array) -> Array:
        up = np.maximum(x @ self.weight(block, "up_proj.weight"), 0)
        gate = 1 / (1 + np.exp(-(x @ self.weight(block, "token_gate.weight"))))
        y: Array = gate * (up**2 @ self.weight(block, "down_proj.weight"))
        return y

    # [/4]


# [5]
def expand_token_gated_ffn(build: BlockBuilder, x: SSAValue) -> SSAValue:
    """The gate is applied behind the network, whose partial sums it may scale."""
    up = build.linear(x, "up_proj")
    hidden = build.op(layer.ActivationOp, [up], "activation", up.type, {"function": "relu2"})
    y, gate = build.linear(hidden, "down_proj"), build.matmul(x, "token_gate")
    return build.op(layer.RowGateOp, [y, gate], "gated", y.type)


# [/5]


# [6]
def _token_gated_ffn(op: TokenGatedFfnOp, d: Deployment) -> Properties:
    del op
    return {"intermediate_size": 20 * d.tp}


# [/6]


ADDED: Mapping[str, Family] = {
    # [1]
    "ArceeForCausalLM": dense(LLAMA_GQA, LLAMA_FFN.with_rows(activation=activation(), gated=constant(False))),
    # [/1]
    # [7]
    "TokenGateForCausalLM": dense(
        LLAMA_GQA, Block(TokenGatedFfnOp, "ffn", {"intermediate_size": integer("intermediate_size")})
    ),
    # [/7]
}

TINY: Mapping[str, dict[str, object]] = {
    # [2]
    "arcee": {**COMMON, "architectures": ["ArceeForCausalLM"], "hidden_act": "relu2"},
    # [/2]
    "token-gate": {**COMMON, "architectures": ["TokenGateForCausalLM"]},
}


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables with their new entries; what is a `case` of a `match` in the program comes before it here."""
    monkeypatch.setattr("pmc.compiler.frontend.FAMILIES", {**FAMILIES, **ADDED})
    monkeypatch.setattr(reference, "ModelMachine", Reference)
    sizes: dict[type[Operation], Any] = {**shrink.SHRUNK, TokenGatedFfnOp: _token_gated_ffn}
    monkeypatch.setattr(shrink, "SHRUNK", sizes)
    known: Callable[..., SSAValue] = program.expand_block

    def expand_block(build: BlockBuilder, operands: list[SSAValue], op: model.BlockOp, step: program.Step) -> SSAValue:
        if isinstance(op, TokenGatedFfnOp):
            return expand_token_gated_ffn(build, operands[0])
        return known(build, operands, op, step)

    monkeypatch.setattr(program, "expand_block", expand_block)


def imported(name: str) -> ModuleOp:
    return import_hf(TINY[name], name, "tiny")


@pytest.mark.parametrize(
    ("name", "network"),
    [("arcee", 2 * 32 * 48), ("token-gate", 2 * 32 * 48 + 32)],
)
def test_parameters_by_hand(name: str, network: int) -> None:
    attention = 2 * 32 * 32 + 2 * 32 * 16
    norms, tables = 2 * 32, 2 * 61 * 32
    assert model.parameter_count(imported(name)) == 3 * (attention + network + norms) + 32 + tables


@pytest.mark.parametrize("name", TINY)
def test_every_pass_keeps_the_meaning_down_to_commands(name: str) -> None:
    deployment = load_deployment("decode", {"tp": 2, "kv_len": 41})
    target = load_chip("sg2262"), load_topology("p1-r1-b4-c32"), deployment
    config = {**TINY[name], "torch_dtype": "bfloat16"}
    results = check_small(config, name, *target, layers=2, plans="chosen")
    assert [(r.phase, r.guilty) for r in results] == [
        ("prefill", None),
        ("prefill", None),
        ("decode", None),
        ("decode", None),
        ("sequence", None),
    ]


def test_the_new_block_is_kernels_of_its_own() -> None:
    deployment = load_deployment("decode", {"kv_len": 41})
    config = {**TINY["token-gate"], "torch_dtype": "bfloat16"}
    module = import_hf(config, "token-gate", "tiny")
    compiled = compile_model(module, load_chip("sg2262"), load_topology("p1-r1-b1-c8"), deployment, "commands")
    programs = {op.path.data: op.op_name.data for op in compiled.walk() if isinstance(op, g5.ProgramOp)}
    assert programs["blocks.dense.ffn.token_gate"] == "layer.matmul"
    assert programs["blocks.dense.ffn.gated"] == "layer.row_gate"


def test_the_new_block_prints_and_reads_back() -> None:
    context = Context()
    context.load_dialect(Builtin)
    context.load_dialect(Dialect("model", [*model.Model.operations, TokenGatedFfnOp], list(model.Model.attributes)))
    context.load_dialect(layer.Layer)
    module = imported("token-gate")
    again = Parser(context, module_text(module, False)).parse_module()
    assert again.is_structurally_equivalent(module)


def test_a_fault_in_a_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An expansion without the gate, which the model level has."""
    right = expand_token_gated_ffn

    def expand_without_gate(build: BlockBuilder, x: SSAValue) -> SSAValue:
        gated = right(build, x).owner
        assert isinstance(gated, layer.RowGateOp)
        return gated.x

    monkeypatch.setitem(globals(), "expand_token_gated_ffn", expand_without_gate)
    deployment = load_deployment("decode", {"kv_len": 41})
    target = load_chip("sg2262"), load_topology("p1-r1-b4-c32"), deployment
    results = check_small(TINY["token-gate"], "token-gate", *target, layers=1, plans="chosen")
    assert results[-1].guilty is not None and results[-1].guilty.name == "expand-blocks"


def test_the_doc_shows_the_code_of_this_file() -> None:
    mine = Path(__file__).read_text()
    doc = DOC.read_text()
    shown = {n: body for n, body in re.findall(r"# \[(\d)\]\n(.*?)# \[/\1\]", mine, re.DOTALL)}
    assert sorted(shown) == ["1", "2", "3", "4", "5", "6", "7"]
    for number, body in shown.items():
        assert dedent(body).strip() in doc, f"step {number} of {DOC.name} is not the code of this test"
    for path in re.findall(r"`((?:dialects|passes|backends|compiler|tests|docs)/[\w./-]+)`", doc):
        assert (DOC.parents[1] / path).exists(), f"{DOC.name} names {path}, which does not exist"
