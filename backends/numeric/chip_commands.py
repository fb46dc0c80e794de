"""What SDMA and CDMA commands compute: the `dist` collectives on the DRAM arrays of all ranks of a stage."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.ir import Attribute

from pmc.backends.numeric import collectives
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.vector_kinds import plain_params
from pmc.dialects.dist import PIPELINE, Axis, Mesh


@dataclass(frozen=True)
class Exchange:
    """One movement of the chip: `kind` and `params` of a `g5.sdma` or `g5.cdma`, and who takes part."""

    kind: str
    params: Mapping[str, Attribute]
    path: str
    mesh: Mesh
    ranks: Sequence[int]
    channels: MutableMapping[int, dict[int, Array]]
    """What stages have sent and others not yet received, by channel and receiving coordinate group."""

    def run(self, sources: Sequence[Mapping[int, Array]], shapes: Sequence[tuple[int, ...]]) -> list[dict[int, Array]]:
        """The results by rank, from the operands by rank; `shapes` are those of the results.

        Raises NumericError, naming the path, for a kind without semantics or a movement that cannot be.
        """
        try:
            return self._results(sources, shapes)
        except NumericError as error:
            raise NumericError(f"{self.kind} at '{self.path}': {error}") from None

    def _results(
        self, sources: Sequence[Mapping[int, Array]], shapes: Sequence[tuple[int, ...]]
    ) -> list[dict[int, Array]]:
        params: dict[str, Any] = plain_params(self.params)
        match self.kind:
            case "all_reduce":
                return [collectives.all_reduce(sources[0], self._axis(params))]
            case "all_gather":
                dim: int = params["dim"]
                return [collectives.all_gather(sources[0], self._axis(params), dim, shapes[0][dim])]
            case "reduce_scatter":
                return [collectives.reduce_scatter(sources[0], self._axis(params), params["dim"])]
            case "local_slice":
                return [collectives.local_slice(sources[0], self._axis(params), params["dim"])]
            case "ring_exchange":
                return [collectives.ring_exchange(sources[0], self._axis(params))]
            case "dispatch":
                experts, capacity = shapes[0][:2]
                axis = self._axis(params) if "axis" in params else None
                return [collectives.dispatch(sources[0], sources[1], axis, experts, capacity)]
            case "combine":
                axis = self._axis(params) if "axis" in params else None
                return [collectives.combine(sources[0], sources[1], sources[2], axis)]
            case "send":
                self.channels[params["channel"]] = dict(sources[0])
                return []
            case "recv":
                sent = self.channels.pop(params["channel"], None)
                if sent is None:
                    raise NumericError(f"nothing was sent on channel {params['channel']}")
                stages = self.mesh.axis(PIPELINE)
                return [{rank: sent[stages.group(rank)[params["peer"]]] for rank in self.ranks}]
            case _:
                raise NumericError("has no numeric semantics")

    def _axis(self, params: Mapping[str, Any]) -> Axis:
        return self.mesh.axis(params["axis"])
