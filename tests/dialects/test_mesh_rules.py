"""Every rule of `mesh_rules`, with a program that keeps it and one that breaks it."""

from __future__ import annotations

import pytest

from pmc.compiler.driver import parse_module
from pmc.dialects.errors import PmcError

MESH = "#dist.mesh<8 ranks, tp = 2 stride 1, dp = 4 stride 2, cp = 2 stride 1, ep = 4 stride 2, moe_tp = 2 stride 1>"


def whole(dims: str, sharding: str, element: str = "f32") -> str:
    return f"!layer.tensor<[{dims}], {element}, #dist.sharding<{sharding}>>"


def local(dims: str, partial: str = "") -> str:
    return f"!layer.tensor<[{dims}], f32{f', #dist.partial<{partial}>' if partial else ''}>"


def verify(arguments: list[str], *body: str, mesh: str = f"attributes {{dist.mesh = {MESH}}}") -> None:
    """Parse and verify a program whose arguments are %0, %1, .."""
    entry = ", ".join(f"%{i} : {type_}" for i, type_ in enumerate(arguments))
    lines = "\n".join(body)
    parse_module(
        f'builtin.module {mesh} {{\nlayer.program() {{sym_name = "p", phase = "decode"}} at "" {{\n'
        f'^bb0({entry}):\n{lines}\nlayer.return([]) at ""\n}}\n}}',
        "m",
    )


def refuses(message: str, arguments: list[str], *body: str, mesh: str = f"attributes {{dist.mesh = {MESH}}}") -> None:
    """The program is refused in one line, `message`."""
    with pytest.raises(PmcError) as error:
        verify(arguments, *body, mesh=mesh)
    assert str(error.value) == f"m: {message}"


# -- axes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sharding", "message"),
    [
        ("[[dp], []]", ""),
        ("[[dp, tp], []]", ""),
        ("[[nonsense], []]", "names the axis 'nonsense', the mesh has tp, dp, cp, ep, moe_tp"),
        ("[[tp], [tp]]", "is split or summed twice along 'tp'"),
        ("[[], [tp]], partial [tp]", "is split or summed twice along 'tp'"),
        ("[[dp], [ep]]", "is split or summed along 'dp' and 'ep', which share ranks"),
        ("[[dp]]", "has 2 dims, its sharding 1"),
    ],
)
def test_a_sharding_fits_the_mesh_and_the_tensor(sharding: str, message: str) -> None:
    if message:
        refuses(f"layer.program at '': block argument 0 {message}", [whole("8, 8", sharding)])
    else:
        verify([whole("8, 8", sharding)])


def test_a_sharding_needs_a_mesh() -> None:
    verify([whole("8, 8", "[[], []]")], mesh="")
    refuses(
        "layer.program at '': block argument 0 names the axis 'tp', the mesh has none", [whole("8", "[[tp]]")], mesh=""
    )
    refuses("layer.program at '': the module attribute dist.mesh is 4 : i64, must be a #dist.mesh", [],
            mesh="attributes {dist.mesh = 4 : i64}")  # fmt: skip


def test_axes_of_a_mesh_have_names_of_their_own() -> None:
    with pytest.raises(PmcError, match=r"the mesh has two axes 'tp'"):
        verify([], mesh="attributes {dist.mesh = #dist.mesh<4 ranks, tp = 2 stride 1, tp = 2 stride 2>}")
    with pytest.raises(PmcError, match=r"axis tp of 8 x 1 leaves 4 ranks"):
        verify([], mesh="attributes {dist.mesh = #dist.mesh<4 ranks, tp = 8 stride 1>}")


def test_a_local_partial_sum_is_over_an_axis_of_the_mesh() -> None:
    verify([local("8, 8", "tp")])
    refuses("layer.program at '': block argument 0 names the axis 'xp', the mesh has tp, dp, cp, ep, moe_tp",
            [local("8, 8", "xp")])  # fmt: skip


# -- sharding rules ---------------------------------------------------------------------------------------------


def matmul(x: str, w: str, y: str, n: str = "6") -> tuple[list[str], str]:
    arguments = [whole("batch, 4", x), whole("4, 6", w)]
    return arguments, f'%y = layer.matmul(%0, %1) at "mm" : {whole(f"batch, {n}", y)}'


@pytest.mark.parametrize(
    ("shardings", "message"),
    [
        (("[[dp], []]", "[[], [tp]]", "[[dp], [tp]]"), ""),
        (("[[dp], [tp]]", "[[tp], []]", "[[dp], []], partial [tp]"), ""),
        (
            ("[[dp], [tp]]", "[[tp], []]", "[[dp], []]"),
            "result 0 is a partial sum over no axis, must be over tp",
        ),
        (
            ("[[dp], []]", "[[], []]", "[[dp], []], partial [tp]"),
            "result 0 is a partial sum over tp, must be over no axis",
        ),
        (
            ("[[dp], []]", "[[tp], []]", "[[dp], []], partial [tp]"),
            "dim 0 of operand 1 is split along tp, must be along no axis as the same dim of the other values",
        ),
        (
            ("[[dp], []]", "[[], [tp]]", "[[dp], []]"),
            "dim 1 of result 0 is split along no axis, must be along tp as the same dim of the other values",
        ),
        (
            ("[[dp], []]", "[[], []]", "[[tp], []]"),
            "dim 0 of result 0 is split along tp, must be along dp as the same dim of the other values",
        ),
    ],
)
def test_dims_of_one_factor_are_split_alike(shardings: tuple[str, str, str], message: str) -> None:
    arguments, op = matmul(*shardings)
    if message:
        refuses(f"layer.matmul at 'mm': {message}", arguments, op)
    else:
        verify(arguments, op)


def test_all_values_of_an_op_are_sharded_or_none() -> None:
    op = f'%y = layer.add(%0, %1) at "a" : {whole("8, 8", "[[dp], []]")}'
    refuses(
        "layer.add at 'a': operand 1 has no sharding, others have", [whole("8, 8", "[[dp], []]"), local("8, 8")], op
    )


def test_shapes_of_whole_tensors_follow_the_op() -> None:
    arguments, op = matmul("[[dp], []]", "[[], [tp]]", "[[dp], [tp]]", n="999")
    refuses("layer.matmul at 'mm': y is [batch, 999], must be [batch, 6]", arguments, op)
    rows = whole("8, 8", "[[dp], []]")
    refuses(
        "layer.add at 'a': y is [7], must be [8, 8]", [rows], f'%y = layer.add(%0, %0) at "a" : {whole("7", "[[]]")}'
    )


def test_a_normalised_row_is_whole() -> None:
    def norm(row: str) -> tuple[list[str], str]:
        x = whole("8, 4", f"[[dp], [{row}]]")
        return [x, whole("4", "[[]]")], f'%y = layer.rms_norm(%0, %1) {{eps = 0.1, group = 4}} at "n" : {x}'

    verify(*norm(""))
    refuses("layer.rms_norm at 'n': dim 1 of operand 0 is split along tp, must be whole", *norm("tp"))


ATTENTION = '{{qk_dims = [4], v_dim = 4, q_len = <q_len>, scale = 1.0, causal = true}} at "att" : {}'


def attention(rows: str, sequences: str, heads: str, key_heads: str, keys: int = 2) -> tuple[list[str], str]:
    q = whole("batch*q_len, 16", f"[[{rows}], [{heads}]]")
    k = whole(f"batch, kv_len, {4 * keys}", f"[{sequences}, [{key_heads}]]")
    return [q, k], f"%y = layer.attention([%0], [%1], %1) {ATTENTION.format(q)}"


KV = ", tp_kv = 2 stride 2, tp4 = 4 stride 1"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (("dp", "[dp], []", "tp", "tp"), ""),
        (("dp, cp", "[dp], [cp]", "", ""), ""),
        (("", "[], []", "tp4", "tp_kv"), ""),
        (("", "[], []", "tp4", "", 1), ""),  # one key head serves all
        (("tp", "[tp], []", "", ""), "dim 0 of operand 0 is split along tp, rows of sequences: dp, then cp"),
        (("cp, dp", "[dp], [cp]", "", ""), "dim 0 of operand 0 is split along cp, dp, rows of sequences: dp, then cp"),
        (("", "[tp], []", "", ""), "dim 0 of operand 1 is split along tp, may only be along dp"),
        (("", "[], [dp]", "", ""), "dim 1 of operand 1 is split along dp, may only be along cp"),
        (
            ("dp", "[], []", "", ""),
            "dim 0 of operand 1 is split along no axis, must be along dp as the same dim of the other values",
        ),
        (
            ("", "[], []", "tp", ""),
            "2 key heads are split along no axis, 4 query heads along tp: a rank lacks key heads of its queries",
        ),
        (
            ("", "[], []", "", "tp"),
            "2 key heads are split along tp, 4 query heads along no axis: a rank lacks key heads of its queries",
        ),
        (
            ("", "[], []", "tp4", "tp"),
            "2 key heads are split along tp, 4 query heads along tp4: a rank lacks key heads of its queries",
        ),
    ],
)
def test_attention_on_ranks(case: tuple[str, str, str, str], message: str) -> None:
    mesh = f"attributes {{dist.mesh = {MESH.replace('>', KV + '>').replace('cp = 2 stride 1', 'cp = 2 stride 1')}}}"
    arguments, op = attention(*case)
    if message:
        refuses(f"layer.attention at 'att': {message}", arguments, op, mesh=mesh)
    else:
        verify(arguments, op, mesh=mesh)


def test_the_keys_of_a_window_are_whole() -> None:
    arguments, op = attention("dp, cp", "[dp], [cp]", "", "")
    op = op.replace("causal = true", "causal = true, window = 3")
    message = "its keys are split along cp, the keys of a window must be whole on every rank"
    mesh = f"attributes {{dist.mesh = {MESH.replace('>', KV + '>')}}}"
    refuses(f"layer.attention at 'att': {message}", arguments, op, mesh=mesh)


def test_eight_heads_cannot_be_split_three_ways() -> None:
    mesh = "attributes {dist.mesh = #dist.mesh<3 ranks, tp = 3 stride 1>}"
    refuses("layer.attention at 'att': 4 heads cannot be split 3 ways", *attention("", "[], []", "tp", "tp"), mesh=mesh)


@pytest.mark.parametrize(
    ("tokens", "experts", "good"),
    [
        ("dp", "[ep], []", True),
        ("dp, tp", "[ep], [moe_tp]", True),
        ("dp", "[ep], [moe_tp]", False),
        ("", "[ep], []", False),
    ],
)
def test_tokens_and_experts_are_split_over_the_same_ranks(tokens: str, experts: str, good: bool) -> None:
    rows, slots = whole("8, 4", f"[[{tokens}], []]"), whole("4, 8, 4", f"[{experts}, []]")
    indices = whole("8, 2", f"[[{tokens}], []]", "i32")
    weights = whole("8, 2", f"[[{tokens}], []]")
    dispatch = f'%d = layer.dispatch(%0, %1) {{capacity = "worst"}} at "d" : {slots}'
    combine = f'%c = layer.combine(%d, %1, %2) at "c" : {rows}'
    sent = dispatch.replace("layer.dispatch(%0, %1) {", 'dist.dispatch(%0, %1) {axis = "ep", ')
    back = combine.replace("layer.combine(%d, %1, %2)", 'dist.combine(%d, %1, %2) {axis = "ep"}')
    for op in ((dispatch, combine), (sent, back)):
        if good:
            verify([rows, indices, weights], *op)
        else:
            with pytest.raises(PmcError, match=r"\.dispatch at 'd': tokens are split along .*: not the same ranks$"):
                verify([rows, indices, weights], *op)


# -- collectives ------------------------------------------------------------------------------------------------

A, B = "[[dp], []]", "[[dp, tp], []]"


@pytest.mark.parametrize(
    ("op", "before", "after", "message"),
    [
        ('all_reduce(%0) {axis = "tp"}', f"{A}, partial [tp]", A, ""),
        ('all_reduce(%0) {axis = "tp"}', A, A, "the operand is no partial sum over 'tp'"),
        (
            'all_reduce(%0) {axis = "tp"}',
            f"{A}, partial [tp]",
            f"{A}, partial [tp]",
            f"the result has #dist.sharding<{A}, partial [tp]>, must have #dist.sharding<{A}>",
        ),
        ('all_reduce(%0) {axis = "xp"}', A, A, "the mesh has no axis 'xp', it has tp, dp, cp, ep, moe_tp"),
        ('all_gather(%0) {axis = "tp", dim = 0}', B, A, ""),
        (
            'all_gather(%0) {axis = "dp", dim = 0}',
            B,
            "[[tp], []]",
            "dim 0 of the operand is split along dp, tp, must end in dp",
        ),
        ('all_gather(%0) {axis = "tp", dim = 2}', B, A, "dim 2 of a tensor with 2 dims"),
        # Found by fuzzing: 2**63 is read as a negative number.
        (f'all_gather(%0) {{axis = "tp", dim = {2**63}}}', B, A, f"dim {-(2**63)} of a tensor with 2 dims"),
        ('reduce_scatter(%0) {axis = "tp", dim = 0}', f"{A}, partial [tp]", B, ""),
        ('reduce_scatter(%0) {axis = "tp", dim = 0}', A, B, "the operand is no partial sum over 'tp'"),
        (
            'reduce_scatter(%0) {axis = "tp", dim = 1}',
            f"{A}, partial [tp]",
            B,
            f"the result has #dist.sharding<{B}>, must have #dist.sharding<[[dp], [tp]]>",
        ),
        ('local_slice(%0) {axis = "tp", dim = 0}', A, B, ""),
        (
            'local_slice(%0) {axis = "tp", dim = 0}',
            A,
            A,
            f"the result has #dist.sharding<{A}>, must have #dist.sharding<{B}>",
        ),
        ('ring_exchange(%0) {axis = "cp"}', A, A, ""),
        (
            'ring_exchange(%0) {axis = "cp"}',
            A,
            B,
            f"the result has #dist.sharding<{B}>, must have #dist.sharding<{A}>",
        ),
    ],
)
def test_collectives_on_whole_tensors(op: str, before: str, after: str, message: str) -> None:
    line = f'%y = dist.{op} at "c" : {whole("8, 8", after)}'
    if message:
        refuses(f"dist.{op.partition('(')[0]} at 'c': {message}", [whole("8, 8", before)], line)
    else:
        verify([whole("8, 8", before)], line)


def test_a_collective_keeps_the_whole_tensor() -> None:
    line = f'%y = dist.ring_exchange(%0) {{axis = "cp"}} at "c" : {whole("8, 9", A)}'
    refuses(
        "dist.ring_exchange at 'c': the result is !layer.tensor<[8, 9], f32>, must be !layer.tensor<[8, 8], f32>: "
        "only the sharding changes",
        [whole("8, 8", A)],
        line,
    )


@pytest.mark.parametrize(
    ("op", "before", "after", "message"),
    [
        ('all_reduce(%0) {axis = "tp"}', local("8, 8", "tp"), local("8, 8"), ""),
        ('all_reduce(%0) {axis = "tp"}', local("8, 8"), local("8, 8"), "the operand is no partial sum over 'tp'"),
        (
            'all_reduce(%0) {axis = "tp"}',
            local("8, 8", "tp"),
            local("8, 4"),
            "dim 1 is 8 in the operand and 4 in the result",
        ),
        (
            'all_reduce(%0) {axis = "tp"}',
            local("8, 8", "tp"),
            local("8, 8", "tp"),
            "the result is a partial sum over tp, not over no axis",
        ),
        ('all_gather(%0) {axis = "tp", dim = 1}', local("8, 4"), local("8, 7"), ""),  # the last shard is padded
        (
            'all_gather(%0) {axis = "tp", dim = 1}',
            local("8, 4"),
            local("8, 6"),
            "dim 1 is 4 in the operand and 6 in the result, one of 2 parts of the other",
        ),
        ('reduce_scatter(%0) {axis = "ep", dim = 0}', local("9, 8", "ep"), local("3, 8"), ""),
        (
            'reduce_scatter(%0) {axis = "ep", dim = 0}',
            local("9, 8", "ep"),
            local("2, 8"),
            "dim 0 is 9 in the operand and 2 in the result, one of 4 parts of the other",
        ),
        ('local_slice(%0) {axis = "dp", dim = 0}', local("batch*q_len, 8"), local("ceildiv(batch, 4)*q_len, 8"), ""),
        (
            'local_slice(%0) {axis = "tp", dim = 0}',
            local("batch*q_len, 8"),
            local("ceildiv(batch, 4)*q_len, 8"),
            "dim 0 is batch*q_len in the operand and ceildiv(batch, 4)*q_len in the result, "
            "one of 2 parts of the other",
        ),
        ('local_slice(%0) {axis = "dp", dim = 0}', local("10, 8"), local("6, 8"), ""),  # 5 sequences of 2 rows, over 4
        (
            'local_slice(%0) {axis = "dp", dim = 0}',
            local("10, 8"),
            local("2, 8"),
            "dim 0 is 10 in the operand and 2 in the result, one of 4 parts of the other",
        ),
        (
            'ring_exchange(%0) {axis = "cp"}',
            local("8, 8"),
            local("4, 8"),
            "dim 0 is 8 in the operand and 4 in the result",
        ),
        (
            'ring_exchange(%0) {axis = "cp"}',
            local("8, 8"),
            "!layer.tensor<[8, 8], bf16>",
            "the elements of the result are bf16, must be f32",
        ),
        ('local_slice(%0) {axis = "tp", dim = 2}', local("8, 8"), local("8, 8"), "dim 2 of tensors with 2 and 2 dims"),
    ],
)
def test_collectives_on_the_shapes_of_a_rank(op: str, before: str, after: str, message: str) -> None:
    line = f'%y = dist.{op} at "c" : {after}'
    if message:
        refuses(f"dist.{op.partition('(')[0]} at 'c': {message}", [before], line)
    else:
        verify([before], line)


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ("2, 32, 4", ""),
        ("2, 31, 4", "y has 31 slots, must have 32 for the worst case"),
        ("2, 32, 5", "x is [8, 4] and y [2, 32, 5], must be [T, H] and [E, C, H] with indices [T, k]"),
    ],
)
def test_dispatch_on_the_shapes_of_a_rank(slots: str, message: str) -> None:
    arguments = [local("8, 4"), "!layer.tensor<[8, 2], i32>"]
    line = f'%y = dist.dispatch(%0, %1) {{axis = "ep", capacity = "worst"}} at "d" : {local(slots)}'
    if message:
        refuses(f"dist.dispatch at 'd': {message}", arguments, line)
    else:
        verify(arguments, line)


@pytest.mark.parametrize(
    ("op", "first", "rest"),
    [("dispatch", local("8, 4"), ()), ("combine", local("2, 32, 4"), (local("8, 2"),))],
)
def test_experts_are_chosen_by_whole_numbers(op: str, first: str, rest: tuple[str, ...]) -> None:
    more, after = (', capacity = "worst"', local("2, 32, 4")) if op == "dispatch" else ("", local("8, 4"))
    values = ", ".join(f"%{i}" for i in range(2 + len(rest)))
    line = f'%y = dist.{op}({values}) {{axis = "ep"{more}}} at "d" : {after}'
    refuses(f"dist.{op} at 'd': indices are f32, must be integers", [first, local("8, 2"), *rest], line)


@pytest.mark.parametrize(
    ("experts", "rows", "message"),
    [
        (local("2, 32, 4", "tp"), local("8, 4", "tp"), ""),
        (local("2, 32, 4", "tp"), local("8, 4"), "the result must be the partial sum that the rows of the experts are"),
        (
            local("2, 32, 4"),
            local("8, 5"),
            "x is [2, 32, 4] and y [8, 5], must be [E, C, H] and [T, H] with weights [T, k]",
        ),
    ],
)
def test_combine_on_the_shapes_of_a_rank(experts: str, rows: str, message: str) -> None:
    arguments = [experts, "!layer.tensor<[8, 2], i32>", local("8, 2")]
    line = f'%y = dist.combine(%0, %1, %2) {{axis = "ep"}} at "d" : {rows}'
    if message:
        refuses(f"dist.combine at 'd': {message}", arguments, line)
    else:
        verify(arguments, line)


# -- what a local program keeps of the whole --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("dist.sharding = #dist.sharding<[[], [tp]]>", ""),
        (
            "dist.sharding = #dist.sharding<[[], [xp]]>",
            "dist.sharding names the axis 'xp', the mesh has tp, dp, cp, ep, moe_tp",
        ),
        ("dist.sharding = #dist.sharding<[[tp]]>", "dist.sharding has 2 dims, its sharding 1"),
        ('dist.sharding = "tp"', 'dist.sharding holds "tp", must be a sharding'),
    ],
)
def test_the_sharding_of_a_local_weight(attributes: str, message: str) -> None:
    line = f'%w = layer.weight() {{axes = ["", ""]}} at "w" attributes {{{attributes}}} : {local("4, 4")}'
    if message:
        refuses(f"layer.weight at 'w': {message}", [], line)
    else:
        verify([], line)


def test_arguments_and_results_of_a_local_program() -> None:
    def program(arguments: str, results: str) -> None:
        parse_module(
            f"builtin.module attributes {{dist.mesh = {MESH}}} {{\n"
            f'layer.program() {{sym_name = "p", phase = "decode"}} at "" '
            f"attributes {{dist.arguments = {arguments}}} {{\n"
            f'^bb0(%0 : {local("4")}):\nlayer.return([%0]) at "r" attributes {{dist.results = {results}}}\n}}\n}}',
            "m",
        )

    good = "[#dist.sharding<[[dp]]>]", f"[{whole('16', '[[dp]]')}]"
    program(*good)
    for arguments, results, message in (
        ("[]", good[1], "layer.program at '': dist.arguments has 0 entries for 1 values"),
        ("4 : i64", good[1], "layer.program at '': dist.arguments is 4 : i64, must be a list"),
        ("[#dist.sharding<[[xp]]>]", good[1], "layer.program at '': dist.arguments names the axis 'xp', .*"),
        (good[0], "[f32]", "layer.return at 'r': dist.results holds f32, must be a type with a sharding"),
        (good[0], f"[{whole('4, 4', '[[dp], []]')}]", "layer.return at 'r': dist.results has 1 dims, its sharding 2"),
    ):
        with pytest.raises(PmcError, match=f"^m: {message.replace('[', '.')}$"):
            program(arguments, results)


def test_the_vocabulary_is_split_along_an_axis_of_the_mesh() -> None:
    arguments = ["!layer.tensor<[4], i32>", local("8, 4")]
    line = f'%y = layer.embedding(%0, %1) {{vocab_axis = "xp"}} at "e" : {local("4, 4", "tp")}'
    refuses(
        "layer.embedding at 'e': 'vocab_axis' names the axis 'xp', the mesh has tp, dp, cp, ep, moe_tp", arguments, line
    )


# -- stages -----------------------------------------------------------------------------------------------------


def stages(*bodies: str, numbers: tuple[int, ...] = (0, 1)) -> None:
    text = "\n".join(
        f'dist.stage() {{index = {n}}} at "" {{\n{body}\n}}' for n, body in zip(numbers, bodies, strict=True)
    )
    parse_module(
        "builtin.module attributes {dist.mesh = #dist.mesh<2 ranks, pp = 2 stride 1>} {\n"
        f'layer.program() {{sym_name = "p", phase = "decode"}} at "" {{\n^bb0(%0 : {local("4")}):\n{text}\n}}\n}}',
        "m",
    )


SEND = 'dist.send(%0) {peer = 1, channel = 0} at "s"'
RECV = f'%r = dist.recv() {{peer = 0, channel = 0}} at "r" : {local("4")}'
NOTHING = f'%n = layer.add(%0, %0) at "n" : {local("4")}'
RETURN = 'layer.return([]) at ""'


@pytest.mark.parametrize(
    ("send", "recv", "message"),
    [
        (SEND, NOTHING, "dist.send at 's': channel 0 has no recv"),
        (NOTHING, RECV, "dist.recv at 'r': channel 0 has no send"),
        (f"{SEND}\n{SEND}", RECV, "dist.send at 's': channel 0 is used twice"),
        (
            SEND.replace("peer = 1", "peer = 2"),
            RECV,
            "dist.send at 's': channel 0 leads from stage 0 to 2, is received in stage 1 from 0",
        ),
        (
            SEND,
            RECV.replace("[4]", "[5]"),
            "dist.send at 's': channel 0 sends !layer.tensor<[4], f32>, the other end receives !layer.tensor<[5], f32>",
        ),
    ],
)
def test_a_send_has_its_recv(send: str, recv: str, message: str) -> None:
    stages(SEND, f"{RECV}\n{RETURN}")
    with pytest.raises(PmcError) as error:
        stages(send, f"{recv}\n{RETURN}")
    assert str(error.value) == f"m: {message}"


def test_stages_are_numbered_from_zero() -> None:
    with pytest.raises(PmcError, match=r"^m: dist.stage at '': there are two stages 0$"):
        stages(NOTHING, RETURN, numbers=(0, 0))
    with pytest.raises(PmcError, match=r"^m: dist.stage at '': the stages are \[0, 2\], must be numbered from 0$"):
        stages(NOTHING, RETURN, numbers=(0, 2))
