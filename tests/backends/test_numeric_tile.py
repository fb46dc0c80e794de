"""Tile programs of whole small models compute what the model does, and exactly what their commands do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.parser import Parser

from pmc.backends.numeric import command_memory
from pmc.backends.numeric.dist import mesh_of
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.model import run_model, seeded_model_environment
from pmc.backends.numeric.shards import Placed, local_arrays
from pmc.backends.numeric.streams import HOST_KINDS, run_stream
from pmc.backends.numeric.tile import run_tiles
from pmc.compiler.check import FP32
from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.context import make_context
from pmc.compiler.driver import set_target
from pmc.compiler.frontend import import_hf
from pmc.compiler.pipelines import build_pass, default_pipeline
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.dialects import g5, layer, tile
from pmc.dialects.dist import Axis, Mesh, MeshAttr, ShardingAttr
from pmc.dialects.levels import MESH
from pmc.passes.emit_g5 import EmitG5Pass


@pytest.mark.parametrize(
    ("name", "base", "options"),
    [
        ("llama-3.1-8b", "llama-8b-prefill", {}),
        ("llama-3.1-70b", "llama-70b-decode-tp8", {"tp": 4, "dp": 2}),
        ("deepseek-v3", "dsv3-decode-ep32", {"dp": 4, "ep": 4}),
        ("deepseek-v3", "dsv3-prefill-ep32", {"tp": 2, "dp": 2, "ep": 2, "moe_tp": 2}),
    ],
)
def test_tiles_and_commands_compute_the_model(name: str, base: str, options: dict[str, Any]) -> None:
    deployment = shrink_deployment(load_deployment(base, {**options, "quantization": FP32}))
    module = shrink_model(import_hf(load_model_config(name)[0], name, "m"), deployment, layers=2)
    bindings = {"batch": deployment.batch, "q_len": deployment.q_len, "kv_len": deployment.kv_len}
    environment = seeded_model_environment(module, bindings, 0)
    reference = run_model(module, environment)
    chip = shrink_chip(load_chip("sg2262"))
    set_target(module, chip, load_topology("p1-r1-b4-c32"), deployment)
    for spec in default_pipeline(deployment, "tile"):
        build_pass(spec).apply(make_context(), module)
    mesh = mesh_of(module)
    (program,) = (op for op in module.ops if isinstance(op, tile.ProgramOp))
    arrays = local_arrays(
        [_placed(op) for op in program.walk() if isinstance(op, tile.GlobalOp) and op.kind.data in HOST_KINDS],
        environment,
        mesh,
    )
    tiles = run_tiles(program, arrays, mesh)

    dp = mesh.axis("dp")
    (logits,) = tiles.outputs.values()
    last = reference.logits[deployment.q_len - 1 :: deployment.q_len]
    expected = last if deployment.phase == "prefill" else reference.logits
    for rank in range(mesh.ranks):
        # A rank has whole sequences, rounded up, and the logits of the whole vocabulary.
        rows = expected[dp.coordinate(rank) * logits.shape[1] :][: logits.shape[1]]
        np.testing.assert_allclose(logits[rank][: len(rows)], rows, rtol=1e-4, atol=1e-5)

    EmitG5Pass().apply(make_context(), module)
    (stream,) = (op for op in module.ops if isinstance(op, g5.StreamOp))
    commands = run_stream(stream, arrays, chip.commands.lmem.bytes_per_core, mesh)
    assert commands.commands == tiles.commands
    for found, wanted in ((commands.outputs, tiles.outputs), (commands.states, tiles.states)):
        assert found.keys() == wanted.keys()
        for path, values in found.items():
            np.testing.assert_array_equal(values, wanted[path], err_msg=path)


def _placed(op: tile.GlobalOp) -> Placed:
    assert isinstance(op.sharding, ShardingAttr)
    dims = tile.memref_type(op.result).dims
    return Placed(op.path.data, op.kind.data, dims, bool(op.layers.value.data), op.sharding.data)


# -- one kernel -------------------------------------------------------------------------------------------------


def copy(load: str, store: str = "sizes = [<4>, <8>]") -> tile.ProgramOp:
    text = f"""builtin.module {{ tile.program() {{sym_name = "s", phase = "decode"}} at "" {{
      %x = tile.global() {{kind = "input", layers = false}} at "x" : !tile.memref<[8, 8], f32>
      %y = tile.global() {{kind = "output", layers = false}} at "y" : !tile.memref<[8, 8], f32>
      tile.kernel() {{cores = 2, op_name = "copy"}} at "k" {{
        %a = tile.alloc() {{slots = 1}} at "k" : !tile.buffer<[4, 8], f32>
        tile.load(%x, %a) {{offsets = [<core*4>, <0>], {load}, row = <0>, column = <0>}} at "k"
        tile.store(%y, %a) {{offsets = [<core*4>, <0>], {store}, row = <0>, column = <0>}} at "k"
      }} }} }}"""
    context = Context()
    for dialect in (Builtin, layer.Layer, tile.Tile):
        context.load_dialect(dialect)
    module: ModuleOp = Parser(context, text).parse_module()
    (program,) = (op for op in module.ops if isinstance(op, tile.ProgramOp))
    return program


X: Array = np.arange(64.0).reshape(1, 8, 8)


def test_a_copy() -> None:
    np.testing.assert_array_equal(run_tiles(copy("sizes = [<4>, <8>]"), {"x": X}).outputs["y"], X)


def test_what_was_not_loaded_is_nan() -> None:
    y = run_tiles(copy("sizes = [<3>, <8>]"), {"x": X}).outputs["y"][0]
    assert np.isnan(y[[3, 7]]).all()
    np.testing.assert_array_equal(y[[0, 1, 2, 4, 5, 6]], X[0, [0, 1, 2, 4, 5, 6]])


@pytest.mark.parametrize(
    ("load", "store", "message"),
    [
        ("sizes = [<4>, <9>]", "sizes = [<4>, <8>]", r"tile.load at 'k': block \[4, 9\] at \[0, 0\] leaves"),
        ("sizes = [<5>, <8>]", "sizes = [<4>, <8>]", r"tile.load at 'k': \[5, 8\] at \[0, 0\] leaves the buffer"),
        ("sizes = [<4>, <8>]", "sizes = [<core*2 + 4>, <8>]", r"tile.store at 'k': block \[6, 8\] at \[4, 0\]"),
    ],
)
def test_blocks_outside_memory_are_named(load: str, store: str, message: str) -> None:
    with pytest.raises(NumericError, match=message):
        run_tiles(copy(load, store), {"x": X})


def test_more_memory_than_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by fuzzing: an array of 32 GiB ended in the traceback of a MemoryError."""
    monkeypatch.setattr(command_memory, "MAX_BYTES", 8 * 8 * 4 - 1)
    with pytest.raises(NumericError, match="x: the array takes 256 bytes, at most 255 are run"):
        run_tiles(copy("sizes = [<4>, <8>]"), {"x": X})


def test_more_ranks_than_are_run() -> None:
    """Found by fuzzing: all ranks of a mesh of 10^11 were listed before the first of them ran."""
    module = ModuleOp([], attributes={MESH: MeshAttr(Mesh(4097, (Axis("dp", 4097, 1),)))})
    with pytest.raises(NumericError, match=r"dist\.mesh has 4097 ranks, at most 4096 are run"):
        mesh_of(module)
