"""Recurrent token mixers of the `model` dialect: a state of a fixed size takes the place of a cache of all tokens."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from xdsl.dialects.builtin import BoolAttr, FloatAttr, IntegerAttr, f32
from xdsl.irdl import irdl_op_definition, opt_prop_def, prop_def

from pmc.dialects.effects import UPDATES, Effects
from pmc.dialects.model_block import BlockOp, StateSpec, WeightSpec

QK_EPS = 1e-6
"""What a delta rule adds to the squared length of a query or key: fixed in the code, no field sets it."""


def _shared(groups: IntegerAttr) -> str:
    """The axis of what groups of heads share: one for all heads is on every rank."""
    return "heads" if groups.value.data > 1 else ""


class RecurrentBlockOp(BlockOp):
    """What the mixers have in common: short causal convolutions, and a recurrence in heads that share keys in groups.

    The convolution of the published code runs over all of its inputs at once; as every channel is by itself, here each
    input has the convolution of its own channels, as it has a projection of its own: heads stay together when they are
    split.
    """

    EFFECTS: ClassVar[Effects] = UPDATES
    conv_kernel = prop_def(IntegerAttr)
    """The tokens that an output of a convolution depends on."""
    conv_bias = opt_prop_def(BoolAttr)

    def verify_(self) -> None:
        """A convolution has a past; rows keep their width."""
        super().verify_()
        self.require_same_type()
        taps = self.conv_kernel.value.data
        self.require(taps > 1, f"conv_kernel is {taps}, must be at least 2")

    @property
    @abstractmethod
    def convolved(self) -> dict[str, tuple[int, str]]:
        """The inputs of the recurrence behind a convolution: the width of each, and the axis of its columns."""

    def input_weights(self) -> list[WeightSpec]:
        """Projection and convolution of each of these inputs."""
        found: list[WeightSpec] = []
        for name, (width, axis) in self.convolved.items():
            found.append(WeightSpec(f"{name}_proj.weight", (self.width, width), ("", axis)))
            found.append(WeightSpec(f"{name}_conv.weight", (width, self.conv_kernel.value.data), (axis, "")))
            if self.conv_bias:
                found.append(WeightSpec(f"{name}_conv.bias", (width,), (axis,), role="bias"))
        return found

    def conv_states(self) -> list[StateSpec]:
        """The inputs of the convolutions before the next token."""
        taps = self.conv_kernel.value.data
        return [
            StateSpec(f"{name}_conv_state", (taps - 1, width), ("", axis), "conv")
            for name, (width, axis) in self.convolved.items()
        ]

    def recurrent_state(self, rows: int, columns: int) -> StateSpec:
        """The matrices of all heads, one below the other, which add up over all tokens in FP32."""
        return StateSpec("recurrent_state", (rows, columns), ("heads", ""), "recurrent", f32)


@irdl_op_definition
class GatedDeltaNetOp(RecurrentBlockOp):
    """Linear attention with the gated delta rule (Yang, Kautz and Hatamizadeh, 2024), as in Qwen3-Next and Qwen3.5.

    q, k and v are projections behind a convolution and SiLU, q and k of length 1; the state of a value head decays by
    exp(-exp(A_log) softplus(a + dt_bias)) and is corrected by the share sigmoid(b).  What is read of it goes through an
    RMS norm per head and is gated by SiLU(z).
    """

    name = "model.gated_delta_net"
    POSITIVE: ClassVar[tuple[str, ...]] = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")
    num_key_heads = prop_def(IntegerAttr)
    num_value_heads = prop_def(IntegerAttr)
    key_head_dim = prop_def(IntegerAttr)
    value_head_dim = prop_def(IntegerAttr)
    norm_eps = prop_def(FloatAttr)

    def verify_(self) -> None:
        """Value heads share key heads in equal groups."""
        super().verify_()
        keys, values = self.num_key_heads.value.data, self.num_value_heads.value.data
        self.require(values % keys == 0, f"num_value_heads {values} is not a multiple of num_key_heads {keys}")

    @property
    def key_width(self) -> int:
        """The columns of all key heads, and of all queries."""
        return self.num_key_heads.value.data * self.key_head_dim.value.data

    @property
    def value_width(self) -> int:
        """The columns of all value heads."""
        return self.num_value_heads.value.data * self.value_head_dim.value.data

    @property
    def convolved(self) -> dict[str, tuple[int, str]]:
        keys = (self.key_width, _shared(self.num_key_heads))
        return {"q": keys, "k": keys, "v": (self.value_width, "heads")}

    def weights(self) -> list[WeightSpec]:
        """Projections and convolutions of q, k and v, projections of gate, share and decay, norm, output projection."""
        heads = self.num_value_heads.value.data
        others = {"z": self.value_width, "b": heads, "a": heads}
        return [
            *self.input_weights(),
            *(WeightSpec(f"{n}_proj.weight", (self.width, width), ("", "heads")) for n, width in others.items()),
            WeightSpec("A_log", (heads,), ("heads",)),
            WeightSpec("dt_bias", (heads,), ("heads",), role="bias"),
            WeightSpec("gated_norm.weight", (self.value_head_dim.value.data,), ("",)),
            WeightSpec("out_proj.weight", (self.value_width, self.width), ("heads", "")),
        ]

    def states(self) -> list[StateSpec]:
        """The last inputs of the convolutions, and key_head_dim x value_head_dim per value head."""
        rows = self.num_value_heads.value.data * self.key_head_dim.value.data
        return [*self.conv_states(), self.recurrent_state(rows, self.value_head_dim.value.data)]


@irdl_op_definition
class KimiDeltaOp(RecurrentBlockOp):
    """Kimi Delta Attention (Kimi Linear report, arXiv 2510.26692): a gated delta rule with a decay per column of a key.

    q, k and v are projections behind a convolution and SiLU, q and k of length 1.  Row c of the state of a head decays
    by exp(-exp(A_log) softplus(f_b(f_a(x)) + dt_bias)) with a number for every column c of its keys, and is corrected
    by the share sigmoid(b).  What is read of it goes through an RMS norm per head and is gated by sigmoid(g_b(g_a(x))).
    The ranks of f and g are the width of a head.
    """

    name = "model.kda"
    POSITIVE: ClassVar[tuple[str, ...]] = ("num_heads", "head_dim")
    num_heads = prop_def(IntegerAttr)
    head_dim = prop_def(IntegerAttr)
    """The columns of a key and of a value."""
    norm_eps = prop_def(FloatAttr)

    @property
    def inner(self) -> int:
        """The columns of all heads."""
        return self.num_heads.value.data * self.head_dim.value.data

    @property
    def convolved(self) -> dict[str, tuple[int, str]]:
        keys = (self.inner, _shared(self.num_heads))
        return {"q": keys, "k": keys, "v": (self.inner, "heads")}

    def weights(self) -> list[WeightSpec]:
        """Projections and convolutions of q, k and v, share, decay and gate with their ranks, norm, output."""
        heads, rank = self.num_heads.value.data, self.head_dim.value.data
        return [
            *self.input_weights(),
            WeightSpec("b_proj.weight", (self.width, heads), ("", "heads")),
            WeightSpec("f_a_proj.weight", (self.width, rank), ("", "")),
            WeightSpec("f_b_proj.weight", (rank, self.inner), ("", "heads")),
            WeightSpec("A_log", (heads,), ("heads",)),
            WeightSpec("dt_bias", (self.inner,), ("heads",), role="bias"),
            WeightSpec("g_a_proj.weight", (self.width, rank), ("", "")),
            WeightSpec("g_b_proj.weight", (rank, self.inner), ("", "heads")),
            WeightSpec("gated_norm.weight", (rank,), ("",)),
            WeightSpec("o_proj.weight", (self.inner, self.width), ("heads", "")),
        ]

    def states(self) -> list[StateSpec]:
        """The last inputs of the convolutions, and head_dim x head_dim per head."""
        return [*self.conv_states(), self.recurrent_state(self.inner, self.head_dim.value.data)]


@irdl_op_definition
class Mamba2Op(RecurrentBlockOp):
    """The mixer of Mamba2 (Dao and Gu, 2024) as in Nemotron-H: a state space per head, B and C per group of heads.

    x, B and C are projections behind a convolution and SiLU; dt = softplus(dt + dt_bias) between `time_step_min` and
    `time_step_max`.  What is read of the state is gated by SiLU(z), then normalised in as many parts as there are
    groups.
    """

    name = "model.mamba2"
    POSITIVE: ClassVar[tuple[str, ...]] = ("num_heads", "head_dim", "n_groups", "state_size")
    num_heads = prop_def(IntegerAttr)
    head_dim = prop_def(IntegerAttr)
    n_groups = prop_def(IntegerAttr)
    state_size = prop_def(IntegerAttr)
    time_step_min = prop_def(FloatAttr)
    time_step_max = prop_def(FloatAttr)
    """The limits of dt; the upper one may be infinite."""
    norm_eps = prop_def(FloatAttr)

    def verify_(self) -> None:
        """Heads share B and C in equal groups; limits in order."""
        super().verify_()
        heads, groups = self.num_heads.value.data, self.n_groups.value.data
        self.require(heads % groups == 0, f"num_heads {heads} is not a multiple of n_groups {groups}")
        low, high = self.time_step_min.value.data, self.time_step_max.value.data
        self.require(low <= high, f"time_step_min {low} is above time_step_max {high}")

    @property
    def inner(self) -> int:
        """The columns of all heads."""
        return self.num_heads.value.data * self.head_dim.value.data

    @property
    def convolved(self) -> dict[str, tuple[int, str]]:
        group = (self.n_groups.value.data * self.state_size.value.data, _shared(self.n_groups))
        return {"x": (self.inner, "heads"), "B": group, "C": group}

    def weights(self) -> list[WeightSpec]:
        """Projections and convolutions of x, B and C, projections of gate and dt, constants, norm, output."""
        heads = self.num_heads.value.data
        return [
            *self.input_weights(),
            WeightSpec("z_proj.weight", (self.width, self.inner), ("", "heads")),
            WeightSpec("dt_proj.weight", (self.width, heads), ("", "heads")),
            WeightSpec("dt_bias", (heads,), ("heads",), role="bias"),
            WeightSpec("A_log", (heads,), ("heads",)),
            WeightSpec("D", (heads,), ("heads",)),
            WeightSpec("gated_norm.weight", (self.inner,), ("heads",)),
            WeightSpec("out_proj.weight", (self.inner, self.width), ("heads", "")),
        ]

    def states(self) -> list[StateSpec]:
        """The last inputs of the convolutions, and head_dim x state_size per head."""
        return [*self.conv_states(), self.recurrent_state(self.inner, self.state_size.value.data)]
