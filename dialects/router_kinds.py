"""The vector kinds of the router of a mixture of experts: its choice, and the weights of what is chosen.

In the docstrings r is a row, which is a token, and i one of its choices; arithmetic is FP32.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from xdsl.dialects.builtin import BoolAttr, FloatAttr, IntegerAttr, NoneAttr, StringAttr
from xdsl.irdl import irdl_attr_definition

from pmc.dialects.expr import Expr
from pmc.dialects.vector_kind_attr import Matrix, VectorKindAttr
from pmc.dialects.vector_steps import SIGMOID, Arithmetic, VectorSteps

SCORINGS: dict[str, Arithmetic] = {
    "softmax": Arithmetic(5, VectorSteps(basic=1, exp=1, div=1)),
    "sigmoid": Arithmetic(5, SIGMOID),
    "sqrtsoftplus": Arithmetic(5, VectorSteps(basic=2, exp=2, rsqrt=1)),
    "none": Arithmetic(0, VectorSteps()),
}
"""What makes scores of router logits.

- softmax: exp of the difference to the maximum, over the sum.
- sqrtsoftplus: sqrt(log(1 + exp(x))) (DeepSeek-V4): exp, add, log, which has the price of an exponential; the root z of
  a number y is y * rsqrt(y).
"""


BEST_OF_GROUP = 2
"""Of a group of experts so many of its best choices are added up for its worth, where nothing else is said."""


@irdl_attr_definition
class RouterTopkAttr(VectorKindAttr):
    """Weights and indices of the `top_k` experts of each row from its logits, as in `layer.router_topk`.

    Steps of a logit: its score, one of `SCORINGS`, and one comparison per choice.
    """

    name: ClassVar[str] = "tile.router_topk"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("logits", "in"),
        Matrix("bias", "in", rows=1),
        Matrix("weights", "out", columns="top_k"),
        Matrix("indices", "out", columns="top_k"),
    )
    ENGINE: ClassVar[Literal["vec", "hau"]] = "hau"
    top_k: IntegerAttr
    scoring: StringAttr
    groups: IntegerAttr
    top_groups: IntegerAttr
    normalize: BoolAttr
    scale: FloatAttr
    best_of_group: IntegerAttr | NoneAttr

    @property
    def flops_per_element(self) -> int:
        """Scoring and one scan per choice."""
        return SCORINGS[self.scoring.data].flops + self.top_k.value.data

    @property
    def steps_per_element(self) -> VectorSteps:
        """The score, then one comparison per choice."""
        return SCORINGS[self.scoring.data].steps + VectorSteps(basic=self.top_k.value.data)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A known scoring; groups that divide the experts, and choices among those that there are."""
        if self.scoring.data not in SCORINGS:
            return f"scoring is '{self.scoring.data}', must be {', '.join(SCORINGS)}"
        top_k, groups, top_groups = (p.value.data for p in (self.top_k, self.groups, self.top_groups))
        if not 1 <= top_groups <= groups:
            return f"top_groups is {top_groups}, must be 1 to {groups}, the groups"
        if top_k < 1:
            return f"top_k is {top_k}, must be at least 1"
        best = self.best_of_group.value.data if isinstance(self.best_of_group, IntegerAttr) else BEST_OF_GROUP
        if best < 1:
            return f"best_of_group is {best}, must be at least 1"
        if not columns.is_constant:
            return None
        if columns.constant % groups:
            return f"{groups} groups do not divide {columns} experts"
        choices = columns.constant // groups * top_groups
        return None if top_k <= choices else f"top_k is {top_k}, there are {choices} experts to choose from"


@irdl_attr_definition
class RouterWeightsAttr(VectorKindAttr):
    """weights[r, i] = scale * score of logits[r, indices[r, i]], with `normalize` over their sum: chosen without them.

    Steps of a logit: its score, one of `SCORINGS`; of a choice: to pick it, times the scale, and to normalise an add
    and a mul, with one reciprocal a row.
    """

    name: ClassVar[str] = "tile.router_weights"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("logits", "in"),
        Matrix("indices", "in", columns="top_k"),
        Matrix("weights", "out", columns="top_k"),
    )
    top_k: IntegerAttr
    scoring: StringAttr
    normalize: BoolAttr
    scale: FloatAttr

    @property
    def flops_per_element(self) -> int:
        """Scoring."""
        return SCORINGS[self.scoring.data].flops

    @property
    def flops_per_row(self) -> int:
        """As the steps, but to pick."""
        top_k = self.top_k.value.data
        return 3 * top_k + 1 if bool(self.normalize) else top_k

    @property
    def steps_per_element(self) -> VectorSteps:
        """The score."""
        return SCORINGS[self.scoring.data].steps

    @property
    def steps_per_row(self) -> VectorSteps:
        """See above."""
        top_k = self.top_k.value.data
        return VectorSteps(basic=4 * top_k, div=1) if bool(self.normalize) else VectorSteps(basic=2 * top_k)

    def wrong_parameter(self, columns: Expr) -> str | None:
        """A known scoring, and choices among the experts."""
        if self.scoring.data not in SCORINGS:
            return f"scoring is '{self.scoring.data}', must be {', '.join(SCORINGS)}"
        top_k = self.top_k.value.data
        if top_k < 1 or (columns.is_constant and top_k > columns.constant):
            return f"top_k is {top_k}, must be 1 to {columns}, the experts"
        return None


@irdl_attr_definition
class ExpertScaleAttr(VectorKindAttr):
    """out[r, i] = scale[indices[r, i]] * weights[r, i], one of `experts` factors.  Steps: to pick it, mul, convert."""

    name: ClassVar[str] = "tile.expert_scale"
    MATRICES: ClassVar[tuple[Matrix, ...]] = (
        Matrix("weights", "in"),
        Matrix("indices", "in"),
        Matrix("scale", "in", rows=1, columns="experts"),
        Matrix("out", "out"),
    )
    FLOPS: ClassVar[int] = 1
    ELEMENT_STEPS: ClassVar[VectorSteps] = VectorSteps(basic=3)
    experts: IntegerAttr

    def wrong_parameter(self, columns: Expr) -> str | None:
        """At least as many experts as choices."""
        experts = self.experts.value.data
        wrong = experts < 1 or (columns.is_constant and columns.constant > experts)
        return f"experts is {experts}, must be at least {columns}, the choices" if wrong else None
