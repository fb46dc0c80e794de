"""Speculative decoding in results: the tokens of a step, and its time for verifying and for drafting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.metrics import EngineResult
from pmc.dialects.arch import DeploymentAttr
from pmc.dialects.deployment import Deployment
from pmc.dialects.drafting import is_drafting
from pmc.dialects.interfaces import IntArray


@dataclass(frozen=True)
class Speculation:
    """A step in which tokens are drafted.  Times in us, of one op after the other."""

    draft_tokens: int
    accepted_length: float
    """Mean tokens of a sequence that the step writes: an assumption of the deployment."""
    verify_us: float
    """The model on the new token and the drafts of the step before."""
    draft_us: float
    """The applications of the draft layer."""
    us_per_token: float
    """The scheduled step over the tokens that it writes: what a sequence waits for a token on average."""

    @classmethod
    def of(cls, module: ModuleOp, ops: EngineResult, total_us: float) -> Speculation | None:
        """That of an evaluated decode step, None for one without drafts, and for prefill."""
        deployment, accepted = drafting(module), accepted_length(module)
        if deployment is None or accepted is None:
            return None
        draft_us = sum(step.time_us for step in ops.steps if is_drafting(step.path))
        return cls(deployment.draft_tokens, accepted, ops.total_us - draft_us, draft_us, total_us / accepted)

    def to_dict(self) -> dict[str, object]:
        """The JSON form: plain values, keys in a fixed order; new keys are only ever appended."""
        return asdict(self)

    def __str__(self) -> str:
        tokens = "token" if self.draft_tokens == 1 else "tokens"
        return (
            f"speculative decoding: verify {self.verify_us:.3f} us, draft {self.draft_tokens} {tokens} "
            f"{self.draft_us:.3f} us; {self.us_per_token:.3f} us per token at an accepted length of "
            f"{self.accepted_length:g}"
        )


def drafting(module: ModuleOp) -> Deployment | None:
    """The deployment of a module whose program drafts tokens, None for another."""
    found = module.attributes.get("arch.deployment")
    return found.data if isinstance(found, DeploymentAttr) and found.data.draft_tokens else None


def queries_of(module: ModuleOp) -> int:
    """The rows of a sequence in a decode step: its new token, and the drafts that are verified with it."""
    deployment = drafting(module)
    return 1 if deployment is None else 1 + deployment.draft_tokens


def tokens_of_step(module: ModuleOp, symbols: Mapping[str, int]) -> int | float:
    """Tokens that a step reads (prefill) or writes (decode): with drafts the accepted length of every sequence."""
    return symbols.get("batch", 1) * (accepted_length(module) or symbols.get("q_len", 1))


def accepted_length(module: ModuleOp) -> float | None:
    """Mean tokens of a sequence that a decode step with drafts writes; None for other steps."""
    deployment = drafting(module)
    return None if deployment is None or deployment.phase != "decode" else deployment.accepted


def lengths_of_steps(module: ModuleOp, isl: int, osl: int) -> IntArray:
    """The `kv_len` of the decode steps of a request behind its first token.

    Without drafts there is a step for every token.  With drafts every step writes the accepted length on average, so
    that ceil((osl - 1) / accepted) are needed, and its keys include those of the drafts that it verifies.
    """
    length = accepted_length(module)
    if length is None:
        return np.arange(isl + 1, isl + osl, dtype=np.int64)
    accepted, first = Fraction(repr(length)), isl + queries_of(module)
    steps = ceil((osl - 1) / accepted)
    return np.asarray([first + floor(step * accepted) for step in range(steps)], np.int64)
