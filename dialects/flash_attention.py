"""What attention over all keys and attention over one block of them share."""

from __future__ import annotations

from xdsl.dialects.builtin import AnyFloat, ArrayAttr, BoolAttr, FloatAttr, IntegerAttr, IntegerType
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import operand_def, opt_prop_def, prop_def, var_operand_def

from pmc.dialects.expr import Expr, ExprAttr, expr, max_of, min_of
from pmc.dialects.interfaces import POSITIONS, ROWS, SEQUENCES, WHOLE
from pmc.dialects.layer_op import HEAD, MatrixOp
from pmc.dialects.matrix_types import widens_to
from pmc.dialects.tensor import TensorType, TypeMismatchError, element_name, tensor


class FlashAttentionOp(MatrixOp):
    """Attention of queries over blocks of keys.

    Scores are a sum over pieces: piece i has q_i [T, heads*d_i] and k_i [batch, kv_len, kv_heads_i*d_i] with
    d_i = `qk_dims[i]`; kv_heads_i divides heads.  GQA has one piece.  MLA has two: the latent (or the expanded
    nope part) and the rotary part, whose one key head all query heads share.  v [batch, kv_len, kv_heads*v_dim] may
    be the same value as a k piece, as in absorbed MLA: it is then read once.  The weights are a softmax of scale *
    scores over the keys that a query may see; causal: keys up to kv_len - q_len + i for query i.

    With a `window` a query sees only the last `window` of these, its own included: the keys j with
    kv_len - q_len + i - window < j (`sliding_window_overlay` of transformers).  The rows of k and v may then be fewer
    than there are positions: min(kv_len, window + q_len - 1) of them are seen by any query, and `kv_len` here is the
    number of rows, of which the newest are the last.

    `sinks` [heads] of an op that has them is one more logit of every head: exp(sink) is added to the sum of the softmax
    and has no value (Xiao et al., Efficient Streaming Language Models with Attention Sinks, 2023; gpt-oss).
    """

    q = var_operand_def(TensorType)
    k = var_operand_def(TensorType)
    v = operand_def(TensorType)
    qk_dims = prop_def(ArrayAttr[IntegerAttr])
    v_dim = prop_def(IntegerAttr)
    q_len = prop_def(ExprAttr)
    scale = prop_def(FloatAttr)
    causal = prop_def(BoolAttr)
    window = opt_prop_def(IntegerAttr)

    def verify_(self) -> None:
        """Pieces agree in number; every width is a multiple of its head."""
        dims = self.piece_dims()
        self.fail_unless(len(self.q) == len(self.k) == len(dims) > 0, "as many q as k pieces as qk_dims")
        self.fail_unless(self.v_dim.value.data > 0 and min(dims) > 0, "the width of a head must be positive")
        self.fail_unless(all(len(tensor(q).dims) == 2 for q in self.q), "queries must be [T, width]")
        for value in (*self.k, self.v):
            self.fail_unless(len(tensor(value).dims) == 3, "keys and values must be [batch, kv_len, width]")
        if self.window is not None:
            self.fail_unless(self.window.value.data > 0, f"window is {self.window.value.data}, must be at least 1")
            self.fail_unless(bool(self.causal), "a window needs causal: it ends with the key of the query")
        for value in (*self.q, *self.k, self.v):
            self.fail_unless(tensor(value).dims[-1].is_constant, "the width of queries, keys and values is a number")
        self._verify_widths()
        batch, kv_len, _ = tensor(self.v).dims
        for value in self.k:
            self.require_shape(value, (batch, kv_len, tensor(value).dims[2]), "the keys")
        if self.sink_logits is not None:
            self.require_shape(self.sink_logits, (expr(self.heads),), "sinks")
            stored = tensor(self.sink_logits).element_type
            self.fail_unless(isinstance(stored, AnyFloat), f"sinks are {stored}, must be a float type")
        rows = tensor(self.q[0]).dims[0] if self.is_sharded else batch * self.q_len.data
        for value in self.q:
            self.require_shape(value, (rows, tensor(value).dims[1]), "the queries")
        self.require_shape(self.results[0], (rows, expr(self.heads * self.v_dim.value.data)), "the result")

    def _verify_widths(self) -> None:
        """All pieces have the same query heads, which their key heads divide, as those of v."""
        heads = self.heads
        for piece, d in enumerate(self.piece_dims()):
            width = tensor(self.q[piece]).dims[1].constant
            self.fail_unless(
                width == heads * d > 0, f"piece {piece} of q has {width} columns, not {heads} heads of {d}"
            )
        for value, d in self._keyed():
            width = tensor(value).dims[2].constant
            key_heads, rest = divmod(width, d)
            self.fail_unless(rest == 0 < width, f"keys or values of {width} columns are not whole heads of {d}")
            self.fail_unless(heads % key_heads == 0, f"{key_heads} key heads do not divide {heads} heads")

    def piece_dims(self) -> tuple[int, ...]:
        """The head width of every score piece."""
        return tuple(d.value.data for d in self.qk_dims.data)

    @property
    def heads(self) -> int:
        """The query heads on this rank (widths are integers at every level)."""
        return tensor(self.q[0]).dims[1].constant // self.piece_dims()[0]

    def kv_heads(self, piece: int) -> int:
        """The key heads of a piece on this rank."""
        return tensor(self.k[piece]).dims[2].constant // self.piece_dims()[piece]

    @property
    def v_heads(self) -> int:
        """The heads of v on this rank."""
        return tensor(self.v).dims[2].constant // self.v_dim.value.data

    @property
    def state_bytes(self) -> int:
        """Bytes of running state that a row (a query of one head) reads and writes in DRAM."""
        return 0

    @property
    def arithmetic_type(self) -> Attribute:
        """The type in which both products are computed: that of the queries, and of the softmax weights in between.

        Keys and values are read in the type in which they are stored, and widened to it.
        """
        return tensor(self.q[0]).element_type

    def compute_dtype(self) -> str:
        """The type of the arithmetic.  Raises TypeMismatchError for types that do not make an attention."""
        arithmetic = element_name(self.arithmetic_type)
        if isinstance(self.arithmetic_type, IntegerType):
            raise TypeMismatchError(
                f"attention in {arithmetic}: the weights of a softmax are at most 1, so no integer type holds them"
            )
        for query in self.q:
            if (other := element_name(tensor(query).element_type)) != arithmetic:
                raise TypeMismatchError(f"the queries are {arithmetic} and {other}, must be of one type")
        for value in (*self.k, self.v):
            if not widens_to(stored := element_name(tensor(value).element_type), arithmetic):
                raise TypeMismatchError(
                    f"keys or values are {stored}, which the {arithmetic} of the arithmetic does not hold"
                )
        return arithmetic

    @property
    def sink_logits(self) -> SSAValue | None:
        """The sinks of the query heads on this rank, None without."""
        return None

    @property
    def window_keys(self) -> int | None:
        """How many keys a query sees at most, None for all up to its own."""
        return None if self.window is None else self.window.value.data

    @property
    def keys_seen(self) -> Expr:
        """The keys of a sequence that any query sees, the last ones of all: those before are not read."""
        kv_len = tensor(self.v).dims[1]
        return kv_len if self.window_keys is None else min_of(kv_len, self.q_len.data + (self.window_keys - 1))

    @property
    def pairs_twice(self) -> Expr:
        """Twice the (query, key) pairs of a sequence: a causal query sees keys_seen - q_len + i + 1 keys or its window.

        The last of q_len queries would see keys_seen - window keys before its window, the one before it one key less.
        """
        q_len, keys = self.q_len.data, self.keys_seen
        if not self.causal:
            return 2 * q_len * keys
        pairs = q_len * (2 * keys - q_len + 1)
        if self.window_keys is None:
            return pairs
        before = max_of(keys - self.window_keys, 0)
        return pairs - before * (before + 1)

    def flops(self) -> Expr:
        """2 * (query, key) pairs * heads * (qk dims + v dim)."""
        width = self.heads * (sum(self.piece_dims()) + self.v_dim.value.data)
        return tensor(self.k[0]).dims[0] * self.pairs_twice * width

    def bytes_read(self) -> Expr:
        """Those of all distinct operands; of keys and values the rows that any query sees."""
        keyed = {*self.k, self.v}

        def read(value: SSAValue) -> Expr:
            type_ = tensor(value)
            return (type_.with_dims((type_.dims[0], self.keys_seen, type_.dims[2])) if value in keyed else type_).bytes

        return sum((read(value) for value in dict.fromkeys(self.operands)), expr(0))

    def factors(self) -> tuple[tuple[str, ...], ...]:
        """Of q, k and v: heads as the queries, key heads as their cache; a piece with one key head is shared."""
        q = tuple((ROWS, HEAD) for _ in self.q)
        k = tuple((SEQUENCES, POSITIONS, "g" if self._follows_heads(v, d) else WHOLE) for v, d in self._keyed())
        return (*q, *k)

    def _keyed(self) -> list[tuple[SSAValue, int]]:
        return [*zip(self.k, self.piece_dims(), strict=False), (self.v, self.v_dim.value.data)]

    @staticmethod
    def _follows_heads(value: SSAValue, head_dim: int) -> bool:
        return tensor(value).dims[-1] != expr(head_dim)
