"""The pass combine-collectives: what becomes one, what moves, and what must not."""

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.context import make_context
from pmc.compiler.driver import parse_module
from pmc.dialects import dist
from pmc.dialects.errors import PmcError
from pmc.passes.combine_collectives import CombineCollectivesPass

HEAD = "builtin.module attributes {dist.mesh = #dist.mesh<4 ranks, tp = 2 stride 1, dp = 2 stride 2>} {\n"
PROGRAM = '  layer.program() {sym_name = "m", phase = "decode"} at "m" {\n'
ROWS = "!layer.tensor<[8, 16], bf16>"
SUM = "!layer.tensor<[8, 16], bf16, #dist.partial<tp>>"


def combined(body: str, arguments: str) -> ModuleOp:
    module = parse_module(f"{HEAD}{PROGRAM}  ^bb0({arguments}):\n{body}\n  }}\n}}\n", "test.mlir")
    CombineCollectivesPass().apply(make_context(), module)
    module.verify()
    return module


def ops(module: ModuleOp) -> list[str]:
    """Every op of the program with the number of its results, in order."""
    (program,) = module.ops
    return [f"{op.name} {len(op.results)}" for op in program.regions[0].block.ops]


def test_three_become_one() -> None:
    body = "\n".join(
        f'%y{i} = dist.all_reduce(%x{i}) {{axis = "tp"}} at "b.{i}" : {ROWS}\n'
        f'%z{i} = layer.add(%y{i}, %y{i}) at "b.add" : {ROWS}'
        for i in range(3)
    )
    module = combined(body + '\nlayer.return([%z0, %z1, %z2]) at "m"', ", ".join(f"%x{i}: {SUM}" for i in range(3)))
    assert ops(module) == ["dist.collective_group 3", *["layer.add 1"] * 3, "layer.return 0"]


@pytest.mark.parametrize(
    "second",
    [
        f'dist.all_gather(%x) {{axis = "dp", dim = 0}} at "b" : {ROWS}',
        f'dist.all_gather(%x) {{axis = "tp", dim = 1}} at "b" : {ROWS.replace("[8, 16]", "[4, 32]")}',
        f'dist.ring_exchange(%x) {{axis = "tp"}} at "b" : {ROWS.replace("8", "4")}',
        f'dist.all_gather(%y) {{axis = "tp", dim = 0}} at "b" : {ROWS.replace("8", "16")}',
    ],
    ids=["another axis", "another dim", "another kind", "needs the first"],
)
def test_left_alone(second: str) -> None:
    first = f'%y = dist.all_gather(%x) {{axis = "tp", dim = 0}} at "b" : {ROWS}'
    module = combined(f'{first}\n%z = {second}\nlayer.return([%y, %z]) at "m"', f"%x: {ROWS.replace('8', '4')}")
    assert not [op for op in module.walk() if isinstance(op, dist.CollectiveGroupOp)]


def test_sums_of_other_element_types_stay_apart() -> None:
    other = SUM.replace("bf16", "f32")
    body = f'%y = dist.all_reduce(%x) {{axis = "tp"}} at "b" : {ROWS}\n'
    body += f'%z = dist.all_reduce(%w) {{axis = "tp"}} at "b" : {ROWS.replace("bf16", "f32")}\n'
    module = combined(body + 'layer.return([%y, %z]) at "m"', f"%x: {SUM}, %w: {other}")
    assert ops(module) == ["dist.all_reduce 1", "dist.all_reduce 1", "layer.return 0"]


def test_groups_that_wait_for_each_other() -> None:
    """The second gather needs the first sum, the second sum the first gather: both groups would be a cycle."""
    half = ROWS.replace("[8,", "[4,")
    body = f"""
    %g1 = dist.all_gather(%x) {{axis = "tp", dim = 0}} at "g1" : {ROWS}
    %r1 = dist.all_reduce(%p) {{axis = "tp"}} at "r1" : {half}
    %m = layer.matmul(%g1, %w) at "m" : {SUM}
    %r2 = dist.all_reduce(%m) {{axis = "tp"}} at "r2" : {ROWS}
    %g2 = dist.all_gather(%r1) {{axis = "tp", dim = 0}} at "g2" : {ROWS}
    layer.return([%r2, %g2]) at "m" """
    weight = "!layer.tensor<[16, 16], bf16>"
    module = combined(body, f"%x: {half}, %p: {SUM.replace('[8,', '[4,')}, %w: {weight}")
    assert ops(module) == [
        "dist.all_gather 1",
        "layer.matmul 1",
        "dist.collective_group 2",
        "dist.all_gather 1",
        "layer.return 0",
    ]


def test_a_cache_is_not_read_before_it_is_written() -> None:
    """The append that needs the first gather would move behind another use of the same cache."""
    cache = "!layer.tensor<[4, 8, 16], bf16>"
    state = f'layer.state() {{axes = ["batch", "position", ""], role = "latent"}} at "cache" : {cache}'
    half = "!layer.tensor<[2, 16], bf16>"
    rows = "!layer.tensor<[4, 16], bf16>"
    body = f"""
    %c = {state}
    %y = dist.all_gather(%x) {{axis = "tp", dim = 0}} at "k" : {rows}
    %a = layer.kv_append(%c, %y) at "append" : {cache}
    %d = {state}
    %z = dist.all_gather(%w) {{axis = "tp", dim = 0}} at "q" : {rows}
    layer.return([%a, %d, %z]) at "m" """
    module = combined(body, f"%x: {half}, %w: {half}")
    assert "dist.collective_group 2" not in ops(module)
    free = combined(body.replace(f"%d = {state}\n", "").replace("%d, ", ""), f"%x: {half}, %w: {half}")
    assert ops(free) == ["layer.state 1", "dist.collective_group 2", "layer.kv_append 1", "layer.return 0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#dist.dispatch<tp>", "#dist.dispatch<tp> does not carry several values"),
        ("#dist.all_gather<tp, dim = 1>", "dim 0 is 4 in the operand and 8 in the result"),
        ("#dist.all_reduce<tp>", "the operand is no partial sum over 'tp'"),
    ],
)
def test_verified(text: str, message: str) -> None:
    half = ROWS.replace("[8,", "[4,")
    op = f'%y, %z = dist.collective_group([%x, %x]) {{collective = {text}}} at "b" : {ROWS}, {ROWS}'
    with pytest.raises(PmcError, match=message.replace("[", r"\[")):
        parse_module(
            f'{HEAD}{PROGRAM}  ^bb0(%x: {half}):\n{op}\nlayer.return([%y, %z]) at "m"\n  }}\n}}\n', "test.mlir"
        )
