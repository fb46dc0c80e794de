"""The buffers of transfers between ranks: memory that the network has registered, apart from the program's tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from xdsl.ir import Block

from pmc.dialects import dist
from pmc.dialects.expr import Expr


def communication_sizes(block: Block) -> Iterator[tuple[str, Expr]]:
    """Path and bytes of the buffers of every transfer between ranks in a block and its repeats.

    A transfer sends from and receives into buffers as large as its operands' data and its result together.  One
    transfer is in flight at a time, so that the largest decides.  A group of one rank was never made a collective, and
    a local slice sends nothing.
    """
    for op in block.walk():
        if isinstance(op, dist.DistExchangeOp) and (exchange := op.exchange()).collective.leaves_chip:
            yield op.path.data, exchange.buffer_bytes


class Transfer(NamedTuple):
    """The buffers of the transfer at a path."""

    path: str
    bytes: int


def largest_transfer(block: Block) -> Transfer | None:
    """The transfer of the largest buffers in a program of integer shapes, the first of equals; None without any."""
    sizes = [Transfer(path, size.constant) for path, size in communication_sizes(block)]
    return max(sizes, key=lambda transfer: transfer.bytes, default=None)
