"""The quantize pass."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from pmc.dialects import layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.element_formats import element_format
from pmc.dialects.levels import Level
from pmc.dialects.tensor import TypeMismatchError, element_bits, tensor, type_of_format
from pmc.passes.base import PassError, PmcPass

KEEP_MODEL_DTYPE = "none"

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
    norms, router biases and the embedding table; a pattern that matches no weight is an error.  New cache rows are
    quantised before they are appended.  The queries of an indexer are converted to the type in which its keys are
    cached, in which both are multiplied.  `attention` is the type in which the two products of attention are computed:
    queries are converted to it, and computed keys and values; a shorter cache is read as it is stored, a longer one
    is refused.
    Results stay in the model's element type.

    Raises PassError for operands that no matrix unit multiplies with each other.
    """

    name = "quantize"
    READS: ClassVar[tuple[Level, ...]] = ("layer",)

    weights: str = KEEP_MODEL_DTYPE
    activations: str = KEEP_MODEL_DTYPE
    kv_cache: str = KEEP_MODEL_DTYPE
    attention: str = KEEP_MODEL_DTYPE
    keep: str = ""

    def __post_init__(self) -> None:
        """Check the names of the element types and write them as dumps have them."""
        for option in ("weights", "activations", "kv_cache", "attention"):
            name: str = getattr(self, option)
            if name == KEEP_MODEL_DTYPE:
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
        if self.attention != KEEP_MODEL_DTYPE and self.attention not in ATTENTION_TYPES:
            raise PassError(
                f"{self.name}: attention is '{self.attention}', must be one of {', '.join(ATTENTION_TYPES)}: "
                "the weights of a softmax are at most 1, and no integer and no 4-bit type holds them"
            )

    def _element_type(self, option: str) -> Attribute | None:
        name: str = getattr(self, option)
        return None if name == KEEP_MODEL_DTYPE else type_of_format(name)

    def run(self, module: ModuleOp) -> None:
        """Caches first, because what they hold may need no conversion later; then products; then queries."""
        weights, activations = self._element_type("weights"), self._element_type("activations")
        cache, arithmetic = self._element_type("kv_cache"), self._element_type("attention")
        ops = list(module.walk())
        self._check_keep(ops)
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
        if weights is not None:
            products = [op for op in ops if isinstance(op, _PRODUCTS) and self._quantised(op)]
            for product in products:
                if _is_longer(product.w, weights):
                    _retype_parameter(product.w, weights)
            if activations is not None:
                _convert_activations(products, activations, converter)
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

    def _check_keep(self, ops: Sequence[Operation]) -> None:
        """Raise PassError for a pattern that matches no weight of a product, naming paths that are close to it."""
        paths = [parameter.path.data for op in ops if isinstance(op, _PRODUCTS) and (parameter := _parameter(op.w))]
        for pattern in self._patterns():
            if not fnmatch.filter(paths, pattern):
                raise PassError(
                    f"{self.name}: keep pattern '{pattern}' matches no weight; {close_paths(pattern, paths)}"
                )

    def _patterns(self) -> list[str]:
        return [pattern for part in self.keep.split(",") if (pattern := part.strip())]

    def _quantised(self, product: _Product) -> bool:
        """Whether the weight of a product is quantised; a tied one is the embedding table, which is not."""
        parameter = _parameter(product.w)
        if parameter is None or parameter.transpose_of is not None:
            return False
        return not any(fnmatch.fnmatchcase(parameter.path.data, pattern) for pattern in self._patterns())


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


def _convert_activations(products: list[_Product], element_type: Attribute, converter: _Converter) -> None:
    """Convert the activation of every product, before the dispatch if all products behind it want it."""
    quantised: set[Operation] = set(products)
    for product in products:
        dispatch = product.x.owner
        if isinstance(dispatch, layer.DispatchOp) and all(u.operation in quantised for u in product.x.uses):
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
