"""Rotary embeddings of the reference, as complex products: nothing of them is shared with the lower levels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pmc.backends.numeric.errors import Array, NumericError


@dataclass(frozen=True)
class Rotary:
    """The rotary embedding of an attention block (RoFormer, equation 34, with yarn or llama3 scaling)."""

    theta: float
    scaling: dict[str, float | str | list[float]]
    interleaved: bool
    tokens: int
    """Those of a whole sequence."""
    forwards: int = 1
    """-1 turns the other way."""

    def rotate(self, x: Array, first_position: int) -> Array:
        """x [positions, d] with column pair j of position p turned by p * frequency j."""
        half = x.shape[1] // 2
        y = np.empty_like(x)
        for j in range(half):
            a, b = (2 * j, 2 * j + 1) if self.interleaved else (j, j + half)
            angles = np.arange(first_position, first_position + len(x)) * self.frequency(j, x.shape[1])
            turned = (x[:, a] + 1j * x[:, b]) * np.exp(1j * self.forwards * angles) * self.amplitude()
            y[:, a], y[:, b] = turned.real, turned.imag
        return y

    def number(self, name: str) -> float:
        """A numeric field of the scaling."""
        value = self.scaling.get(name)
        if value is None or isinstance(value, list):
            raise NumericError(f"rope_scaling has no number '{name}'")
        return float(value)

    def frequency(self, j: int, d: int) -> float:
        """Radians per position of pair j of d/2."""
        base = float(self.theta ** (-2 * j / d))
        match self.scaling.get("rope_type"):
            case None:
                return base
            case "linear":
                return base / self.number("factor")
            case "proportional":
                return base if j < math.floor(self.number("partial_rotary_factor") * d / 2) else 0.0
            case "llama3":
                wavelength = 2 * math.pi / base
                context, factor = self.number("original_max_position_embeddings"), self.number("factor")
                low, high = self.number("low_freq_factor"), self.number("high_freq_factor")
                if wavelength < context / high:
                    return base
                if wavelength > context / low:
                    return base / factor
                smooth = (context / wavelength - low) / (high - low)
                return (1 - smooth) * base / factor + smooth * base
            case "yarn":
                context, factor = self.number("original_max_position_embeddings"), self.number("factor")

                def pair_with_turns(turns: float) -> float:
                    return d * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

                start, end = pair_with_turns(self.number("beta_fast")), pair_with_turns(self.number("beta_slow"))
                if self.scaling.get("truncate", True):
                    start, end = math.floor(start), math.ceil(end)
                start, end = max(start, 0), min(end, d - 1)
                ramp = (j - start) / (end - start if end > start else 0.001)
                stretched = min(max(ramp, 0.0), 1.0)
                return base / factor * stretched + base * (1 - stretched)
            case "longrope":
                is_long = self.tokens > self.number("original_max_position_embeddings")
                factors = self.scaling["long_factor" if is_long else "short_factor"]
                assert isinstance(factors, list)
                return base / factors[j]
            case unknown:
                raise NumericError(
                    f"rope_scaling type {unknown!r} is unknown, must be linear, llama3, yarn or longrope"
                )

    def amplitude(self) -> float:
        """The factor that yarn and longrope put on queries and keys alike."""
        if self.scaling.get("rope_type") == "longrope":
            return self.number("attention_factor")
        if self.scaling.get("rope_type") != "yarn":
            return 1.0
        if "attention_factor" in self.scaling:
            return self.number("attention_factor")
        if self.scaling.get("mscale") and self.scaling.get("mscale_all_dim"):
            return self.mscale("mscale") / self.mscale("mscale_all_dim")
        return self.mscale_of(1.0)

    def mscale(self, name: str) -> float:
        """The attention scale with the weight in field `name`."""
        return self.mscale_of(self.number(name))

    def mscale_of(self, weight: float) -> float:
        """0.1 * m * ln(factor) + 1 where the context is stretched (YaRN, equation 15, with DeepSeek-V2's m)."""
        return 0.1 * weight * math.log(max(self.number("factor"), 1.0)) + 1.0

    def mla_scale(self) -> float:
        """The extra factor on the softmax scale of MLA: mscale_all_dim squared."""
        return self.mscale("mscale_all_dim") ** 2 if self.scaling.get("mscale_all_dim") else 1.0
