"""Arrays in DRAM as the lowering sees them: strided views of one global, made into `tile.view` where they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from xdsl.ir import Attribute, SSAValue

from pmc.dialects.expr import Expr, expr
from pmc.dialects.tile import MemRefType, memref_type


@dataclass(frozen=True)
class Lead:
    """A leading dim that one index selects: the layers of a repeated weight or cache."""

    dim: int
    step: int
    index: Expr


@dataclass(frozen=True)
class Array:
    """Dims and strides in elements over `base`, a `tile.global`; `leads` are indexed before the dims."""

    base: SSAValue
    element_type: Attribute
    leads: tuple[Lead, ...]
    dims: tuple[int, ...]
    steps: tuple[int, ...]
    offset: int = 0

    @classmethod
    def of_global(cls, base: SSAValue, layer: Expr | None = None) -> Array:
        """The whole array, or its part for one layer."""
        type_ = memref_type(base)
        if layer is None:
            return cls(base, type_.element_type, (), type_.dims, type_.steps)
        lead = Lead(type_.dims[0], type_.steps[0], layer)
        return cls(base, type_.element_type, (lead,), type_.dims[1:], type_.steps[1:])

    @property
    def is_dense(self) -> bool:
        """Whether the dims are row-major without gaps."""
        step = 1
        for dim, actual in zip(reversed(self.dims), reversed(self.steps), strict=True):
            if dim != 1 and actual != step:
                return False
            step *= dim
        return True

    def same_memory(self, other: Array) -> bool:
        """Whether the two are the same elements in the same places."""
        return (self.base, self.leads, self.offset, self._places()) == (
            other.base, other.leads, other.offset, other._places(),
        )  # fmt: skip

    def _places(self) -> tuple[tuple[int, int], ...]:
        """Dims with their steps, adjacent ones merged: equal for equal memory."""
        merged: list[tuple[int, int]] = []
        for dim, step in zip(self.dims, self.steps, strict=True):
            if dim == 1:
                continue
            if merged and merged[-1][1] == dim * step:
                merged[-1] = (merged[-1][0] * dim, step)
            else:
                merged.append((dim, step))
        return tuple(merged)

    def reshape(self, dims: Sequence[int]) -> Array | None:
        """The same elements in row-major order under other dims, or None where strides cannot say that."""
        steps = _reshaped_steps(self._places(), dims)
        return None if steps is None else replace(self, dims=tuple(dims), steps=steps)

    def columns(self, group: int, offset: int, size: int) -> Array | None:
        """Columns offset .. offset+size of every `group` columns, as [.., groups, size]; None: needs a copy."""
        width = self.dims[-1]
        if width % group == 0:
            split = self.reshape((*self.dims[:-1], width // group, group))
        else:
            split = self.reshape((*self.dims[:-2], self.dims[-2] * width // group, group))
        if split is None:
            return None
        last = split.steps[-1]
        return replace(split, dims=(*split.dims[:-1], size), offset=split.offset + offset * last)

    def rows_from(self, dim: int, start: int, size: int) -> Array:
        """The part start .. start+size of one dim."""
        dims = (*self.dims[:dim], size, *self.dims[dim + 1 :])
        return replace(self, dims=dims, offset=self.offset + start * self.steps[dim])

    def transposed(self) -> Array:
        """The array with its dims in reverse order."""
        return replace(self, dims=self.dims[::-1], steps=self.steps[::-1])

    def without_dim(self, dim: int) -> Array:
        """The array without a dim of one element."""
        assert self.dims[dim] == 1
        return replace(
            self, dims=self.dims[:dim] + self.dims[dim + 1 :], steps=self.steps[:dim] + self.steps[dim + 1 :]
        )

    def memref(self) -> MemRefType:
        """The type of the view, with the leading dims."""
        dims = (*(lead.dim for lead in self.leads), *self.dims)
        steps = (*(lead.step for lead in self.leads), *self.steps)
        return MemRefType.of(dims, self.element_type, steps, self.offset)

    def offsets(self, offsets: Sequence[Expr | int]) -> list[Expr]:
        """Transfer offsets with those of the leading dims."""
        return [*(lead.index for lead in self.leads), *(expr(o) for o in offsets)]

    def sizes(self, sizes: Sequence[Expr | int]) -> list[Expr]:
        """Transfer sizes with those of the leading dims."""
        return [*(expr(1) for _ in self.leads), *(expr(s) for s in sizes)]


def _reshaped_steps(places: Sequence[tuple[int, int]], dims: Sequence[int]) -> tuple[int, ...] | None:
    """Strides of `dims` over merged `places`, from the last dim up; each dim must stay inside one place."""
    remaining = list(places)
    steps: list[int] = []
    done, step = 1, remaining[-1][1] if remaining else 1
    for dim in reversed(dims):
        if dim == 1:
            steps.append(0)
            continue
        if remaining and done == remaining[-1][0]:
            remaining.pop()
            done, step = 1, remaining[-1][1] if remaining else 1
        if not remaining or remaining[-1][0] % (done * dim):
            return None
        steps.append(step * done)
        done *= dim
    # A dim of one element may have any step: the dense one makes dense arrays print as dense.
    fixed: list[int] = []
    inner = 1
    for dim, own in zip(reversed(dims), steps, strict=True):
        fixed.append(inner if dim == 1 else own)
        inner = fixed[-1] * dim
    return tuple(reversed(fixed))
