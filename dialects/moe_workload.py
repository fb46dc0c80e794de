"""The workload of a mixture of experts without a model: who is routed where, and what a token costs.

    #trace.workload<{model = "..", routing = {experts = 64, topk = 2, ..}, sequence = {..}, ..}>

A step is one micro-batch, a token of each of its sequences; every token is routed to `topk` different experts once per
step.  Micro-batch b begins at b x interval_ms.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from xdsl.irdl import irdl_attr_definition

from pmc.dialects.schema import Count, Name, Number, Schema, Sequences, Share, Tokens
from pmc.dialects.schema_text import SchemaAttr

Positive = Annotated[Number, Field(gt=0)]


class Drift(Schema, frozen=True):
    """How popularity moves with the domain of the text: some experts exchange their ranks now and then."""

    every_steps: Count = Field(description="Steps from one change of domain to the next")
    share: Share = Field(description="Part of the experts that exchange their popularity")


class MoeRouting(Schema, frozen=True):
    """How tokens choose experts; which expert is how popular is drawn from the seed.

    With `zipf_s` the k-th most popular expert has the weight k^-zipf_s; with `gini` the exponent is the one that gives
    the expected loads this Gini coefficient.  One of the two is null; zipf_s = 0 is uniform.
    """

    experts: Count = Field(description="Experts on this chip, each with weights of its own")
    topk: Count = Field(description="Different experts per token")
    seed: Annotated[int, Field(ge=0, le=2**40)] = Field(description="Seed of all draws")
    zipf_s: Annotated[Number, Field(ge=0)] | None = Field(description="Exponent of the law; null where gini is given")
    gini: Annotated[Number, Field(ge=0, lt=1)] | None = Field(
        description="Gini coefficient of the loads of experts; null where zipf_s is given"
    )
    drift: Drift | None = Field(description="Change of popularity; null where it stays")

    @model_validator(mode="after")
    def _check(self) -> MoeRouting:
        if (self.zipf_s is None) == (self.gini is None):
            raise ValueError("one of zipf_s and gini must be given, the other null")
        if self.topk > self.experts:
            raise ValueError(f"topk ({self.topk}) experts of a token differ: there are only {self.experts}")
        return self


class MoeSequence(Schema, frozen=True):
    """Sequences and steps."""

    tokens: Tokens = Field(description="Tokens of context that attention reads")
    micro_batch: Sequences = Field(description="Sequences of a micro-batch, of which each gives one token per step")
    steps: Count = Field(description="Micro-batches")
    interval_ms: Positive = Field(description="Time from one micro-batch to the next, ms")


class FcOperator(Schema, frozen=True):
    """The experts of a token."""

    flop_per_token: Positive = Field(description="FLOP of all topk experts of a token together")
    weight_bytes_per_token: Count = Field(description="Bytes of weights that one expert reads for one token")


class AttnOperator(Schema, frozen=True):
    """The attention of a token, on the core that keeps its sequence."""

    flop_per_token: Positive = Field(description="FLOP of a token")
    kv_bytes_per_token: Count = Field(description="Bytes of KV cache of one token of context, read once per step")


class MoeOperators(Schema, frozen=True):
    """What a token costs."""

    fc: FcOperator = Field(description="Experts")
    attn: AttnOperator = Field(description="Attention")


class MoeTensors(Schema, frozen=True):
    """The weights of an expert."""

    weight_shard_mb: Positive = Field(description="Size of a shard of weights, MiB; a shard lies in one bank")
    shards_per_expert: Count = Field(description="Shards of one expert")


class MoeWorkload(Schema, frozen=True):
    """The workload."""

    model: Name = Field(description="Name of the model")
    routing: MoeRouting = Field(description="Routing")
    sequence: MoeSequence = Field(description="Sequences and steps")
    operators: MoeOperators = Field(description="Costs of a token")
    tensors: MoeTensors = Field(description="Weights")


@irdl_attr_definition
class MoeWorkloadAttr(SchemaAttr[MoeWorkload]):
    """The workload that a module's trace is drawn from."""

    name = "trace.workload"
    SCHEMA = MoeWorkload


WORKLOAD = MoeWorkloadAttr.name
"""The attribute of a module that says what its trace is drawn from."""
