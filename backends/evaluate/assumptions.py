"""What the numbers of a result take for granted about its program, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import ModuleOp

from pmc.dialects.arch import DeploymentAttr
from pmc.dialects.checkpoint import checkpoint_of

MEAN_LOAD = "experts carry the load that their slots were lowered for, not that of the busiest rank"
"""Said of a program with plans, and of tiles or commands: its kernels have fixed sizes."""

PADDING = "FLOPs count the sequences that a batch was padded with when its shapes became numbers"
"""Said of such a program where dp does not divide the batch."""

LOWER_BOUND = "a lower bound: every op takes at least the time that its roofline says, nothing is in its way"
"""Said of a result whose times no hardware of these rates can be below."""


def checkpoint_assumptions(module: ModuleOp, bindings: Mapping[str, int]) -> tuple[str, ...]:
    """Where the evaluated program is another one than that of the checkpoint, at the point `bindings`."""
    checkpoint = checkpoint_of(module)
    if checkpoint is None:
        return ()
    found: list[str] = []
    kv_len, longest = bindings.get("kv_len"), checkpoint.longest_context
    if kv_len is not None and longest is not None and kv_len > longest:
        found.append(f"kv_len {kv_len} is longer than the model is made for, which is {longest} tokens")
    if checkpoint.mtp_layers:
        layers = "layer" if checkpoint.mtp_layers == 1 else "layers"
        found.append(f"{checkpoint.mtp_layers} multi-token-prediction {layers} of the checkpoint not counted")
    deployment = module.attributes.get("arch.deployment")
    stored = checkpoint.stored_weights
    if isinstance(deployment, DeploymentAttr) and stored is not None:
        run = deployment.data.quantization.weights
        if run != stored:
            found.append(f"the checkpoint stores weights as {stored} (quantization_config), the deployment has {run}")
    return tuple(found)


def honesty_notes(lower_bound: bool, assumptions: Sequence[str], unvalidated: Sequence[str]) -> list[str]:
    """The lines under a table that say how far its numbers can be trusted."""
    notes = [LOWER_BOUND] if lower_bound else []
    notes += assumptions
    if unvalidated:
        notes.append(f"relative only, never validated against silicon: {', '.join(unvalidated)}")
    return notes
