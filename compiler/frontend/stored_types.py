"""In which element type a checkpoint stores its weights, as `quantization_config` of a Hugging Face config says.

Checkpoints of NVIDIA ModelOpt say it in a file beside the config, `hf_quant_config.json`, the newer ones in both.
The deployment says what runs.  Where the checkpoint has been quantized to another type, results say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pmc.compiler.config import MODELOPT_FILE
from pmc.compiler.frontend.fields import Fields

FLOAT8 = {"e4m3": "f8E4M3FN", "float8_e4m3fn": "f8E4M3FN", "e5m2": "f8E5M2", "float8_e5m2": "f8E5M2"}
"""The 8-bit formats by the names of `fmt`."""

WIDTHS: Mapping[tuple[str, int], str] = {
    ("float", 8): "f8E4M3FN",
    ("float", 4): "f4E2M1FN",
    ("int", 8): "i8",
    ("int", 4): "i4",
}
"""Element types by kind and bits."""

EXPERT_TYPES = {"fp4": "f4E2M1FN", "fp8": "f8E4M3FN"}
"""Element types of routed experts by `expert_dtype`."""

MODELOPT: Mapping[str, str] = {
    "FP8": "f8E4M3FN",
    "NVFP4": "f4E2M1FN",
    "W4A16_NVFP4": "f4E2M1FN",
    "W4A16_AWQ": "i4",
    "W4A8_AWQ": "i4",
    "W8A8_SQ_PER_CHANNEL": "i8",
}
"""Element types by `quant_algo` of NVIDIA ModelOpt."""


def stored_type(fields: Fields) -> str | None:
    """The element type of quantized weights; None where the checkpoint is not quantized.

    Raises ConfigError for a method that is not known, naming it, and for two files that do not say the same.
    """
    # `compression_config` is the name that compressed-tensors wrote first.
    name = "compression_config" if fields.present("compression_config") else "quantization_config"
    block, beside = fields.block(name), fields.block(MODELOPT_FILE)
    experts = EXPERT_TYPES[fields.choice("expert_dtype", EXPERT_TYPES)] if fields.present("expert_dtype") else None
    # Routed experts may have a type of their own (DeepSeek-V4), which the file beside then says alone.
    own = None if block is None else "-and-".join(sorted({_type_of(block), experts or _type_of(block)}))
    if beside is None:
        return own
    quantization = beside.block("quantization")
    if quantization is None:
        raise beside.fail("quantization", "missing, expected a block with quant_algo")
    # Null where only the cache has been quantized, which runs as the deployment says.
    found = _modelopt(quantization) if quantization.present("quant_algo") else None
    if block is not None and found not in (own, experts or own):
        raise beside.fail("quantization", f"says weights of {found or 'no type'}, {name} of config.json of {own}")
    return found if block is None else own


def _type_of(block: Fields) -> str:
    if block.present("quant_algo") and not block.present("quant_method"):  # as ModelOpt wrote it first
        return _modelopt(block)
    return METHODS[block.choice("quant_method", METHODS)](block)


def _fp8(block: Fields) -> str:
    # Absent = e4m3, what FineGrainedFP8Config writes.
    return FLOAT8[block.choice("fmt", FLOAT8)] if block.present("fmt") else FLOAT8["e4m3"]


def _integers(block: Fields) -> str:
    bits = block.integer("bits")
    if ("int", bits) not in WIDTHS:
        raise block.fail("bits", f"weights of {bits} bits are not supported, only 4 and 8 are")
    return WIDTHS["int", bits]


def _compressed_tensors(block: Fields) -> str:
    groups = block.block("config_groups")
    if groups is None or not groups.config:
        raise block.fail("config_groups", "missing, expected at least one group with its weights")
    found: dict[str, str] = {}
    for name in groups.config:
        group = groups.block(name)
        weights = None if group is None else group.block("weights")
        if group is None or weights is None:
            raise groups.fail(name, "expected a block with the fields of its weights")
        kind, bits = weights.choice("type", {"int": (), "float": ()}), weights.integer("num_bits")
        if (kind, bits) not in WIDTHS:
            raise weights.fail("num_bits", f"weights of {bits}-bit {kind} are not supported")
        found.setdefault(WIDTHS[kind, bits], name)
    if len(found) > 1:
        raise block.fail("config_groups", f"weights of several types ({', '.join(found)}) are not supported")
    return next(iter(found))


def _modelopt(block: Fields) -> str:
    if block.value("quant_algo") == "MIXED_PRECISION":
        return _mixed(block)
    return MODELOPT[block.choice("quant_algo", MODELOPT)]


def _mixed(block: Fields) -> str:
    """Of layers that are quantized one by one, all types; no deployment has them, so results say that it differs."""
    layers = block.block("quantized_layers")
    if layers is None or not layers.config:
        raise block.fail("quantized_layers", "missing, expected the quant_algo of every quantized layer")
    found: set[str] = set()
    for name in layers.config:
        layer = layers.block(name)
        if layer is None:
            raise layers.fail(name, "expected a block with quant_algo")
        found.add(MODELOPT[layer.choice("quant_algo", MODELOPT)])
    return "-and-".join(sorted(found))


METHODS: Mapping[str, Callable[[Fields], str]] = {
    "fp8": _fp8,
    "fbgemm_fp8": lambda _: FLOAT8["e4m3"],
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "modelopt_fp4": lambda _: "f4E2M1FN",
    "mxfp4": lambda _: "f4E2M1FN",
    "gptq": _integers,
    "awq": _integers,
}
"""How each `quant_method` says the type of its weights."""
