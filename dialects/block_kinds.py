"""The vector kinds of attention to selected blocks of keys (MiniMax-M3): the score of a block, the rows of a block."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr
from xdsl.irdl import irdl_attr_definition

from pmc.dialects.expr import Expr, ExprAttr, ceildiv
from pmc.dialects.vector_kind_attr import Matrix, VectorKindAttr
from pmc.dialects.vector_steps import VectorSteps


@irdl_attr_definition
class BlockMaxAttr(VectorKindAttr):
    """out[r, w] = max over the columns c of block w of products[r, c]; the last block may be shorter than `block`.

    Steps: a maximum for every product.
    """

    name: ClassVar[str] = "tile.block_max"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (Matrix("products", "in"), Matrix("out", "out", columns="blocks"))
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=1)
    block: IntegerAttr

    def named_extents(self, rows: Expr, columns: Expr) -> dict[str, Expr]:
        """As many blocks as the columns begin."""
        return {**super().named_extents(rows, columns), "blocks": ceildiv(columns, self.block.value.data)}

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A block has a key."""
        del columns
        return _wrong_block(self.block)


@irdl_attr_definition
class BlockRowsAttr(VectorKindAttr):
    """out[0, w*block + j] = min(blocks[0, w]*block + j, last) * stride + offset: the rows of blocks by their numbers.

    The rows of a cache of `stride` key heads, seen as a matrix of one head a row, `offset` the head.  Rows behind the
    `last` key of a sequence are that key.  A column of the command is a block.  Steps of a row: multiply, add, minimum,
    multiply, add.
    """

    name: ClassVar[str] = "tile.block_rows"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("blocks", "in"),
        Matrix("out", "out", columns=("columns", "block")),
    )
    PADS_COLUMNS: ClassVar[bool] = False
    RATE: ClassVar[str | None] = "f32"
    block: IntegerAttr
    stride: IntegerAttr
    last: ExprAttr
    offset: ExprAttr

    @property
    def steps_per_element(self) -> VectorSteps:
        """Those of the rows of a block."""
        return VectorSteps(basic=5 * self.block.value.data)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A block has a key, a key a head."""
        del columns
        stride = self.stride.value.data
        return _wrong_block(self.block) or (None if stride >= 1 else f"stride is {stride}, must be at least 1")


def _wrong_block(block: IntegerAttr) -> str | None:
    keys = block.value.data
    return None if keys >= 1 else f"block is {keys}, must be at least 1"
