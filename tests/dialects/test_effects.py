"""xDSL's own clean-up passes keep what writes to memory and what other ranks wait for, and remove the rest."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.transforms.canonicalize import CanonicalizePass
from xdsl.transforms.common_subexpression_elimination import CommonSubexpressionElimination
from xdsl.transforms.dead_code_elimination import DeadCodeElimination

from pmc.compiler.context import make_context
from pmc.compiler.driver import parse_module

CACHE = "!layer.tensor<[2, 8, 4], f32>"
ROWS = "!layer.tensor<[2, 4], f32>"
CLEANUPS = {"dce": DeadCodeElimination, "cse": CommonSubexpressionElimination, "canonicalize": CanonicalizePass}


def program(body: str) -> ModuleOp:
    text = f"""
builtin.module attributes {{dist.mesh = #dist.mesh<4 ranks, tp = 2 stride 1, pp = 2 stride 2>}} {{
  layer.program() {{sym_name = "p", phase = "decode"}} at "" {{
  ^bb0(%x : {ROWS}):
    {body}
    layer.return([%x]) at ""
  }}
}}"""
    return parse_module(text, "test")


def names(module: ModuleOp, cleanup: str) -> list[str]:
    """The ops of the program after a pass, by name without dialect."""
    CLEANUPS[cleanup]().apply(make_context(), module)
    module.verify()
    return [op.name.partition(".")[2] for op in module.walk()][2:-1]


STATE = f'%c = layer.state() {{axes = ["", "", ""]}} at "cache" : {CACHE}'
APPEND = f'%d = layer.kv_append(%c, %x) at "append" : {CACHE}'


@pytest.mark.parametrize("cleanup", CLEANUPS)
def test_an_append_that_nobody_reads_stays(cleanup: str) -> None:
    assert names(program(f"{STATE}\n{APPEND}"), cleanup) == ["state", "kv_append"]


@pytest.mark.parametrize("cleanup", CLEANUPS)
def test_two_equal_appends_stay_two(cleanup: str) -> None:
    again = APPEND.replace("%d", "%e")
    assert names(program(f"{STATE}\n{APPEND}\n{again}"), cleanup) == ["state", "kv_append", "kv_append"]


def test_a_cache_read_after_an_append_is_not_the_one_read_before() -> None:
    after = STATE.replace("%c", "%e") + "\n" + APPEND.replace("%d", "%f").replace("%c", "%e")
    assert names(program(f"{STATE}\n{APPEND}\n{after}"), "cse") == ["state", "kv_append", "state", "kv_append"]
    twice = STATE.replace("%c", "%e") + "\n" + APPEND.replace("%d", "%f").replace("%c", "%e")
    assert names(program(f"{STATE}\n{twice}\n{APPEND}"), "cse") == ["state", "kv_append", "kv_append"]


@pytest.mark.parametrize("cleanup", CLEANUPS)
@pytest.mark.parametrize(
    "op",
    [
        f'dist.all_reduce(%p) {{axis = "tp"}} at "" : {ROWS}',
        f'dist.all_gather(%x) {{axis = "tp", dim = 1}} at "" : {ROWS.replace("4]", "8]")}',
        f'dist.reduce_scatter(%p) {{axis = "tp", dim = 1}} at "" : {ROWS.replace("4]", "2]")}',
        f'dist.ring_exchange(%x) {{axis = "tp"}} at "" : {ROWS}',
        f'dist.recv() {{peer = 1, channel = 0}} at "" : {ROWS}',
    ],
)
def test_ranks_wait_for_each_other_in_every_communication(op: str, cleanup: str) -> None:
    partial = ROWS.replace("f32>", "f32, #dist.partial<tp>>")
    weight = '%w = layer.weight() {axes = ["", ""]} at "w" : !layer.tensor<[4, 4], f32>'
    source = f'{weight}\n%p = layer.matmul(%x, %w) at "m" : {partial}'
    kind = op.partition("(")[0].partition(".")[2]
    module = program(f"{source}\n%a = {op}\n%b = {op}")
    assert [n for n in names(module, cleanup) if n == kind] == [kind, kind]


def test_a_send_stays() -> None:
    assert names(program('dist.send(%x) {peer = 1, channel = 0} at ""'), "dce") == ["send"]


def test_what_nobody_uses_goes() -> None:
    add = f'%a = layer.add(%x, %x) at "a" : {ROWS}'
    part = f'%s = dist.local_slice(%x) {{axis = "tp", dim = 1}} at "" : {ROWS.replace("4]", "2]")}'
    assert names(program(f"{STATE}\n{add}\n{part}"), "dce") == []


def test_a_repeat_goes_only_when_nothing_in_it_writes() -> None:
    def repeat(body: str) -> ModuleOp:
        return program(
            f'%r = layer.repeat 2 from 0 of 2 (%h = %x) at "r" : {ROWS} {{\n{body}\n'
            f'%y = layer.add(%h, %h) at "a" : {ROWS}\nlayer.yield([%y]) at "r"\n}}'
        )

    assert names(repeat(""), "dce") == []
    kept = names(repeat(f"{STATE}\n{APPEND}"), "dce")
    assert kept == ["repeat", "state", "kv_append", "add", "yield"]


@pytest.mark.parametrize("cleanup", CLEANUPS)
def test_blocks_with_caches_stay_in_a_model(cleanup: str) -> None:
    text = """
model.llm() {sym_name = "m", architecture = "A", hidden_size = 8, vocab_size = 4, dtype = f32} at "" {
^bb0(%t : !layer.tensor<[batch*q_len], i32>):
  %e = model.embedding(%t) {vocab_size = 4} at "embed" : !layer.tensor<[batch*q_len, 8], f32>
  %a = model.gqa(%e) {num_attention_heads = 2, rope_theta = 10000.0, num_key_value_heads = 1,
    head_dim = 4} at "attn" : !layer.tensor<[batch*q_len, 8], f32>
  model.yield([%e]) at ""
}"""
    module = parse_module(text, "test")
    CLEANUPS[cleanup]().apply(make_context(), module)
    assert "model.gqa" in [op.name for op in module.walk()]
