"""How a model is run: parallelism, workload, element types and assumptions.

A field says all there is to know of it: what it means, which option of which pass takes its value, and where the help
of the command line shows it.  `pmc.compiler` makes options of the command line and of passes from that, so that a new
field is written here, in the pass that reads it and in `configs/deployments`, and nowhere else.

The module imports no dialect: every call of the command line reads it for its options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Annotated, Literal, TypeAlias, get_origin

from pydantic import Discriminator, Field, Tag, model_validator

from pmc.dialects.schema import (
    Count,
    DType,
    HeldDType,
    Leaf,
    Loads,
    Number,
    Paths,
    Schema,
    Sequences,
    Tokens,
    TypeRules,
    leaves,
)
from pmc.dialects.type_rules import HeldTypes, held_types


@dataclass(frozen=True)
class Panel:
    """Where the help of the command line shows a field."""

    title: str


PARALLELISM = Panel("Parallelism")
WORKLOAD = Panel("Workload")
ASSUMPTIONS = Panel("Element types and assumptions")
KERNELS = Panel("Kernels")
PANELS = (PARALLELISM, WORKLOAD, ASSUMPTIONS, KERNELS)
"""In the order of the help."""


@dataclass(frozen=True)
class PassOption:
    """The pass that takes the value of a field, as an option of the field's name or of another."""

    pass_name: str
    option: str | None = None
    value: str | None = None
    """The property of the deployment that is the value, where that is not the field itself."""


@dataclass(frozen=True)
class TextForm:
    """How a value that is a block of fields is written on the command line."""

    forms: str
    parse: Callable[[str], object]
    """From text to what the schema takes.  Raises ValueError."""


class Quantization(Schema, frozen=True):
    """Element types of the deployed model."""

    weights: Annotated[HeldDType, ASSUMPTIONS, PassOption("quantize")] = Field(
        description="Element type of weights; checkpoint: each as the model's checkpoint stores it"
    )
    activations: Annotated[HeldDType, ASSUMPTIONS, PassOption("quantize")] = Field(
        description="Element type of matrix inputs; checkpoint: what the checkpoint is made for"
    )
    kv_cache: Annotated[HeldDType, ASSUMPTIONS, PassOption("quantize")] = Field(
        description="Element type of the KV cache; checkpoint: what the checkpoint is made for"
    )
    attention: Annotated[DType, ASSUMPTIONS, PassOption("quantize")] = Field(
        description="Element type in which QK and PV of attention are computed"
    )
    keep: Annotated[Paths, ASSUMPTIONS, PassOption("quantize")] = Field(
        description="Patterns of block paths that stay in the model's own element type"
    )
    types: Annotated[TypeRules, ASSUMPTIONS, PassOption("quantize")] = Field(
        description="Types of single weights, as in *.experts.*=nvfp4+fp8 (PATTERN=WEIGHTS+ACTIVATIONS)"
    )

    def held(self, stored: HeldTypes) -> HeldTypes:
        """The formats of a program of a model whose checkpoint holds the types `stored`."""
        return held_types(self.weights, self.activations, self.kv_cache, self.keep, self.types, stored)


class Zipf(Schema, frozen=True):
    """Expert popularity proportional to 1 / rank**zipf."""

    zipf: Annotated[Number, Field(ge=0)] = Field(description="Zipf exponent; 0 is uniform")


class Histogram(Schema, frozen=True):
    """How the rows of all tokens fall to the experts, in any unit; expert e is on rank e // (experts per rank)."""

    histogram: Loads = Field(description="Rows of every expert")

    @model_validator(mode="after")
    def _check(self) -> Histogram:
        if not sum(self.histogram) > 0:
            raise ValueError("a histogram needs rows: all of its entries are 0")
        return self


def _routing_kind(value: object) -> str:
    if isinstance(value, Histogram) or (isinstance(value, dict) and "histogram" in value):
        return "Histogram"
    return "Zipf" if isinstance(value, Zipf | dict) else _UNIFORM


_UNIFORM = "literal['uniform']"

Routing: TypeAlias = (
    Annotated[Literal["uniform"], Tag(_UNIFORM)] | Annotated[Zipf, Tag("Zipf")] | Annotated[Histogram, Tag("Histogram")]
)
"""How tokens choose their experts."""


def _routing(text: str) -> object:
    kind, _, numbers = text.partition(":")
    if kind == "zipf":
        return {kind: float(numbers)}
    return {kind: [float(n) for n in numbers.split(",")]} if kind == "histogram" else text


VocabularySplit: TypeAlias = Literal["tp", "stage", "replicated"]
"""`stage` is what serving engines do that run attention data parallel and the LM head tensor parallel: every rank gets
the tokens of all, computes its part of the logits, and those are gathered."""


Drafts: TypeAlias = Annotated[int, Field(ge=0, le=64, json_schema_extra={"unit": "tokens"})]

AcceptedLength: TypeAlias = Literal["none"] | Annotated[Number, Field(ge=1, json_schema_extra={"unit": "tokens"})]


def _accepted_length(text: str) -> object:
    return text if text == "none" else float(text)


class Deployment(Schema, frozen=True):
    """One way to run a model: parallelism, workload, element types and the assumptions on routing."""

    phase: Annotated[Literal["prefill", "decode"], WORKLOAD, PassOption("expand-blocks")] = Field(
        description="Phase of inference"
    )
    tp: Annotated[Count, PARALLELISM, PassOption("annotate-shardings")] = Field(description="Tensor parallelism")
    pp: Annotated[Count, PARALLELISM, PassOption("annotate-shardings")] = Field(description="Pipeline parallelism")
    dp: Annotated[Count, PARALLELISM, PassOption("annotate-shardings")] = Field(description="Data parallelism")
    ep: Annotated[Count, PARALLELISM, PassOption("annotate-shardings")] = Field(
        description="Expert parallelism; 1 for a dense model"
    )
    moe_tp: Annotated[Count, PARALLELISM, PassOption("annotate-shardings")] = Field(
        description="Tensor parallelism inside an expert; 1 for a dense model"
    )
    moe_dp: Annotated[Count, PARALLELISM, PassOption("annotate-shardings")] = Field(
        description="Replicas of the experts in a stage, each for its own tokens; 1 for a dense model"
    )
    embedding: Annotated[VocabularySplit, PARALLELISM, PassOption("annotate-shardings")] = Field(
        description="What splits the rows of the embedding table: tp, all ranks of a stage, or nothing"
    )
    lm_head: Annotated[VocabularySplit, PARALLELISM, PassOption("annotate-shardings")] = Field(
        description="What splits the vocabulary of the LM head: tp, all ranks of a stage, or nothing"
    )
    cp: Annotated[Count, PARALLELISM, PassOption("annotate-shardings")] = Field(
        description="Context parallelism: every sequence dealt out to ranks; divides q_len and kv_len"
    )
    pp_layers: Annotated[
        str, PARALLELISM, PassOption("partition-stages", "layers"), Field(pattern=r"^(balanced|\d+(,\d+)*)$")
    ] = Field(description="Layers of each pipeline stage, as in 16,15,15,15; balanced: stages of equal time")
    sp: Annotated[bool, PARALLELISM, PassOption("annotate-shardings")] = Field(
        description="Sequence parallelism: reduce-scatter and all-gather in place of all-reduce; needs tp > 1"
    )
    batch: Annotated[Sequences, WORKLOAD, PassOption("bind-symbols")] = Field(
        description="Sequences in flight over all ranks"
    )
    q_len: Annotated[Tokens, WORKLOAD, PassOption("bind-symbols", value="queries")] = Field(
        description="New tokens per sequence and step, drafted ones not included"
    )
    kv_len: Annotated[Tokens, WORKLOAD, PassOption("bind-symbols")] = Field(
        description="Tokens a sequence attends to, the new ones included"
    )
    draft_tokens: Annotated[Drafts, WORKLOAD, PassOption("expand-blocks")] = Field(
        description="Tokens that the MTP layer drafts in a step and the next decode step verifies; 0: no speculation"
    )
    accepted_length: Annotated[
        AcceptedLength, WORKLOAD, TextForm("a number from 1 to draft_tokens + 1, or none", _accepted_length)
    ] = Field(description="Mean tokens of a sequence that a decode step with drafts writes; none without drafts")
    longer_context: Annotated[bool, WORKLOAD] = Field(
        description="Run lengths beyond those that the model is made for, which results then say; else they are errors"
    )
    prefill_chunk: Annotated[Tokens, WORKLOAD] = Field(
        description="Tokens that a dp rank prefills at once, at most, in a request: whole prompts, or parts of one"
    )
    quantization: Quantization = Field(description="Element types")
    expert_capacity: Annotated[Literal["balanced", "worst"], ASSUMPTIONS, PassOption("expand-blocks", "capacity")] = (
        Field(description="Token capacity of an expert: its expected load, or every token")
    )
    routing: Annotated[
        Routing,
        Discriminator(_routing_kind),
        ASSUMPTIONS,
        TextForm("uniform, zipf:EXPONENT or histogram:ROWS,ROWS,..", _routing),
    ] = Field(description="Distribution of tokens over experts")
    dispatch: Annotated[Literal["direct", "per_rank", "per_node"], ASSUMPTIONS, PassOption("insert-collectives")] = (
        Field(
            description="A token goes out in a row for each of its experts (direct), once to each rank that holds any "
            "(per_rank), or once to each board that does and on from there (per_node)"
        )
    )
    absorb_mla: Annotated[bool, ASSUMPTIONS, PassOption("expand-blocks")] = Field(
        description="Fold the key and value up-projections of MLA into query and output: attend over the latent itself"
    )
    ring_exchange: Annotated[Literal["expanded", "smallest"], ASSUMPTIONS, PassOption("insert-collectives")] = Field(
        description="What cp exchanges: keys and values, or the smallest tensors that these are expanded from"
    )
    fuse_rows: Annotated[bool, KERNELS, PassOption("fuse-rows", "enabled")] = Field(
        description="Norms, activations and attention convert what they compute: no kernel of its own reads it again"
    )
    fuse_gates: Annotated[bool, KERNELS, PassOption("fuse-gates", "enabled")] = Field(
        description="Gate, up and the activation of a SwiGLU are one kernel: neither product goes to DRAM and back"
    )
    late_stores: Annotated[bool, KERNELS, PassOption("lower-to-tiles")] = Field(
        description="A store is given to its engine behind the loads of the next iteration, which need not wait for it"
    )
    pipeline_loops: Annotated[bool, KERNELS, PassOption("pipeline-loops", "enabled")] = Field(
        description="Attention multiplies the next scores while the softmax of the last ones runs, where LMEM has room"
    )
    prefetch_weights: Annotated[bool, KERNELS, PassOption("prefetch-weights", "enabled")] = Field(
        description="A kernel of products loads the first weights of a later one or the next layer, where LMEM has room"
    )

    @model_validator(mode="after")
    def _check(self) -> Deployment:
        if self.q_len > self.kv_len:
            raise ValueError(
                f"q_len ({self.q_len}) must not exceed kv_len ({self.kv_len}): keys include the new tokens"
            )
        for name, length in (("q_len", self.q_len), ("kv_len", self.kv_len)):
            if length % self.cp:
                raise ValueError(f"{name} ({length}) must be a multiple of cp ({self.cp}), which deals out its tokens")
        if self.sp and self.tp == 1:
            raise ValueError("sp needs tp > 1: there is no tensor-parallel group to split the sequence over")
        if (problem := self._wrong_drafts()) is not None:
            raise ValueError(problem)
        return self

    def _wrong_drafts(self) -> str | None:
        """What is wrong with the fields of speculative decoding."""
        drafts, accepted = self.draft_tokens, self.accepted
        if drafts == 0:
            return (
                None
                if accepted is None
                else f"accepted_length ({accepted:g}) needs draft_tokens > 0: nothing is drafted"
            )
        if accepted is None:
            return f"draft_tokens ({drafts}) needs accepted_length, the mean tokens of a step, from 1 to {drafts + 1}"
        if accepted > drafts + 1:
            return f"accepted_length ({accepted:g}) must be from 1 to draft_tokens + 1 = {drafts + 1}"
        if self.phase == "decode" and self.q_len != 1:
            return (
                f"q_len ({self.q_len}) must be 1 with draft_tokens > 0: a step verifies the drafts after one new token"
            )
        if self.cp > 1:
            return f"draft_tokens ({drafts}) needs cp = 1: a draft is one token of a sequence, which cp cannot deal out"
        if self.queries > self.kv_len:
            return f"kv_len ({self.kv_len}) must be at least {self.queries}: keys include those of the {drafts} drafts"
        return None

    @property
    def ranks(self) -> int:
        """Chips this deployment uses: tp * cp * dp * pp."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def queries(self) -> int:
        """Rows of a sequence in a step: its new tokens, and in decode the drafts that are verified with them."""
        return self.q_len + self._verified

    @property
    def symbols(self) -> dict[str, int]:
        """The values of the symbols of its program."""
        return {"batch": self.batch, "q_len": self.queries, "kv_len": self.kv_len}

    @property
    def accepted(self) -> float | None:
        """The accepted length, None without drafts."""
        return None if self.accepted_length == "none" else self.accepted_length

    @property
    def _verified(self) -> int:
        return self.draft_tokens if self.phase == "decode" else 0

    def at(self, symbols: Mapping[str, int]) -> Deployment:
        """The same deployment where symbols of its program have these values.  Raises SchemaError."""
        given = dict(symbols)
        if "q_len" in given:
            given["q_len"] -= self._verified
        return self.model_copy(update=given)


@dataclass(frozen=True)
class DeploymentField(Leaf):
    """A value of the deployment."""

    @property
    def panel(self) -> Panel:
        """Where the help shows it."""
        return next(m for m in self.info.metadata if isinstance(m, Panel))

    @cached_property
    def pass_option(self) -> PassOption | None:
        """The option of a pass that takes its value, None for what passes do not read."""
        return next((m for m in self.info.metadata if isinstance(m, PassOption)), None)

    @property
    def text_form(self) -> TextForm | None:
        """How it is written on the command line where that is not as in a file."""
        return next((m for m in self.info.metadata if isinstance(m, TextForm)), None)

    @property
    def is_list(self) -> bool:
        """Whether it holds any number of values, also none."""
        return get_origin(self.info.annotation) is tuple

    def of(self, deployment: Deployment) -> object:
        """Its value."""
        value: object = deployment
        for part in self.path.split("."):
            value = getattr(value, part)
        return value


@cache
def deployment_fields() -> tuple[DeploymentField, ...]:
    """All values of a deployment, those of its blocks too."""
    return tuple(DeploymentField(leaf.path, leaf.info, leaf.planned) for leaf in leaves(Deployment))
