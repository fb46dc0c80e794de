"""Steps of the vector units: how many single operations a tensor op does per element and per row.

The counts for exp, div and rsqrt, for softmax and for RMSNorm are those of the SG2262 kernel templates as published
with Tier6-Model; the others are the same sums for their formulas.
"""

from __future__ import annotations

EXP = 35
DIV = 31
RSQRT = 30

SOFTMAX_PER_SCORE = 1 + EXP + 1
"""Subtract the maximum, exp, convert: per (query, key)."""

SOFTMAX_PER_ROW = 1 + 1 + EXP + 1 + 1 + 1 + 1
"""Reduce-max, max, exp of the correction, reduce-sum, mul, add, copy: per query row and key tile."""

RMS_NORM_PER_ELEMENT = 1 + 1 + 1 + 1
"""Square, mul, scale, convert."""

RMS_NORM_PER_ROW = 1 + DIV + 1 + RSQRT
"""Sum, mean, add eps, rsqrt."""

SIGMOID = EXP + 1 + DIV
"""exp, add, div."""

SILU_MUL_PER_ELEMENT = SIGMOID + 1 + 1 + 1
"""Sigmoid, times gate, times up, convert."""

ROPE_PER_ELEMENT = 1 + 1 + 1 + 1
"""Two mul, add, convert."""

SOFTMAX_SCORE_PER_LOGIT = 1 + EXP + DIV
"""Subtract the maximum, exp, div by the sum: a softmax over the experts."""
