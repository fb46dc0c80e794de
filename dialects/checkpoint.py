"""What a checkpoint is made for and holds besides its blocks, as an attribute on the module at every level.

    #model.checkpoint<{longest_context = 163840, mtp_layers = 1, stored = {weights = "f8E4M3FN/128x128:f32", ..}}>

No op computes with it.  Lengths are held against it, `quantize` finds the types of the weights in it where a deployment
wants them as they are stored, and results say where they leave something of it out.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from pmc.dialects.schema import DType, Name, Schema, Tokens, TypeRules
from pmc.dialects.schema_text import parse_schema, print_schema
from pmc.dialects.type_rules import UNCONVERTED, HeldTypes, parse_rule

CHECKPOINT = "model.checkpoint"
"""The module attribute that holds it."""


class StoredTypes(Schema, frozen=True):
    """In which types a checkpoint stores its weights, and what it is made to run with."""

    weights: DType | None = Field(description="Element type of most weights; null: that of the model")
    activations: DType | None = Field(description="Element type of what they are multiplied with; null: the model's")
    kv_cache: DType | None = Field(description="Element type of the KV cache; null: that of the model")
    types: TypeRules = Field(description="Weights that are stored otherwise, as in the deployment's types")

    @property
    def held(self) -> HeldTypes:
        """The same as what a program holds."""
        weights, activations, cache = (name or UNCONVERTED for name in (self.weights, self.activations, self.kv_cache))
        return HeldTypes(weights, activations, cache, tuple(parse_rule(text) for text in self.types))

    @property
    def words(self) -> str:
        """All types of weights, the first that of most."""
        rules = (parse_rule(text).weights for text in self.types)
        names = dict.fromkeys(name for name in (self.weights, *rules) if name not in (None, UNCONVERTED))
        return " and ".join(map(str, names)) or "no other type"


NOT_QUANTIZED = StoredTypes(weights=None, activations=None, kv_cache=None, types=())


class Checkpoint(Schema, frozen=True):
    """Facts of a Hugging Face config that no block holds."""

    longest_context: Tokens | None = Field(
        description="Tokens that the positions of the model are made for; null where the config does not say"
    )
    mtp_layers: Annotated[int, Field(ge=0)] = Field(
        description="Multi-token-prediction layers, which are in no block and in no count"
    )
    encoders: Annotated[tuple[Name, ...], Field(strict=False)] = Field(
        description="What the checkpoint reads besides text, by encoders that are in no block and in no count"
    )
    stored: StoredTypes | None = Field(description="Element types of a quantized checkpoint; null for no such")

    def left_out(self, drafts: bool = False) -> list[str]:
        """What is in the checkpoint and in no count; layers that draft tokens are counted."""
        layers = "layer" if self.mtp_layers == 1 else "layers"
        found = [f"{self.mtp_layers} multi-token-prediction {layers}"] if self.mtp_layers and not drafts else []
        return found + [f"the {name} encoder" for name in self.encoders]


@irdl_attr_definition
class CheckpointAttr(Data[Checkpoint]):
    """``#model.checkpoint<{...}>``: what the config says besides the blocks."""

    name = "model.checkpoint"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Checkpoint:
        """Parses and validates; an error names the field."""
        return parse_schema(parser, Checkpoint)

    def print_parameter(self, printer: Printer) -> None:
        """Prints every field, so that parsing gives an equal attribute."""
        print_schema(printer, self.data)


def too_long(module: ModuleOp, kv_len: int, longer_context: bool) -> str | None:
    """What is wrong with attending to `kv_len` tokens, unless the deployment says that longer contexts are run."""
    checkpoint = checkpoint_of(module)
    longest = None if checkpoint is None else checkpoint.longest_context
    if longer_context or longest is None or kv_len <= longest:
        return None
    return (
        f"kv_len {kv_len} is more than the {longest} tokens that the model is made for (max_position_embeddings); "
        "--longer-context runs it all the same, and results say so"
    )


def stored_types(module: ModuleOp) -> HeldTypes:
    """The types of the checkpoint of a module; those of the model where it is not quantized or not known."""
    checkpoint = checkpoint_of(module)
    stored = None if checkpoint is None else checkpoint.stored
    return (NOT_QUANTIZED if stored is None else stored).held


def checkpoint_of(module: ModuleOp) -> Checkpoint | None:
    """What is known of the checkpoint of a module; None for IR that was not imported."""
    found = module.attributes.get(CHECKPOINT)
    return found.data if isinstance(found, CheckpointAttr) else None
