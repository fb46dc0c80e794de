"""What a checkpoint is made for and holds besides its blocks, as an attribute on the module at every level.

    #model.checkpoint<{longest_context = 163840, mtp_layers = 1, stored_weights = "f8E4M3FN"}>

No op computes with it.  Lengths are held against it, and results say where they leave something of it out.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from pmc.dialects.schema import Name, Schema, Tokens
from pmc.dialects.schema_text import parse_schema, print_schema

CHECKPOINT = "model.checkpoint"
"""The module attribute that holds it."""


class Checkpoint(Schema, frozen=True):
    """Facts of a Hugging Face config that no block holds."""

    longest_context: Tokens | None = Field(
        description="Tokens that the positions of the model are made for; null where the config does not say"
    )
    mtp_layers: Annotated[int, Field(ge=0)] = Field(
        description="Multi-token-prediction layers, which are in no block and in no count"
    )
    stored_weights: Name | None = Field(
        description="Element type of quantized weights; null where they have the type of the model"
    )


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


def checkpoint_of(module: ModuleOp) -> Checkpoint | None:
    """What is known of the checkpoint of a module; None for IR that was not imported."""
    found = module.attributes.get(CHECKPOINT)
    return found.data if isinstance(found, CheckpointAttr) else None
