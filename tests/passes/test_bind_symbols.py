"""The bind-symbols pass."""

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.ir import SSAValue
from xdsl.parser import Parser

from pmc.compiler.config import load_model_config
from pmc.compiler.context import make_context
from pmc.compiler.frontend import import_hf
from pmc.dialects import layer, model
from pmc.dialects.expr import expr
from pmc.dialects.tensor import TensorType, tensor
from pmc.passes.annotate_shardings import AnnotateShardingsPass
from pmc.passes.base import PassError
from pmc.passes.bind_symbols import BindSymbolsPass
from pmc.passes.expand_blocks import ExpandBlocksPass
from pmc.passes.insert_collectives import InsertCollectivesPass
from pmc.passes.localize import LocalizePass

SYMBOLS = ("batch", "q_len", "kv_len")


def context() -> Context:
    ctx = Context()
    for dialect in (Builtin, model.Model, layer.Layer):
        ctx.load_dialect(dialect)
    return ctx


def imported(name: str) -> ModuleOp:
    config, source = load_model_config(name)
    return import_hf(config, source, name)


def expanded(name: str, phase: str) -> ModuleOp:
    module = imported(name)
    ExpandBlocksPass(phase).apply(context(), module)
    return module


def values(module: ModuleOp) -> list[SSAValue]:
    found: list[SSAValue] = []
    for op in module.walk():
        found.extend(op.results)
        found.extend(a for region in op.regions for block in region.blocks for a in block.args)
    return found


def work(module: ModuleOp, **bindings: int) -> list[tuple[int, int, int]]:
    return [
        tuple(e.evaluate(bindings) for e in (w.flops, w.bytes_read, w.bytes_written))
        for op in module.walk()
        if isinstance(op, layer.LayerOp)
        for w in (op.work(),)
    ]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_binding_gives_the_work_that_evaluation_gives(name: str, phase: str) -> None:
    """Substitution before or after the work formulas is the same, for uneven values."""
    module = expanded(name, phase)
    symbolic = work(module, batch=5, q_len=3, kv_len=17)
    BindSymbolsPass(5, 3, 17).apply(context(), module)
    module.verify()
    assert work(module) == symbolic
    for value in values(module):
        assert isinstance(value.type, TensorType)
        assert all(d.is_constant for d in value.type.dims)
    printed = str(module)
    assert not any(f"<{symbol}>" in printed for symbol in SYMBOLS)
    parsed = Parser(context(), printed).parse_module()
    parsed.verify()
    assert str(parsed) == printed


def test_model_level() -> None:
    module = imported("llama-3.1-8b")
    BindSymbolsPass(batch=2, q_len=3).apply(context(), module)
    module.verify()
    assert str(values(module)[0].type) == "!layer.tensor<[6], i32>"


def test_properties_are_bound() -> None:
    module = expanded("llama-3.1-8b", "decode")
    BindSymbolsPass(2, 3, 7).apply(context(), module)
    ropes = [op for op in module.walk() if isinstance(op, layer.RopeOp)]
    assert len(ropes) == 2
    assert {(str(r.q_len.data), str(r.kv_len.data)) for r in ropes} == {("3", "7")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is 0, must be at least 1"),
        ({"kv_len": -4}, "kv_len is -4, must be at least 1"),
        (
            {"q_len": 8, "kv_len": 7},
            "kv_len 7 is less than q_len 8; kv_len counts the current queries too",
        ),
    ],
)
def test_values_are_checked(options: dict[str, int], message: str) -> None:
    with pytest.raises(PassError) as error:
        BindSymbolsPass(**options)
    assert str(error.value) == f"bind-symbols: {message}"


def test_symbols_left_unbound_are_named_with_their_place() -> None:
    module = expanded("llama-3.1-8b", "decode")
    with pytest.raises(PassError) as error:
        BindSymbolsPass(batch=2, q_len=1).apply(context(), module)
    assert str(error.value) == ("bind-symbols: kv_len of 'blocks.dense.gqa.q_rope' has no value; give kv-len=..")


# -- context parallelism ----------------------------------------------------------------------------------------


def striped(phase: str = "prefill", cp: int = 4) -> ModuleOp:
    """The program of a rank of cp, with rings."""
    module = expanded("llama-3.1-8b", phase)
    for step in (AnnotateShardingsPass(cp=cp), InsertCollectivesPass(), LocalizePass()):
        step.apply(make_context(), module)
    return module


def test_numbers_of_ranks_and_steps_stay_symbols() -> None:
    """They differ between the ranks and the iterations of one program."""
    module = striped()
    BindSymbolsPass(2, 8, 24).apply(make_context(), module)
    module.verify()
    rope = next(op for op in module.walk() if isinstance(op, layer.RopeOp))
    assert [str(e.data) for e in (rope.first, rope.q_len, rope.kv_len)] == ["cp.rank", "2", "6"]
    assert str(rope.position(expr(1))) == "cp.rank + 20"
    own, step = (op for op in module.walk() if isinstance(op, layer.AttentionStepOp))
    assert [str(op.q_len.data) for op in (own, step)] == ["2", "2"]
    assert [str(op.hidden.data) for op in (own, step)] == ["0", "floordiv(-cp.rank + cp.step + 3, 4)"]
    for value in values(module):
        assert isinstance(value.type, TensorType)
        assert all(d.is_constant for d in value.type.dims)
    (cache, *_) = (op for op in module.walk() if isinstance(op, layer.StateOp))
    assert [d.constant for d in tensor(cache.result).dims] == [2, 6, 1024]
    # A second binding finds nothing left to bind.
    before = str(next(iter(module.ops)))
    BindSymbolsPass(2, 8, 24).apply(make_context(), module)
    assert str(next(iter(module.ops))) == before


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"q_len": 6, "kv_len": 8}, "q_len = 6"),
        ({"q_len": 4, "kv_len": 10}, "kv_len = 10"),
        ({"q_len": 6, "kv_len": 10}, "q_len = 6"),
        ({"q_len": 1, "kv_len": 8}, "q_len = 1"),  # a step of one token per sequence cannot be dealt out
    ],
)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_lengths_that_cp_does_not_divide(phase: str, lengths: dict[str, int], message: str) -> None:
    with pytest.raises(PassError) as error:
        BindSymbolsPass(batch=3, **lengths).apply(make_context(), striped(phase))
    assert str(error.value) == (
        f"bind-symbols: {message} is not a multiple of cp = 4, which splits every sequence evenly"
    )


def test_lengths_need_not_be_multiples_of_anything_else() -> None:
    """dp pads sequences, tp splits no length, and cp divides no batch."""
    module = expanded("llama-3.1-8b", "prefill")
    for step in (AnnotateShardingsPass(cp=3, tp=2, dp=4), InsertCollectivesPass(), LocalizePass()):
        step.apply(make_context(), module)
    BindSymbolsPass(batch=5, q_len=9, kv_len=15).apply(make_context(), module)
    module.verify()
    (cache, *_) = (op for op in module.walk() if isinstance(op, layer.StateOp))
    assert [d.constant for d in tensor(cache.result).dims] == [2, 5, 512]
