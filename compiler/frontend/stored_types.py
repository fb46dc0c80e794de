"""In which types a checkpoint stores its weights, and what it is made to run with.

`quantization_config` of a Hugging Face config says it, or a file of NVIDIA ModelOpt beside it, `hf_quant_config.json`.
The deployment says what runs: `checkpoint` for its types is what is found here.  Where it asks for others, results say
so.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.config import MODELOPT_FILE
from pmc.compiler.frontend.family import Block, Family
from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.module_names import LM_HEAD, PREFIXES, UNQUANTIZED, base_of, layer_numbers_of, modules_of
from pmc.dialects import model
from pmc.dialects.checkpoint import StoredTypes
from pmc.dialects.drafting import DRAFT, is_drafting
from pmc.dialects.element_formats import canonical_format, element_format
from pmc.dialects.type_rules import UNCONVERTED, TypeRule


@dataclass(frozen=True)
class Stored:
    """A format of weights, and that of the activations that they are multiplied with; None is the model's type."""

    weights: str
    activations: str | None


FLOAT8 = {"e4m3": "f8E4M3FN", "float8_e4m3fn": "f8E4M3FN", "e5m2": "f8E5M2", "float8_e5m2": "f8E5M2"}
"""The 8-bit formats by the names of `fmt`."""

WIDTHS: Mapping[tuple[str, int], str] = {
    ("float", 8): "f8E4M3FN",
    ("float", 4): "f4E2M1FN",
    ("int", 8): "i8",
    ("int", 4): "i4",
}
"""Element types by kind and bits."""

MODELOPT: Mapping[str, Stored] = {
    "FP8": Stored("f8E4M3FN", "f8E4M3FN"),
    "NVFP4": Stored("nvfp4", "f4E2M1FN"),
    "W4A16_NVFP4": Stored("nvfp4", None),
    "MXFP8": Stored("mxfp8", "f8E4M3FN"),
    "W4A16_AWQ": Stored("i4", None),
    "W4A8_AWQ": Stored("i4", "f8E4M3FN"),
    "W8A8_SQ_PER_CHANNEL": Stored("i8", "i8"),
}
"""By `quant_algo` of NVIDIA ModelOpt.  Scales of activations are not modelled, so those of NVFP4 have none here."""

MODELOPT_CACHES: Mapping[str, str] = {"FP8": "f8E4M3FN", "NVFP4": "f4E2M1FN", "INT8": "i8"}
"""By `kv_cache_quant_algo`."""


@dataclass
class ModuleTypes:
    """The types of all modules of a checkpoint."""

    most: Stored | None
    """Of modules that are not named; None: they are in the type of the model."""
    kv_cache: str | None = None
    kept: tuple[str, ...] = ()
    """Modules in the type of the model: names, patterns with `*`, regular expressions behind `re:`."""
    named: list[tuple[tuple[str, ...], Stored]] = field(default_factory=list[tuple[tuple[str, ...], Stored]])
    """Modules with types of their own."""

    def finder(self) -> Callable[[Sequence[str], bool], Stored | None]:
        """What gives the type of a weight by the modules that it may be stored in.

        A weight that is stored in the model's type unless it is named is asked for with False.
        """
        kept = _matcher(self.kept)
        named = [(_matcher(names), stored) for names, stored in self.named]

        def find(names: Sequence[str], linear: bool) -> Stored | None:
            own = next((stored for matches, stored in named if any(map(matches, names))), None)
            if own is not None:
                return own
            return self.most if linear and not any(map(kept, names)) else None

        return find

    def like(self, number: int) -> Hashable:
        """Equal for layers that the lists say the same of."""
        return tuple(names.like(number) for names in self._lists)

    @cached_property
    def _lists(self) -> list[_LayersOfList]:
        return [_LayersOfList(names) for names in (self.kept, *(names for names, _ in self.named))]


Weight = tuple[str, str, str]
"""Kind of layer, block and leaf."""


@dataclass(frozen=True)
class StoredLayers:
    """The layers of a model, those of one kind stored in the same types."""

    kinds: Mapping[str, tuple[Block, ...]]
    order: list[str]
    types: ModuleTypes | None
    """None where the checkpoint is not quantized."""
    found: Mapping[Weight, Stored | None]
    draft: Mapping[tuple[str, str], Stored | None]
    """By block and leaf those of the layer behind the last one, which drafts tokens."""
    head: Stored | None

    def stored(self, module: ModuleOp) -> StoredTypes | None:
        """The types of the weights that the module has; None where the checkpoint is not quantized."""
        if self.types is None:
            return None
        most = self.types.most
        blocks = [op for op in module.walk() if isinstance(op, model.BlockOp)]
        exist = {
            (op.path.data.rpartition(".")[2], weight.name.removesuffix(".weight"))
            for op in blocks
            for weight in op.weights()
        }
        own = {weight: stored for weight, stored in self.found.items() if weight[1:] in exist}
        # Hyper-connections are parameters, not linear layers; a rule for the block in whose path they are comes behind.
        streams = [_rule("*streams.weights.fn.weight", None)] if ("weights", "fn") in exist and most else []
        rules = [*streams, *self._of_draft(blocks, exist), *_shortest(own, most, self.kinds)]
        if self.head != most and ("lm_head", "proj") in exist:
            rules.append(_rule("lm_head.proj.weight", self.head))
        return StoredTypes(
            weights=None if most is None else canonical_format(most.weights),
            activations=None if most is None else most.activations,
            kv_cache=self.types.kv_cache,
            types=tuple(map(str, rules)),
        )

    def _of_draft(self, blocks: Iterable[model.BlockOp], exist: Collection[tuple[str, str]]) -> Iterable[TypeRule]:
        """Of a model that drafts: its projection, which engines do not quantize, and what is stored otherwise."""
        if not any(is_drafting(op.path.data) for op in blocks):
            return
        yield _rule(f"{DRAFT}.eh_proj.*", None)
        for (block, leaf), stored in self.draft.items():
            if (block, leaf) in exist and stored != self.found[self.order[-1], block, leaf]:
                yield _rule(f"{DRAFT}.{block}.{leaf}.weight", stored)


def stored_layers(fields: Fields, family: Family) -> StoredLayers:
    """The layers of a model and the types that the checkpoint stores them in.

    Layers of a kind that are stored in different types become kinds of their own: the types of most layers keep the
    name of the kind.  Raises ConfigError for a method that is not known, naming it, and for two files that do not say
    the same.
    """
    types, kinds, order = _module_types(fields), family.kinds(fields), family.order(fields)
    if types is None:
        return StoredLayers(kinds, order, None, {}, {}, None)
    find = types.finder()
    of_layers: list[tuple[str, LayerTypes]] = []
    known: dict[object, tuple[str, LayerTypes]] = {}
    for kind, numbers in zip(order, layer_numbers_of(kinds, order), strict=True):
        key = (kind, *map(types.like, numbers))
        if key not in known:
            modules = modules_of(kinds[kind], numbers[0])
            known[key] = (kind, tuple((weight, find(names, _is_linear(*weight))) for weight, names in modules.items()))
        of_layers.append(known[key])
    names: dict[tuple[str, LayerTypes], str] = {}
    taken = Counter[str]()
    for layer, _ in Counter(of_layers).most_common():
        kind = layer[0]
        taken[kind] += 1
        names[layer] = (
            kind if taken[kind] == 1 else f"{kind}_stored_otherwise{taken[kind] - 1 if taken[kind] > 2 else ''}"
        )
    found = {(names[layer], *weight): stored for layer in names for weight, stored in layer[1]}
    own = {name: kinds[layer[0]] for layer, name in names.items()}
    behind = modules_of(kinds[order[-1]], layer_numbers_of(kinds, order)[-1].stop)
    draft = {weight: find(modules, _is_linear(*weight)) for weight, modules in behind.items()}
    head = find(LM_HEAD, False)
    return StoredLayers({**kinds, **own}, [names[layer] for layer in of_layers], types, found, draft, head)


def _is_linear(block: str, leaf: str) -> bool:
    return (base_of(block)[0], leaf) not in UNQUANTIZED


LayerTypes = tuple[tuple[tuple[str, str], Stored | None], ...]
"""The types of the weights of a layer, by block and leaf."""


def _module_types(fields: Fields) -> ModuleTypes | None:
    # `compression_config` is the name that compressed-tensors wrote first.
    name = "compression_config" if fields.present("compression_config") else "quantization_config"
    block, beside = fields.block(name), fields.block(MODELOPT_FILE)
    own = None if block is None else _types_of(block)
    # DeepSeek-V4: experts in MXFP4, all else as `quantization_config` says.
    experts = fields.choice("expert_dtype", {"fp4": (), "fp8": ()}) if fields.present("expert_dtype") else None
    if own is not None and experts == "fp4":
        own.named.append((("*.experts.*",), Stored("mxfp4", None if own.most is None else own.most.activations)))
    if beside is None:
        return own
    quantization = beside.block("quantization")
    if quantization is None:
        raise beside.fail("quantization", "missing, expected a block with quant_algo")
    # Null where only the cache has been quantized.
    found = _modelopt(quantization) if quantization.present("quant_algo") else ModuleTypes(None, _cache(quantization))
    if own is None:
        return found
    if own.most != found.most and not found.named:
        says = [canonical_format(types.most.weights) if types.most else "no type" for types in (found, own)]
        raise beside.fail("quantization", f"says weights of {says[0]}, {name} of config.json of {says[1]}")
    own.kv_cache = own.kv_cache or found.kv_cache
    return own


def _types_of(block: Fields) -> ModuleTypes:
    if block.present("quant_algo") and not block.present("quant_method"):  # as ModelOpt wrote it first
        return _modelopt(block)
    return METHODS[block.choice("quant_method", METHODS)](block)


KEPT_LISTS = ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules")
"""The fields that name modules in the type of the model."""


def _kept(block: Fields) -> tuple[str, ...]:
    return tuple(name for field_name in KEPT_LISTS for name in _names(block, field_name))


def _names(block: Fields, name: str) -> tuple[str, ...]:
    given = block.value(name)
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(item, str) for item in cast(list[object], given)):
        raise block.fail(name, f"expected a list of names of modules, found {given!r}")
    return tuple(cast(list[str], given))


def _fp8(block: Fields) -> ModuleTypes:
    # Absent = e4m3, what FineGrainedFP8Config writes.
    element = FLOAT8[block.choice("fmt", FLOAT8)] if block.present("fmt") else FLOAT8["e4m3"]
    weights = element
    if block.present("weight_block_size"):
        columns, rows = _block_size(block)
        weights = f"{element}/{rows}x{columns}:f32"
    found = ModuleTypes(Stored(weights, element), None, _kept(block))
    if block.present("quantized_layers"):  # experts that ModelOpt has quantized further
        found.named = _named(block)
        found.kept = ()  # a list of what has not been, which stays in 8 bits
    return found


def _block_size(block: Fields) -> tuple[int, int]:
    """The rows and columns of a weight [outputs, inputs] that share a scale."""
    given = block.value("weight_block_size")
    sizes = cast(list[object], given) if isinstance(given, list) else []
    if len(sizes) != 2 or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise block.fail("weight_block_size", f"expected two numbers of weights, found {given!r}")
    outputs, inputs = cast(list[int], sizes)
    return outputs, inputs


def _integers(block: Fields) -> ModuleTypes:
    bits = block.integer("bits")
    if ("int", bits) not in WIDTHS:
        raise block.fail("bits", f"weights of {bits} bits are not supported, only 4 and 8 are")
    element = WIDTHS["int", bits]
    group = block.integer("group_size") if block.present("group_size") and block.value("group_size") != -1 else None
    return ModuleTypes(Stored(element if group is None else f"{element}/{group}:f16", None), None, _kept(block))


def _compressed_tensors(block: Fields) -> ModuleTypes:
    groups = block.block("config_groups")
    if groups is None or not groups.config:
        raise block.fail("config_groups", "missing, expected at least one group with its weights")
    found = ModuleTypes(None, _cache(block), _kept(block))
    for name in groups.config:
        group = groups.block(name)
        weights = None if group is None else group.block("weights")
        if group is None or weights is None:
            raise groups.fail(name, "expected a block with the fields of its weights")
        activations = group.block("input_activations")
        stored = Stored(_group_format(weights), None if activations is None else _element(activations))
        targets = _names(group, "targets")
        if not targets or "Linear" in targets:
            if found.most is not None:
                raise block.fail("config_groups", "several groups are for all linear layers")
            found.most = stored
        else:
            found.named.append((targets, stored))
    return found


def _element(numbers: Fields) -> str:
    kind, bits = numbers.choice("type", {"int": (), "float": ()}), numbers.integer("num_bits")
    if (kind, bits) not in WIDTHS:
        raise numbers.fail("num_bits", f"{bits}-bit {kind} is not supported")
    return WIDTHS[kind, bits]


def _group_format(weights: Fields) -> str:
    """The format of the weights of a group of compressed-tensors: scales by group, block, channel or tensor."""
    element = _element(weights)
    if not weights.present("group_size"):
        return element
    size = weights.integer("group_size")
    if element == "f4E2M1FN":  # NVFP4 has groups of 16, MXFP4 of 32
        return {16: "nvfp4", 32: "mxfp4"}.get(size, f"{element}/{size}:f8E8M0FNU")
    return f"{element}/{size}:bf16"


def _cache(block: Fields) -> str | None:
    """The type of the KV cache: by a name of ModelOpt, or as compressed-tensors describes it."""
    for name in ("kv_cache_quant_algo", "kv_cache_scheme"):
        given = block.value(name)
        if isinstance(given, str):
            return MODELOPT_CACHES[block.choice(name, MODELOPT_CACHES)]
        numbers = block.block(name)
        if numbers is not None:
            return _element(numbers)
    return None


def _modelopt(block: Fields) -> ModuleTypes:
    if block.value("quant_algo") == "MIXED_PRECISION":
        return ModuleTypes(None, _cache(block), _kept(block), _named(block))
    most = _algorithm(block)
    return ModuleTypes(most, _cache(block), _kept(block))


def _algorithm(block: Fields) -> Stored:
    found = MODELOPT[block.choice("quant_algo", MODELOPT)]
    if found.weights == "i4" and block.present("group_size"):
        return Stored(f"i4/{block.integer('group_size')}:f16", found.activations)
    return found


def _named(block: Fields) -> list[tuple[tuple[str, ...], Stored]]:
    """Layers that are quantized one by one, by their types."""
    layers = block.block("quantized_layers")
    if layers is None or not layers.config:
        raise block.fail("quantized_layers", "missing, expected the quant_algo of every quantized layer")
    found: dict[Stored, list[str]] = {}
    for name in layers.config:
        layer = layers.block(name)
        if layer is None:
            raise layers.fail(name, "expected a block with quant_algo")
        found.setdefault(_algorithm(layer), []).append(name)
    return [(tuple(names), stored) for stored, names in found.items()]


def _modelopt_fp4(block: Fields) -> ModuleTypes:
    return ModuleTypes(MODELOPT["NVFP4"], _cache(block), _kept(block))


METHODS: Mapping[str, Callable[[Fields], ModuleTypes]] = {
    "fp8": _fp8,
    "fbgemm_fp8": lambda block: ModuleTypes(Stored(FLOAT8["e4m3"], FLOAT8["e4m3"]), None, _kept(block)),
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt_fp4,
    "mxfp4": lambda block: ModuleTypes(Stored("mxfp4", None), None, _kept(block)),
    "gptq": _integers,
    "awq": _integers,
}
"""How each `quant_method` says the types of its weights."""

# -- lists of modules ---------------------------------------------------------------------------------------------


def _matcher(names: Iterable[str]) -> Callable[[str], bool]:
    """Whether a module, by its name from `layers` on, is in a list or inside of a module in it.

    A name without `layers` is one of the parts that modules end with, as `gate` or `mlp.gate` (transformers,
    `should_convert_module`).
    """
    exact: set[str] = set()
    patterns: list[str] = []
    for name in names:
        if name.startswith("re:"):
            patterns.append(f"(?:{name.removeprefix('re:')})")
        elif "*" in name or "?" in name:
            patterns.append(
                f"(?:{fnmatch.translate(_from_layers(name))}|{fnmatch.translate(_from_layers(name) + '.*')})"
            )
        else:
            exact.add(_from_layers(name))
    found = re.compile("|".join(patterns)) if patterns else None

    def matches(module: str) -> bool:
        parts = module.split(".")
        around = {".".join(parts[:n]) for n in range(1, len(parts) + 1)} | {
            ".".join(parts[n:]) for n in range(len(parts))
        }
        return bool(around & exact) or (found is not None and found.match(module) is not None)

    return matches


class _LayersOfList:
    """What a list of modules says of single layers."""

    def __init__(self, names: Iterable[str]) -> None:
        self.own: dict[int, list[str]] = {}
        """Names of modules of one layer, without its number."""
        self.beginnings: list[str] = []
        """`61` for the pattern `layers.61*`: layers whose number begins so."""
        self.others = False
        """Whether there are patterns of which neither is known."""
        for name in names:
            number, _, rest = _from_layers(name).removeprefix("layers.").partition(".")
            if name.startswith("re:"):
                self.others |= any(map(str.isdigit, name))
            elif number.isdigit():
                self.own.setdefault(int(number), []).append(rest)
            elif not rest and number.removesuffix("*").isdigit():
                self.beginnings.append(number.removesuffix("*"))
            elif "layers." in name:
                self.others |= any(map(str.isdigit, number))

    def like(self, number: int) -> Hashable:
        """Equal for layers of which the list says the same."""
        begun = tuple(str(number).startswith(beginning) for beginning in self.beginnings)
        return (frozenset(self.own.get(number, ())), begun, number if self.others else None)


def _from_layers(name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in PREFIXES:
        parts = parts[1:]
    return ".".join(parts)


# -- rules for the weights of the IR ------------------------------------------------------------------------------


def _shortest(found: Mapping[Weight, Stored | None], most: Stored | None, kinds: Collection[str]) -> Iterable[TypeRule]:
    """Rules for the weights that are not as most: of whole blocks where they can be, of a kind where they must be."""
    blocks: dict[str, set[Stored | None]] = {}
    leaves: dict[tuple[str, str], set[Stored | None]] = {}
    for (_, block, leaf), stored in found.items():
        blocks.setdefault(block, set()).add(stored)
        leaves.setdefault((block, leaf), set()).add(stored)
    # A pattern for a block that is called like a kind of layer would match all that such layers hold.
    whole = [block for block, types in blocks.items() if len(types) == 1 and block not in kinds]
    for block in whole:
        if blocks[block] != {most}:
            yield _rule(f"*.{block}.*", *blocks[block])
    for (block, leaf), types in leaves.items():
        if block not in whole and len(types) == 1 and types != {most}:
            yield _rule(f"*.{block}.{leaf}.weight", *types)
    for (kind, block, leaf), stored in found.items():
        if block not in whole and len(leaves[block, leaf]) > 1 and stored != most:
            yield from (_rule(f"*.{name}.{block}.{leaf}.weight", stored) for name in (kind, f"{kind}[0-9]*"))


def _rule(pattern: str, stored: Stored | None) -> TypeRule:
    if stored is None:
        return TypeRule(pattern, UNCONVERTED, None)
    activations = UNCONVERTED if stored.activations is None else stored.activations
    return TypeRule(pattern, str(element_format(stored.weights)), activations)
