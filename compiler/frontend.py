"""Hugging Face configurations to the `model` dialect.

A field is read when the architecture's modeling code in `transformers` reads it, with the meaning it has
there.  A missing or mistyped field is an error.  Where a comment says "absent = X", that is the default of
the Hugging Face configuration class, which the published files rely on; there are no other defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import cast

from xdsl.dialects.builtin import (
    BFloat16Type,
    DictionaryAttr,
    FileLineColLoc,
    Float16Type,
    Float32Type,
    IntAttr,
    ModuleOp,
    StringAttr,
    i32,
)
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.utils.exceptions import VerifyException

from pmc.compiler.config import ConfigError
from pmc.dialects import model
from pmc.dialects.assembly import PropertyValue, attribute
from pmc.dialects.expr import expr
from pmc.dialects.schema import did_you_mean
from pmc.dialects.tensor import TensorType

DTYPES: dict[str, Attribute] = {
    "bfloat16": BFloat16Type(),
    "float16": Float16Type(),
    "float32": Float32Type(),
}
"""The element types of `torch_dtype`."""

ROPE_FIELDS: dict[str, tuple[dict[str, type], dict[str, type]]] = {
    "llama3": (
        {
            "factor": float,
            "low_freq_factor": float,
            "high_freq_factor": float,
            "original_max_position_embeddings": int,
        },
        {},
    ),
    "yarn": (
        {"factor": float, "original_max_position_embeddings": int},
        {"beta_fast": float, "beta_slow": float, "mscale": float, "mscale_all_dim": float},
    ),
}
"""The required and the optional fields of each `rope_scaling` type."""

YARN_ABSENT: dict[str, float] = {"beta_fast": 32.0, "beta_slow": 1.0}
"""What `transformers` takes for absent fields of yarn."""

Properties = dict[str, PropertyValue]


class Fields:
    """Typed access to a configuration; `prefix` is the path of a nested block."""

    def __init__(self, config: Mapping[str, object], source: str, prefix: str = "") -> None:
        self.config = config
        self.source = source
        self.prefix = prefix

    def fail(self, name: str, problem: str) -> ConfigError:
        """The error for a field."""
        return ConfigError(self.source, f"{self.prefix}{name}: {problem}")

    def _get(self, name: str, expected: str) -> object:
        if name not in self.config:
            raise self.fail(name, f"missing, expected {expected}")
        return self.config[name]

    def present(self, name: str) -> bool:
        """Whether the field is given and not null."""
        return self.config.get(name) is not None

    def integer(self, name: str, at_least: int = 1) -> int:
        """An integer field."""
        expected = f"an integer of at least {at_least}"
        value = self._get(name, expected)
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise self.fail(name, f"expected {expected}, found {value!r}")
        return value

    def number(self, name: str) -> float:
        """A positive number."""
        value = self._get(name, "a positive number")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise self.fail(name, f"expected a positive number, found {value!r}")
        return float(value)

    def boolean(self, name: str) -> bool:
        """A truth value."""
        value = self._get(name, "true or false")
        if not isinstance(value, bool):
            raise self.fail(name, f"expected true or false, found {value!r}")
        return value

    def choice(self, name: str, choices: Mapping[str, object]) -> str:
        """One of some names."""
        expected = f"one of {', '.join(choices)}"
        value = self._get(name, expected)
        if not isinstance(value, str) or value not in choices:
            raise self.fail(name, f"expected {expected}, found {value!r}")
        return value

    def unsupported_unless(self, name: str, allowed: object) -> None:
        """Reject a feature that the `model` dialect does not describe; absent or null means without it."""
        value = self.config.get(name)
        if value is not None and value != allowed:
            raise self.fail(name, f"{value!r} is not supported, only {allowed!r} is")


def import_hf(config: Mapping[str, object], source: str, name: str) -> ModuleOp:
    """The `model` dialect module of a Hugging Face config.

    `source` is the file or preset that error messages name; `name` becomes the symbol of the model.  Raises
    ConfigError for an unknown architecture and for missing, mistyped or unsupported fields.
    """
    fields = Fields(config, source)
    names = config.get("architectures")
    supported = ", ".join(ARCHITECTURES)
    if not isinstance(names, list) or len(cast(list[object], names)) != 1:
        raise fields.fail("architectures", f"expected a list of one of {supported}, found {names!r}")
    architecture = cast(list[object], names)[0]
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise fields.fail("architectures", f"{architecture!r} is not supported; supported are {supported}")
    fields.unsupported_unless("hidden_act", "silu")
    fields.unsupported_unless("attention_bias", False)
    return _Import(fields, architecture, name).module()


class _Import:
    """One import: the ops at the current insertion block, and the row type that flows between blocks."""

    def __init__(self, fields: Fields, architecture: str, name: str) -> None:
        self.fields = fields
        self.architecture = architecture
        self.name = name
        self.hidden = fields.integer("hidden_size")
        self.vocab = fields.integer("vocab_size")
        # `dtype` is what newer versions of transformers write for `torch_dtype`.
        self.dtype = DTYPES[fields.choice("dtype" if fields.present("dtype") else "torch_dtype", DTYPES)]
        self.tokens = expr("batch") * expr("q_len")
        # The base name only: a dump must not depend on where the file lies.
        self.location = FileLineColLoc(StringAttr(PurePath(fields.source).name), IntAttr(1), IntAttr(1))

    def rows(self, width: int) -> TensorType:
        return TensorType.of([self.tokens, width], self.dtype)

    def add(self, block: Block, op: Operation) -> Operation:
        """Append a block op; sizes that do not fit together are an error of the file."""
        try:
            op.verify_()
        except VerifyException as error:
            raise ConfigError(self.fields.source, str(error)) from None
        op.location = self.location
        block.add_op(op)
        return op

    def module(self) -> ModuleOp:
        fields = self.fields
        body = Block(arg_types=[TensorType.of([self.tokens], i32)])
        embedding = model.EmbeddingOp.make(
            [body.args[0]], [self.rows(self.hidden)], "embed", {"vocab_size": self.vocab}
        )
        x: SSAValue = self.add(body, embedding).results[0]
        for kind, count, blocks in ARCHITECTURES[self.architecture](fields):
            x = self.repeat(body, x, f"blocks.{kind}", count, blocks)
        # Absent = false in the configuration classes of all supported architectures.
        tied = fields.present("tie_word_embeddings") and fields.boolean("tie_word_embeddings")
        head = model.LmHeadOp.make(
            [x],
            [self.rows(self.vocab)],
            "lm_head",
            {"rms_norm_eps": fields.number("rms_norm_eps"), "tied": "embed.weight" if tied else None},
        )
        logits = self.add(body, head).results[0]
        self.add(body, model.YieldOp.make([[logits]], [], self.name))
        # Absent = no multi-token prediction.
        mtp = fields.integer("num_nextn_predict_layers", 0) if fields.present("num_nextn_predict_layers") else 0
        llm = model.LlmOp.make(
            [],
            [],
            self.name,
            {
                "sym_name": self.name,
                "architecture": self.architecture,
                "hidden_size": self.hidden,
                "vocab_size": self.vocab,
                "dtype": self.dtype,
                "mtp_layers": mtp,
            },
            [Region(body)],
        )
        llm.location = self.location
        return ModuleOp([llm])

    def repeat(self, body: Block, x: SSAValue, path: str, count: int, blocks: _Blocks) -> SSAValue:
        """`count` layers of `blocks`, each of which maps rows of the hidden size to the same."""
        rows = self.rows(self.hidden)
        inner = Block(arg_types=[rows])
        value: SSAValue = inner.args[0]
        for op_class, name, properties in blocks:
            value = self.add(inner, op_class.make([value], [rows], f"{path}.{name}", properties)).results[0]
        self.add(inner, model.YieldOp.make([[value]], [], path))
        op = model.RepeatOp.make([[x]], [rows], path, {"count": count}, [Region(inner)])
        return self.add(body, op).results[0]


_Blocks = list[tuple[type[model.BlockOp], str, Properties]]
"""The blocks of one layer: op class, name in the path, properties."""

_Layers = list[tuple[str, int, _Blocks]]
"""The layers of a model: kind, count, blocks."""


def _rope(fields: Fields, theta: float | None = None) -> Properties:
    """Base and scaling of the rotary embedding; `theta` is the base of a config without one."""
    absent = theta is not None and not fields.present("rope_theta")
    return {
        "rope_theta": theta if absent else fields.number("rope_theta"),
        "rope_scaling": _rope_scaling(fields),
    }


def _rope_scaling(fields: Fields) -> DictionaryAttr | None:
    """The checked `rope_scaling`; absent, null or of type `default` means none."""
    given = fields.config.get("rope_scaling")
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise fields.fail("rope_scaling", f"expected a block of fields or null, found {given!r}")
    scaling = Fields(cast(Mapping[str, object], given), fields.source, "rope_scaling.")
    # `type` is the name of `rope_type` in older files.
    key = "type" if scaling.present("type") and not scaling.present("rope_type") else "rope_type"
    kind = scaling.choice(key, {**ROPE_FIELDS, "default": ()})
    if kind == "default":
        return None
    required, optional = ROPE_FIELDS[kind]
    for name in scaling.config:
        if name not in {**required, **optional, "type": str, "rope_type": str}:
            raise scaling.fail(name, f"unknown field of '{kind}'{did_you_mean(name, [*required, *optional])}")
    values: dict[str, Attribute] = {"rope_type": StringAttr(kind)}
    for name, expected in {**required, **optional}.items():
        if name in optional and not scaling.present(name):
            if name in YARN_ABSENT:
                values[name] = attribute(YARN_ABSENT[name])
        else:
            values[name] = attribute(scaling.integer(name) if expected is int else scaling.number(name))
    return DictionaryAttr(values)


def _gqa(fields: Fields, head_dim: int, qk_norm: bool, theta: float | None = None) -> Properties:
    heads = fields.integer("num_attention_heads")
    # Absent = one key head per query head.
    kv_heads = fields.integer("num_key_value_heads") if fields.present("num_key_value_heads") else heads
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "qk_norm": qk_norm,
        "rms_norm_eps": fields.number("rms_norm_eps"),
        **_rope(fields, theta),
    }


def _head_dim(fields: Fields) -> int:
    """Absent or null = hidden_size / num_attention_heads."""
    if fields.present("head_dim"):
        return fields.integer("head_dim")
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    if hidden % heads:
        raise fields.fail(
            "num_attention_heads", f"{heads} does not divide hidden_size {hidden}, and no head_dim is given"
        )
    return hidden // heads


def _ffn(fields: Fields) -> Properties:
    return {
        "intermediate_size": fields.integer("intermediate_size"),
        "rms_norm_eps": fields.number("rms_norm_eps"),
    }


def _llama(fields: Fields) -> _Layers:
    fields.unsupported_unless("mlp_bias", False)
    # rope_theta absent = 10000 (Llama 2 files have none).
    gqa = _gqa(fields, _head_dim(fields), qk_norm=False, theta=10000.0)
    blocks: _Blocks = [(model.GqaOp, "gqa", gqa), (model.FfnOp, "ffn", _ffn(fields))]
    return [("dense", fields.integer("num_hidden_layers"), blocks)]


def _qwen3(fields: Fields) -> _Layers:
    fields.unsupported_unless("use_sliding_window", False)
    gqa = _gqa(fields, fields.integer("head_dim"), qk_norm=True)
    blocks: _Blocks = [(model.GqaOp, "gqa", gqa), (model.FfnOp, "ffn", _ffn(fields))]
    return [("dense", fields.integer("num_hidden_layers"), blocks)]


def _mixtral(fields: Fields) -> _Layers:
    fields.unsupported_unless("sliding_window", None)
    moe: Properties = {
        "n_routed_experts": fields.integer("num_local_experts"),
        "n_shared_experts": 0,
        "num_experts_per_tok": fields.integer("num_experts_per_tok"),
        "moe_intermediate_size": fields.integer("intermediate_size"),
        "scoring": "softmax",
        "n_group": 1,
        "topk_group": 1,
        # MixtralSparseMoeBlock always renormalises the weights of the chosen experts.
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
        "correction_bias": False,
        "rms_norm_eps": fields.number("rms_norm_eps"),
    }
    gqa = _gqa(fields, _head_dim(fields), qk_norm=False)
    blocks: _Blocks = [(model.GqaOp, "gqa", gqa), (model.MoeOp, "moe", moe)]
    return [("moe", fields.integer("num_hidden_layers"), blocks)]


def _deepseek_v3(fields: Fields) -> _Layers:
    # Absent = what DeepseekV3TopkRouter does: sigmoid scores, choice with the correction bias, every layer
    # MoE.
    fields.unsupported_unless("scoring_func", "sigmoid")
    fields.unsupported_unless("topk_method", "noaux_tc")
    fields.unsupported_unless("moe_layer_freq", 1)
    layers, dense = fields.integer("num_hidden_layers"), fields.integer("first_k_dense_replace", 0)
    if dense > layers:
        raise fields.fail("first_k_dense_replace", f"{dense} is more than num_hidden_layers {layers}")
    mla: Properties = {
        "num_attention_heads": fields.integer("num_attention_heads"),
        # Null = queries are projected without a latent (DeepSeek-V2-Lite).
        "q_lora_rank": fields.integer("q_lora_rank") if fields.config.get("q_lora_rank", 0) is not None else None,
        "kv_lora_rank": fields.integer("kv_lora_rank"),
        "qk_nope_head_dim": fields.integer("qk_nope_head_dim"),
        "qk_rope_head_dim": fields.integer("qk_rope_head_dim"),
        "v_head_dim": fields.integer("v_head_dim"),
        # Absent = true.
        "rope_interleave": fields.boolean("rope_interleave") if fields.present("rope_interleave") else True,
        "rms_norm_eps": fields.number("rms_norm_eps"),
        **_rope(fields),
    }
    moe: Properties = {
        "n_routed_experts": fields.integer("n_routed_experts"),
        "n_shared_experts": fields.integer("n_shared_experts", 0),
        "num_experts_per_tok": fields.integer("num_experts_per_tok"),
        "moe_intermediate_size": fields.integer("moe_intermediate_size"),
        "scoring": "sigmoid",
        "n_group": fields.integer("n_group"),
        "topk_group": fields.integer("topk_group"),
        "norm_topk_prob": fields.boolean("norm_topk_prob"),
        "routed_scaling_factor": fields.number("routed_scaling_factor"),
        "correction_bias": True,
        "rms_norm_eps": fields.number("rms_norm_eps"),
    }
    kinds: _Layers = [
        ("dense", dense, [(model.MlaOp, "mla", mla), (model.FfnOp, "ffn", _ffn(fields))]),
        ("moe", layers - dense, [(model.MlaOp, "mla", mla), (model.MoeOp, "moe", moe)]),
    ]
    return [kind for kind in kinds if kind[1]]


ARCHITECTURES: dict[str, Callable[[Fields], _Layers]] = {
    "LlamaForCausalLM": _llama,
    "DeepseekV3ForCausalLM": _deepseek_v3,
    "Qwen3ForCausalLM": _qwen3,
    "MixtralForCausalLM": _mixtral,
}
"""The supported architectures, each with the layers it makes of a config."""
