"""The quantize pass."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from pmc.dialects import layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.checkpoint import stored_types
from pmc.dialects.element_formats import element_format
from pmc.dialects.levels import Level
from pmc.dialects.tensor import TypeMismatchError, element_bits, tensor, type_of_format
from pmc.dialects.type_rules import CHECKPOINT_TYPES, UNCONVERTED, HeldTypes, held_types
from pmc.passes.base import PassError, PmcPass

ATTENTION_TYPES = ("f32", "f16", "bf16", "f8E4M3FN", "f8E5M2")
"""In what attention can be computed."""


@dataclass(frozen=True)
class QuantizePass(PmcPass):
    """Set the element types of matmul weights, of their activations, and of the KV cache.

        %w = layer.weight() {..} at "blocks.dense.ffn.up_proj.weight" : !layer.tensor<.., bf16>
        %y = layer.matmul(%x, %w) at "blocks.dense.ffn.up_proj" : !layer.tensor<.., bf16>

    becomes, with `quantize{weights="f8E4M3FN" activations="f8E4M3FN"}`,

        %w = layer.weight() {..} at "blocks.dense.ffn.up_proj.weight" : !layer.tensor<.., f8E4M3FN>
        %q = layer.quantize(%x) at "blocks.dense.ffn.norm.quantize" : !layer.tensor<.., f8E4M3FN>
        %y = layer.matmul(%q, %w) at "blocks.dense.ffn.up_proj" : !layer.tensor<.., bf16>

    An option shortens: what is no longer than it asks for stays, so `bf16` leaves a model of float16 as it is.  One
    value is quantised once for all its readers; expert rows are quantised before the dispatch, which then moves the
    short rows.  Weights whose path matches one of the comma separated patterns `keep` stay as they are, and so do
    norms, router biases and the embedding table; `types` are comma separated rules `PATTERN=WEIGHTS+ACTIVATIONS` for
    weights of other types (see `pmc.dialects.type_rules`).  A pattern that matches no weight is an error.
    `checkpoint` for weights, activations or the KV cache is what `#model.checkpoint` says.  New cache rows are
    quantised before they are appended.  The queries of an indexer are converted to the type in which its keys are
    cached, in which both are multiplied.  `attention` is the type in which the two products of attention are computed:
    queries are converted to it, and computed keys and values; a shorter cache is read as it is stored, a longer one
    is refused.
    Results stay in the model's element type.

    Raises PassError for operands that no matrix unit multiplies with each other.
    """

    name = "quantize"
    READS: ClassVar[tuple[Level, ...]] = ("layer",)

    weights: str = UNCONVERTED
    activations: str = UNCONVERTED
    kv_cache: str = UNCONVERTED
    attention: str = UNCONVERTED
    keep: str = ""
    types: str = ""

    def __post_init__(self) -> None:
        """Check the names of the element types and write them as dumps have them."""
        for option in ("weights", "activations", "kv_cache", "attention"):
            name: str = getattr(self, option)
            if name == UNCONVERTED or (name == CHECKPOINT_TYPES and option != "attention"):
                continue
            words = option.replace("_", "-")
            try:
                found = element_format(name)
            except ValueError as error:
                raise PassError(f"{self.name}: {words}: {error}") from None
            if found.scales is not None and option != "weights":
                raise PassError(
                    f"{self.name}: {words} is '{name}': scales of groups are modelled for weights only; "
                    f"{found.element} has none"
                )
            object.__setattr__(self, option, str(found))
        if self.attention != UNCONVERTED and self.attention not in ATTENTION_TYPES:
            raise PassError(
                f"{self.name}: attention is '{self.attention}', must be one of {', '.join(ATTENTION_TYPES)}: "
                "the weights of a softmax are at most 1, and no integer and no 4-bit type holds them"
            )

    def run(self, module: ModuleOp) -> None:
        """Caches first, because what they hold may need no conversion later; then products; then queries."""
        held = self._held(module)
        cache, arithmetic = _element_type(held.kv_cache), _element_type(self.attention)
        ops = list(module.walk())
        self._check_patterns(ops)
        converter = _Converter()
        if cache is not None:
            for append in ops:
                if isinstance(append, layer.KvAppendOp) and append.holds_keys and _is_longer(append.cache, cache):
                    _retype(append.cache, cache)
                    converter.convert_operand(append, append.new, cache)
                    _retype(append.y, cache)
            for op in ops:
                if isinstance(op, layer.GatherRowsOp):
                    _retype(op.y, tensor(op.cache).element_type)
                elif isinstance(op, layer.IndexScoresOp):
                    for query, key in zip(op.q, op.k, strict=True):
                        converter.convert_operand(op, query, tensor(key).element_type)
                elif isinstance(op, layer.BlockScoresOp):
                    converter.convert_operand(op, op.q, tensor(op.k).element_type)
        wanted: dict[_Product, Attribute] = {}
        for product in (op for op in ops if isinstance(op, _PRODUCTS)):
            weights, activations = _types_of(product, held)
            if weights is not None and _is_longer(product.w, weights):
                _retype_parameter(product.w, weights)
            if weights is not None and activations is not None:
                wanted[product] = activations
        _convert_activations(wanted, converter)
        for attention in ops:
            if isinstance(attention, layer.FlashAttentionOp) and arithmetic is not None:
                for value in dict.fromkeys((*attention.q, *attention.k, attention.v)):
                    stored = isinstance(value.owner, layer.KvAppendOp | layer.GatherRowsOp)
                    if stored and _is_longer(value, arithmetic):
                        raise PassError(
                            f"{self.name}: attention is '{self.attention}' and the KV cache "
                            f"{tensor(value).element_type}: it would be converted whole in every step; "
                            f"store it as '{self.attention}' too"
                        )
                    converter.convert_operand(attention, value, arithmetic)
        for op in ops:
            if isinstance(op, layer.MatrixOp):
                self._check_types(op)

    def _check_types(self, op: layer.MatrixOp) -> None:
        """Raise PassError for operands that cannot be multiplied: a choice of options, not a fault of the pass."""
        try:
            op.compute_dtype()
        except TypeMismatchError as error:
            raise PassError(f"{self.name}: {op.name} at '{op.path.data}': {error}") from None

    def _held(self, module: ModuleOp) -> HeldTypes:
        """What the options mean for a module."""
        stored = stored_types(module)
        try:
            values = (self.weights, self.activations, self.kv_cache, _parts(self.keep), _parts(self.types))
            return held_types(*values, stored)
        except ValueError as error:
            raise PassError(f"{self.name}: types: {error}") from None

    def _check_patterns(self, ops: Sequence[Operation]) -> None:
        """Raise PassError for a pattern that matches no weight of a product, naming paths that are close to it.

        Those of the checkpoint are not asked: a stage of a pipeline need not have all of its layers.
        """
        paths = [parameter.path.data for op in ops if isinstance(op, _PRODUCTS) and (parameter := _parameter(op.w))]
        given = [("keep", pattern) for pattern in _parts(self.keep)]
        given += [("types", text.partition("=")[0]) for text in _parts(self.types)]
        for option, pattern in given:
            if not fnmatch.filter(paths, pattern):
                raise PassError(
                    f"{self.name}: {option} pattern '{pattern}' matches no weight; {close_paths(pattern, paths)}"
                )


CLOSE_PATHS = 3
"""Paths that an error names."""


def close_paths(pattern: str, paths: Sequence[str]) -> str:
    """The weights whose paths are most like a pattern: those that contain its words, else those spelt alike.

    `keep` patterns are those of `fnmatch` on whole paths, so a part of a path needs `*` on both sides.
    """
    words = [word for word in re.split(r"[*?.\[\]!]+", pattern) if word]
    known = list(dict.fromkeys(paths))
    near = [path for path in known if words and all(word in path for word in words)]
    if not near:
        parts = {part: path for path in known for part in (*path.split("."), path)}
        alike = [m for word in (pattern, *words) for m in difflib.get_close_matches(word, list(parts), n=2)]
        near = list(dict.fromkeys(parts[part] for part in alike))
    return f"{'close are' if near else 'there are'} {', '.join((near or known)[:CLOSE_PATHS])}"


_Product = layer.MatmulOp | layer.GroupedMatmulOp | layer.HeadMatmulOp
_PRODUCTS = (layer.MatmulOp, layer.GroupedMatmulOp, layer.HeadMatmulOp)


class _Converter:
    """Inserts `layer.quantize` behind the definition of a value, once per value and element type."""

    def __init__(self) -> None:
        self.converted: dict[tuple[SSAValue, Attribute], SSAValue] = {}

    def convert_operand(self, user: Operation, value: SSAValue, element_type: Attribute) -> None:
        """Make `user` read `value` in `element_type`; a value that is as short already stays."""
        if not _is_longer(value, element_type):
            return
        key = (value, element_type)
        if key not in self.converted:
            self.converted[key] = _insert_quantize(value, element_type)
        for index, operand in enumerate(user.operands):
            if operand is value:
                user.operands[index] = self.converted[key]


def _insert_quantize(value: SSAValue, element_type: Attribute) -> SSAValue:
    owner = value.owner
    source = owner.parent_op() if isinstance(owner, Block) else owner
    path = f"{source.path.data}.quantize" if isinstance(source, PmcOp) else "quantize"
    result = tensor(value).with_element_type(element_type)
    quantize = layer.QuantizeOp.make([value], [result], path, like=source)
    point = InsertPoint.at_start(owner) if isinstance(owner, Block) else InsertPoint.after(owner)
    Rewriter.insert_op(quantize, point)
    return quantize.y


def _parts(text: str) -> list[str]:
    """What stands between the commas."""
    return [part for piece in text.split(",") if (part := piece.strip())]


def _element_type(name: str) -> Attribute | None:
    return None if name == UNCONVERTED else type_of_format(name)


def _types_of(product: _Product, held: HeldTypes) -> tuple[Attribute | None, Attribute | None]:
    """Of the weight of a product and of its activation; a tied weight is the embedding table, which stays."""
    parameter = _parameter(product.w)
    if parameter is None or parameter.transpose_of is not None:
        return None, None
    weights, activations = held.of(parameter.path.data)
    return _element_type(weights), _element_type(activations)


def _convert_activations(wanted: Mapping[_Product, Attribute], converter: _Converter) -> None:
    """Convert the activation of every product, before the dispatch if all products behind it want the same."""
    of_op: dict[Operation, Attribute] = dict(wanted.items())
    for product, element_type in wanted.items():
        dispatch = product.x.owner
        alike = all(of_op.get(use.operation) == element_type for use in product.x.uses)
        if isinstance(dispatch, layer.DispatchOp) and alike:
            converter.convert_operand(dispatch, dispatch.x, element_type)
            _retype(dispatch.y, tensor(dispatch.x).element_type)
        else:
            converter.convert_operand(product, product.x, element_type)


def _parameter(w: SSAValue) -> layer.WeightOp | None:
    """The weight that `w` is, or is a slice of."""
    owner = w.owner
    while isinstance(owner, layer.SliceOp):
        owner = owner.x.owner
    return owner if isinstance(owner, layer.WeightOp) else None


def _retype_parameter(w: SSAValue, element_type: Attribute) -> None:
    """Change a weight and the slices between it and `w`."""
    owner = w.owner
    if isinstance(owner, layer.SliceOp):
        _retype_parameter(owner.x, element_type)
    _retype(w, element_type)


def _is_longer(value: SSAValue, element_type: Attribute) -> bool:
    return element_bits(tensor(value).element_type) > element_bits(element_type)


def _retype(value: SSAValue, element_type: Attribute) -> None:
    result = tensor(value).with_element_type(element_type)
    if result != value.type:
        Rewriter.replace_value_with_new_type(value, result)
