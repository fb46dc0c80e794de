"""`unroll-commands`: the tables of the matmul of `test_emit_g5`, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.parser import Parser

from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.context import make_context
from pmc.compiler.driver import compile_model
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.dialects import g5, tile
from pmc.dialects.layer import Layer
from pmc.dialects.vector_kinds import SoftmaxStepAttr
from pmc.passes.base import PassError
from pmc.passes.unroll_commands import UnrollCommandsPass

NEST = """
builtin.module {
  g5.stream() {sym_name = "step", phase = "decode"} at "" {
    g5.repeat() {symbol = "layer", count = 3, first = 2} at "b" {
      g5.program() {cores = 4, op_name = "layer.matmul"} at "mm" {
        g5.loop k < <TRIPS> at "mm" {
          g5.gdma {direction = "load", dram = <core*64 + k*4 + layer*1000>, lmem = <mod(k.seq, 2)*32>,
            shape = [<core + 1>, <4>], dram_strides = [<16>, <1>], lmem_strides = [<4>, <1>], element_type = i8}
            after [tiu-1] at "mm.load"
          g5.tiu {acc = #g5.lmem<64, pitch 4, f32>, a = #g5.lmem<mod(k.seq, 2)*32, pitch 4, f8E4M3FN>,
            b = #g5.lmem<128, pitch 4, f8E4M3FN>, m = <4>, n = <4>, k = <4>, accumulate = <k>, transpose_b = true}
            after [gdma-0] at "mm"
        }
      }
    }
  }
}
"""


def unroll(trips: str = "3", core: int = 0, layer: int = -1, full: bool = False) -> ModuleOp:
    context = Context()
    for dialect in (Builtin, Layer, tile.Tile, g5.G5):
        context.load_dialect(dialect)
    module = Parser(context, NEST.replace("TRIPS", trips)).parse_module()
    module.verify()
    UnrollCommandsPass(core, layer, full).apply(context, module)
    module.verify()
    assert str(Parser(context, str(module)).parse_module()) == str(module)
    return module


def queues(module: ModuleOp) -> dict[str, g5.QueueOp]:
    return {op.engine.data: op for op in module.walk() if isinstance(op, g5.QueueOp)}


def test_rows_are_what_the_loop_does() -> None:
    found = queues(unroll(core=1))
    assert list(found) == ["tiu", "gdma"]
    assert [p.data for p in found["gdma"].paths.data] == ["mm.load", "mm"]
    # id order | waits tiu gdma sdma hau vec | op | direction dram lmem | shape | dram strides | lmem strides | type
    assert found["gdma"].table.data.lines() == [
        "1 0 0 0 0 0 0 0 load 2064 0 1 1 2 4 0 0 16 1 0 0 4 1 i8; "
        "2 2 0 0 0 0 0 0 load 2068 32 1 1 2 4 0 0 16 1 0 0 4 1 i8; "
        "3 4 1 0 0 0 0 0 load 2072 0 1 1 2 4 0 0 16 1 0 0 4 1 i8"
    ]
    # .. | acc pitch type | a pitch type | b pitch type | m n k | accumulate transpose_b
    assert found["tiu"].table.data.lines() == [
        "1 1 0 1 0 0 0 1 64 4 f32 0 4 f8E4M3FN 128 4 f8E4M3FN 4 4 4 0 1; "
        "2 3 0 2 0 0 0 1 64 4 f32 32 4 f8E4M3FN 128 4 f8E4M3FN 4 4 4 1 1; "
        "3 5 0 3 0 0 0 1 64 4 f32 0 4 f8E4M3FN 128 4 f8E4M3FN 4 4 4 1 1"
    ]


def test_shared_reads_and_barriers_have_columns() -> None:
    context = make_context()
    text = NEST.replace("TRIPS", "2").replace("shape = [<core + 1>, <4>]", "shape = [<2>, <4>]")
    text = text.replace("element_type = i8}", "element_type = i8, serves = #tile.cores<floordiv(core, 2)*2, 2>}")
    text = text.replace('at "mm"\n        }\n', 'at "mm"\n          g5.barrier() at "mm"\n        }\n')
    module = Parser(context, text).parse_module()
    module.verify()
    UnrollCommandsPass(3, -1, True).apply(context, module)
    loads, products = (queues(module)[engine].table.data for engine in ("gdma", "tiu"))
    assert loads.ints("phase").tolist() == products.ints("phase").tolist() == [0, 1]
    assert [loads.ints(name).tolist() for name in ("serves_first", "serves", "serves_stride")] == [
        [2, 2],
        [2, 2],
        [1, 1],
    ]
    assert not {"phase", "serves"} & set(queues(unroll())["gdma"].table.data.schema.names)


def test_the_layer_moves_the_addresses() -> None:
    assert queues(unroll(core=1, layer=4))["gdma"].table.data.ints("dram").tolist() == [4064, 4068, 4072]


def test_long_tables_keep_their_ends_unless_asked() -> None:
    short, full = (queues(unroll("100", full=f))["gdma"].table.data for f in (False, True))
    assert short.count == full.count == 100
    assert short.digest == full.digest
    assert short.ints("id").tolist() == [1, 2, 3, 4, 97, 98, 99, 100]
    assert full.ints("id").tolist() == list(range(1, 101))


def test_all_commands_are_there_once_and_in_order() -> None:
    found = queues(unroll("50", full=True))
    orders = np.concatenate([q.table.data.ints("order") for q in found.values()])
    assert sorted(orders.tolist()) == list(range(100))
    for queue in found.values():
        table = queue.table.data
        assert table.ints("id").tolist() == list(range(1, 51))
        assert (np.diff(table.ints("order")) > 0).all()


@pytest.mark.parametrize(
    ("core", "layer", "message"),
    [
        (4, -1, "core 4 is outside 0..3 of 'mm'"),
        (0, 5, "layer 5 is outside 2..4 of the repeat at 'b'"),
    ],
)
def test_errors_are_one_line(core: int, layer: int, message: str) -> None:
    with pytest.raises(PassError) as error:
        unroll("3", core, layer)
    assert message in str(error.value)


def test_unrolling_twice_is_an_error() -> None:
    module = unroll()
    with pytest.raises(PassError, match="the program at 'mm' is unrolled already"):
        UnrollCommandsPass().apply(Context(), module)


# -- rings ------------------------------------------------------------------------------------------------------

RING = """
builtin.module {
  g5.stream() {sym_name = "step", phase = "prefill"} at "" {
    g5.repeat() {symbol = "cp.step", count = 7, first = 1} at "before.ring" {
      g5.program() {cores = 1, op_name = "layer.attention_step"} at "before" { BODY }
    }
    g5.repeat() {symbol = "layer", count = 3, first = 2} at "b" {
      g5.program() {cores = 1, op_name = "layer.matmul"} at "mm" { BODY }
      g5.repeat() {symbol = "cp.step", count = 7, first = 1} at "b.ring" {
        g5.program() {cores = 1, op_name = "layer.attention_step"} at "step" { BODY }
      }
    }
  }
}
"""


def ring_addresses(layer: int) -> dict[str, int]:
    """The DRAM address of the load of every program."""
    context = make_context()
    load = """g5.gdma {direction = "load", dram = <ADDRESS>, lmem = <0>, shape = [<1>, <4>],
      dram_strides = [<16>, <1>], lmem_strides = [<4>, <1>], element_type = i8} after [] at "load" """
    text = RING
    for address in ("cp.step*10", "layer*1000", "layer*1000 + cp.step*10"):
        text = text.replace("BODY", load.replace("ADDRESS", address), 1)
    module = Parser(context, text).parse_module()
    module.verify()
    UnrollCommandsPass(0, layer).apply(context, module)
    module.verify()
    queues = [op for op in module.walk() if isinstance(op, g5.QueueOp)]
    return {op.path.data: int(op.table.data.ints("dram")[0]) for op in queues}


@pytest.mark.parametrize(("layer", "number"), [(-1, 2), (2, 2), (4, 4)])
def test_the_layer_is_that_of_layers_and_of_a_ring_the_first_step(layer: int, number: int) -> None:
    """The steps are 1 to 7: layer 4 is one of them too, and layer 2 is the first of layers 2 to 4."""
    assert ring_addresses(layer) == {"before": 10, "mm": number * 1000, "step": number * 1000 + 10}


@pytest.mark.parametrize("layer", [0, 1, 5, 7])
def test_a_step_of_a_ring_is_no_layer(layer: int) -> None:
    """1, 5 and 7 are steps of the ring, which do not make up for the layer that is not there."""
    with pytest.raises(PassError) as error:
        ring_addresses(layer)
    assert str(error.value) == f"unroll-commands: layer {layer} is outside 2..4 of the repeat at 'b'"


def test_what_depends_on_the_rank_stays_an_expression_beside_the_rows() -> None:
    """Which keys a query may see, in every step of a compiled ring, is in the parameters; addresses are numbers."""
    config, source = load_model_config("llama-3.1-8b")
    small = shrink_deployment(load_deployment("llama-8b-prefill", {"cp": 4}))
    module = shrink_model(import_hf(config, source, "llama"), small, 3)
    module = compile_model(module, shrink_chip(load_chip("sg2262")), load_topology("p1-r1-b4-c32"), small, "commands")
    UnrollCommandsPass(layer=2).apply(make_context(), module)
    module.verify()
    (ring,) = (op for op in module.walk() if isinstance(op, g5.RepeatOp) and op.symbol.data == "cp.step")
    programs = [op for op in ring.walk() if isinstance(op, g5.ProgramOp)]
    assert [op.op_name.data for op in programs] == ["layer.attention_step", "copy", "copy"]
    assert all(any(isinstance(op, g5.QueueOp) for op in p.body.block.ops) for p in programs)
    vector = next(op for op in programs[0].walk() if isinstance(op, g5.QueueOp) and op.engine.data == "vec")
    positions = [str(kind.position.data) for kind in vector.kinds.data if isinstance(kind, SoftmaxStepAttr)]
    assert positions and all("cp.rank" in p and "cp.step" in p for p in positions)
