"""What the numbers of a result take for granted about its program, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation

from pmc.dialects import layer
from pmc.dialects.arch import Chip, DeploymentAttr
from pmc.dialects.checkpoint import StoredTypes, checkpoint_of
from pmc.dialects.deployment import Quantization
from pmc.dialects.element_formats import element_format
from pmc.dialects.tensor import tensor
from pmc.dialects.type_rules import CHECKPOINT_TYPES

MEAN_LOAD = "experts carry the load that their slots were lowered for, not that of the busiest rank"
"""Said of a program with plans, and of tiles or commands: its kernels have fixed sizes."""

OWN_LOAD = "kernels of experts have the rows of the slowest rank, shared evenly by its experts"
"""Said where a histogram of the routing says which rank that is, and its program was lowered for it."""

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
    deployment = module.attributes.get("arch.deployment")
    drafts = isinstance(deployment, DeploymentAttr) and deployment.data.draft_tokens > 0
    found += [f"{part} of the checkpoint not counted" for part in checkpoint.left_out(drafts)]
    if isinstance(deployment, DeploymentAttr) and checkpoint.stored is not None:
        found += _types(checkpoint.stored, deployment.data.quantization)
    return tuple(found)


def _types(stored: StoredTypes, run: Quantization) -> list[str]:
    """How the types of a deployment stand to those of the checkpoint; scales of groups alone are no difference."""
    words = stored.words
    if run.weights == CHECKPOINT_TYPES:
        return [f"weights as the checkpoint stores them (quantization_config): {words}"]
    same = stored.weights is not None and element_format(stored.weights).element == element_format(run.weights).element
    if same:
        return []
    return [f"the checkpoint stores weights as {words} (quantization_config), the deployment has {run.weights}"]


def held_rows(program: Operation, bindings: Mapping[str, int], chip: Chip) -> tuple[str, ...]:
    """That gathers of a prefill read rows which the cores hold, and whether the chip has room for them."""
    # Asked by property, as the dialects of kernels and commands are not loaded for a tensor program.
    gathers = [op for op in program.walk() if op.properties.get("bandwidth_domain") == StringAttr("on_chip")]
    if not gathers:
        return ()
    text = "rows that a prefill gathers are taken to be held by the cores: no read of DRAM is charged for them"
    layers: dict[str, int] = {}
    for op in gathers:
        if isinstance(op, layer.GatherRowsOp):
            block = op.path.data.rpartition(".")[0]
            layers[block] = layers.get(block, 0) + int(tensor(op.cache).bytes.evaluate(bindings))
    if layers and chip.command_level is not None:
        room, needed = chip.cores * chip.command_level.lmem.bytes_per_core, max(layers.values())
        fits = "" if needed <= room else ", which they cannot"
        text += f" ({needed / 1e6:.1f} MB of a layer in {room / 1e6:.1f} MB of LMEM{fits})"
    return (text,)


def honesty_notes(lower_bound: bool, assumptions: Sequence[str], unvalidated: Sequence[str]) -> list[str]:
    """The lines under a table that say how far its numbers can be trusted."""
    notes = [LOWER_BOUND] if lower_bound else []
    notes += assumptions
    if unvalidated:
        notes.append(f"relative only, never validated against silicon: {', '.join(unvalidated)}")
    return notes
