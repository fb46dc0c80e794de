"""The scores of blocks of keys: what attention that selects blocks has besides the ops of `sparse_attention.py`.

    %s = layer.block_scores(%q, %k) {block = 128, ..} : !layer.tensor<[batch*q_len, 4, ceildiv(kv_len, 128)], f32>
    %i = layer.topk_select(%s) {top_k = 16, block = 128, always = 1, ..} : !layer.tensor<[.., 4, min(.., 16)], i32>
    %g = layer.gather_rows(%keys, %i) {block = 128, ..} : !layer.tensor<[.., 128*min(.., 16), 512], bf16>
    %y = layer.sparse_attention([%q], [%g], %v) {block = 128, top_k = 16, ..}

MiniMax-M3 (modeling_minimax_m3_vl.py of transformers): every key head has an index head, which selects its blocks.
"""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr, f32
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def

from pmc.dialects.block_kinds import BlockMaxAttr
from pmc.dialects.expr import Expr, ExprAttr, ceildiv, expr
from pmc.dialects.interfaces import ROWS, SEQUENCES, WHOLE, ShardingRule
from pmc.dialects.layer_op import HEAD, MatrixOp
from pmc.dialects.matrix_types import widens_to
from pmc.dialects.tensor import TensorType, TypeMismatchError, element_name, tensor


@irdl_op_definition
class BlockScoresOp(MatrixOp):
    """y[t, h, w] = max over keys s of block w of q[t, h] . k[b, s], in FP32; token t is one of sequence b = t // q_len.

    q [T, heads*d], k [batch, kv_len, d] -> [T, heads, ceildiv(kv_len, block)]: all heads share one key.  Block w holds
    keys w*block .. w*block + block - 1, the last one may be shorter.  Every query is scored against every key.  That is
    no mistake in the block of the query itself, which later keys are in too: `layer.topk_select` takes that block
    whatever its score is, and none behind it.
    """

    name = "layer.block_scores"
    q = operand_def(TensorType)
    k = operand_def(TensorType)
    block = prop_def(IntegerAttr)
    q_len = prop_def(ExprAttr)
    y = result_def(TensorType)

    def verify_(self) -> None:
        """Queries of whole heads, one key of that width, scores of all blocks in FP32."""
        block = self.block.value.data
        self.fail_unless(block > 1, f"block is {block}, must be at least 2")
        q, k, y = (tensor(value).dims for value in (self.q, self.k, self.y))
        self.fail_unless(len(q) == 2 and q[1].is_constant, "queries must be [T, width]")
        self.fail_unless(len(k) == 3 and k[2].is_constant, "keys must be [batch, kv_len, width]")
        self.fail_unless(len(y) == 3, "scores must be [T, heads, blocks]")
        width, d = q[1].constant, k[2].constant
        self.fail_unless(d > 0 and width % d == 0, f"queries of {width} columns are not whole heads of {d}")
        rows = q[0] if self.is_sharded else k[0] * self.q_len.data
        self.require_shape(self.q, (rows, q[1]), "the queries")
        self.require_shape(self.y, (rows, expr(width // d), ceildiv(k[1], block)), "y")
        self.fail_unless(tensor(self.y).element_type == f32, f"scores are {tensor(self.y).element_type}, must be f32")

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return tensor(self.k).dims[2].constant

    @property
    def heads(self) -> int:
        """The index heads on this rank."""
        return tensor(self.q).dims[1].constant // self.head_dim

    @property
    def vector_kind(self) -> BlockMaxAttr:
        """What happens to the products of a tile of keys."""
        return BlockMaxAttr(self.block)

    def compute_dtype(self) -> str:
        """The type of the products: that of the queries.  Raises TypeMismatchError for keys that do not fit it."""
        arithmetic, stored = (element_name(tensor(value).element_type) for value in (self.q, self.k))
        if not widens_to(stored, arithmetic):
            raise TypeMismatchError(f"index queries in {arithmetic} and keys in {stored} cannot be multiplied")
        return arithmetic

    def flops(self) -> Expr:
        """2 * queries * all keys * heads * width: those of the products."""
        return 2 * tensor(self.q).elements * tensor(self.k).dims[1]

    def sharding_rule(self) -> ShardingRule:
        """Heads are independent; a query is scored against whole sequences."""
        return ShardingRule(((ROWS, HEAD), (SEQUENCES, WHOLE, WHOLE)), ((ROWS, HEAD, WHOLE),))
