"""Choices of a deployment that cost much and are easily made by mistake: a sentence for each, beside the result."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ModuleOp, StringAttr

from pmc.dialects.deployment import Deployment

EXPANDED_DECODE = (
    "absorb_mla is false in decode: every step expands the keys and values of all {kv_len} tokens from the latent; "
    "--absorb-mla attends over the latent itself"
)
ABSORBED_PREFILL = (
    "absorb_mla is true in prefill: with as many queries as keys, attention over the latent takes more FLOPs than "
    "expanding keys and values once; --no-absorb-mla expands them"
)


def hints(module: ModuleOp, deployment: Deployment, phases: Sequence[str]) -> list[str]:
    """What the user may not have meant, for the `phases` that the module is evaluated in."""
    found: list[str] = []
    if not _has_mla(module):
        return found
    if "decode" in phases and not deployment.absorb_mla:
        found.append(EXPANDED_DECODE.format(kv_len=deployment.kv_len))
    if "prefill" in phases and deployment.absorb_mla and (len(phases) > 1 or deployment.q_len == deployment.kv_len):
        found.append(ABSORBED_PREFILL)
    return found


def _has_mla(module: ModuleOp) -> bool:
    """Whether an op of any level comes from a block of multi-head latent attention."""
    paths = (op.properties.get("path") for op in module.walk())
    return any(isinstance(path, StringAttr) and "mla" in path.data.split(".") for path in paths)
