"""What arrays in DRAM have in common in kernels and in commands: their kinds, their layers and their address."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

from xdsl.dialects.builtin import ArrayAttr, BoolAttr, IntegerAttr, StringAttr
from xdsl.ir import Attribute
from xdsl.irdl import opt_prop_def
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.assembly import PmcOp
from pmc.dialects.dist import ShardingAttr
from pmc.dialects.memory_map import PlacedArray
from pmc.dialects.tile_types import MemRefType

SHARED_KINDS = ("activation", "output", "scratch")
"""The kinds of arrays that hold a value for a part of a program, so that several may have the same memory."""

ARRAY_KINDS = ("weight", "state", "input", "communication", *SHARED_KINDS)
"""What an array in DRAM is.  `communication`: what the network sends from and receives into; `scratch`: what the cores
of one kernel leave for each other; `activation`: any other value, and `output` one that the program returns."""


class StoredOp(PmcOp, ABC):
    """An array in the DRAM of a rank.  Of repeated layers it may hold a part: the pipeline stage that it stands in."""

    first = opt_prop_def(IntegerAttr)
    """The layer of the model that the array begins with; left out with `total`."""
    total = opt_prop_def(IntegerAttr)
    """How many layers of this path the whole model stores, when the array holds fewer; else left out."""

    @property
    @abstractmethod
    def memref(self) -> MemRefType:
        """The type of the array."""

    @property
    def placed(self) -> PlacedArray:
        """The array with its address, which it must have."""
        kind, address = self.properties["kind"], self.properties["address"]
        assert isinstance(kind, StringAttr) and isinstance(address, IntegerAttr)
        return PlacedArray(self.path.data, kind.data, address.value.data, self.memref.bytes, kind.data in SHARED_KINDS)

    @property
    def all_dims(self) -> tuple[int, ...]:
        """The dims with all layers of the model."""
        dims = self.memref.dims
        return dims if self.total is None else (self.total.value.data, *dims[1:])

    @property
    def held(self) -> slice:
        """The part of the leading dim of `all_dims` that the array holds."""
        if self.first is None:
            return slice(None)
        return slice(self.first.value.data, self.first.value.data + self.memref.dims[0])

    def verify_(self) -> None:
        """Every dim of a layer has its sharding and its axis; a part of the layers is inside all of them."""
        address = self.properties.get("address")
        if isinstance(address, IntegerAttr) and address.value.data < 0:
            raise VerifyException(f"{self.name} at '{self.path.data}': address {address.value.data} is negative")
        layers = self.properties["layers"] == BoolAttr.from_bool(True)
        dims = len(self.memref.dims) - layers
        given: list[tuple[str, int]] = []
        sharding, axes = self.properties.get("sharding"), self.properties.get("axes")
        if isinstance(sharding, ShardingAttr):
            given.append(("sharding", len(sharding.data.dims)))
        if isinstance(axes, ArrayAttr):
            given.append(("axes", len(cast(ArrayAttr[Attribute], axes).data)))
        for name, count in given:
            if count != dims:
                what = "without the dim that counts layers, " if layers else ""
                raise VerifyException(
                    f"{self.name} at '{self.path.data}': {what}the array has {dims} dims, {name} has {count}"
                )
        if (self.first is None) != (self.total is None):
            raise VerifyException(f"{self.name} at '{self.path.data}': first and total must stand together")
        if self.first is None or self.total is None:
            return
        if not layers:
            raise VerifyException(f"{self.name} at '{self.path.data}': first and total need a layer dim")
        if not 0 <= self.held.start < self.held.stop <= self.total.value.data:
            raise VerifyException(
                f"{self.name} at '{self.path.data}': layers {self.held.start}..{self.held.stop - 1} of "
                f"{self.total.value.data}"
            )
