"""The choice of `select-algorithms`; passes do not know backends, so the driver brings the two together."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.backends.cost.model import Target
from pmc.backends.cost.network import network_of, transfer_of
from pmc.backends.cost.protocol import CommProtocol
from pmc.dialects.accounting import Accounting, accounting_of
from pmc.dialects.analyses.algorithm_choice import AlgorithmChoice
from pmc.dialects.collective import AlgorithmAttr


def algorithm_choice(module: ModuleOp) -> AlgorithmChoice:
    """The choice by the communication protocol.  Raises PmcError without a target or an accounting."""
    return ProtocolChoice(Target.of(module), accounting_of(module, "select-algorithms"))


@dataclass(frozen=True)
class ProtocolChoice:
    """What the protocol allows and finds fastest on a target."""

    target: Target
    accounting: Accounting

    def allowed(self, op: Operation) -> tuple[AlgorithmAttr, ...]:
        """All algorithms that the links of the group allow; none for a group of one rank."""
        transfer = transfer_of(op, self.target)
        if transfer is None or transfer.ranks == 1:
            return ()
        ways = network_of(op, self.target).ways(transfer)
        return tuple(way.exchange.algorithm for way in ways if way.exchange.algorithm is not None)

    def fastest(self, op: Operation) -> AlgorithmAttr | None:
        """The one that takes least time, None for a group of one rank."""
        topology = network_of(op, self.target).topology
        return CommProtocol(topology, self.accounting).algorithm_of(op, self.target, {})
