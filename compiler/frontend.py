"""Hugging Face configurations to the `model` dialect.

A field is read when the architecture's modeling code in `transformers` reads it, with the meaning it has
there.  A missing or mistyped field is an error, and so is one that nothing here reads and that is not known to be
harmless (compiler/config_fields.py).  Where a comment says "absent = X", that is the default of the Hugging Face
configuration class, which the published files rely on; there are no other defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import cast

from xdsl.dialects.builtin import (
    BFloat16Type,
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
from pmc.compiler.config_fields import Fields
from pmc.compiler.rope_fields import read_rope
from pmc.compiler.stored_types import stored_type
from pmc.dialects import model
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.checkpoint import CHECKPOINT, Checkpoint, CheckpointAttr
from pmc.dialects.expr import expr
from pmc.dialects.tensor import TensorType

DTYPES: dict[str, Attribute] = {
    "bfloat16": BFloat16Type(),
    "float16": Float16Type(),
    "float32": Float32Type(),
}
"""The element types of `torch_dtype`."""

Properties = dict[str, PropertyValue]


def import_hf(config: Mapping[str, object], source: str, name: str) -> ModuleOp:
    """The `model` dialect module of a Hugging Face config.

    `source` is the file or preset that error messages name; `name` becomes the symbol of the model.  Raises
    ConfigError for an unknown architecture and for missing, mistyped, unsupported or unknown fields.
    """
    fields = Fields(config, source)
    _refuse_nested(fields)
    names = fields.value("architectures")
    supported = ", ".join(ARCHITECTURES)
    if not isinstance(names, list) or len(cast(list[object], names)) != 1:
        raise fields.fail("architectures", f"expected a list of one of {supported}, found {names!r}")
    architecture = cast(list[object], names)[0]
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise fields.fail("architectures", f"{architecture!r} is not supported; supported are {supported}")
    fields.unsupported_unless("hidden_act", "silu")
    for feature in ("attention_bias", "mlp_bias", "is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"):
        fields.unsupported_unless(feature, False)
    fields.unsupported_unless("pruned_heads", {})
    _refuse_windows(fields)
    module = _Import(fields, architecture, name).module()
    module.attributes[CHECKPOINT] = CheckpointAttr(_checkpoint(fields))
    fields.refuse_unread(architecture)
    return module


def _refuse_nested(fields: Fields) -> None:
    """Refuse a config whose language model, a supported one, is a block beside an encoder of images or sound."""
    nested = fields.config.get("text_config")
    inner = cast(Mapping[str, object], nested).get("architectures") if isinstance(nested, Mapping) else None
    if isinstance(inner, list) and any(name in ARCHITECTURES for name in cast(list[object], inner)):
        raise fields.fail(
            "text_config",
            "a language model inside of a larger model is not read; to look at it alone, save this block as a "
            "config.json of its own",
        )


def _checkpoint(fields: Fields) -> Checkpoint:
    """What the file says besides the blocks."""
    positions = fields.integer("max_position_embeddings") if fields.present("max_position_embeddings") else None
    return Checkpoint(
        longest_context=read_rope(fields, theta=1.0).longest_context(positions),
        # Absent = no multi-token prediction.
        mtp_layers=fields.integer("num_nextn_predict_layers", 0) if fields.present("num_nextn_predict_layers") else 0,
        stored_weights=stored_type(fields),
    )


def _refuse_windows(fields: Fields) -> None:
    """Raise ConfigError for layers that do not attend to all tokens, which no op of the `model` dialect describes."""
    kinds = fields.value("layer_types")
    if kinds is None:
        return
    layers = fields.integer("num_hidden_layers")
    if not isinstance(kinds, list) or len(cast(list[object], kinds)) != layers:
        raise fields.fail("layer_types", f"expected a list with a type for each of the {layers} layers")
    other = next((kind for kind in cast(list[object], kinds) if kind != "full_attention"), None)
    if other is not None:
        raise fields.fail("layer_types", f"layers of type {other!r} are not supported, only 'full_attention' is")


def _dtype(fields: Fields) -> str:
    """The element type of the model: `dtype`, which newer versions of transformers write for `torch_dtype`."""
    given = [name for name in ("dtype", "torch_dtype") if fields.present(name)]
    found = {fields.choice(name, DTYPES) for name in given}
    if len(found) > 1:
        raise fields.fail("dtype", f"{fields.value('dtype')!r} is not the torch_dtype {fields.value('torch_dtype')!r}")
    return found.pop() if found else fields.choice("torch_dtype", DTYPES)


class _Import:
    """One import: the ops at the current insertion block, and the row type that flows between blocks."""

    def __init__(self, fields: Fields, architecture: str, name: str) -> None:
        self.fields = fields
        self.architecture = architecture
        self.name = name
        self.hidden = fields.integer("hidden_size")
        self.vocab = fields.integer("vocab_size")
        self.dtype = DTYPES[_dtype(fields)]
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
        x = self.norm(body, x, "lm_head")
        head = model.LmHeadOp.make([x], [self.rows(self.vocab)], "lm_head", {"tied": "embed.weight" if tied else None})
        logits = self.add(body, head).results[0]
        self.add(body, model.YieldOp.make([[logits]], [], self.name))
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
            value = self.sublayer(inner, value, op_class, f"{path}.{name}", properties)
        self.add(inner, model.YieldOp.make([[value]], [], path))
        op = model.RepeatOp.make([[x]], [rows], path, {"count": count}, [Region(inner)])
        return self.add(body, op).results[0]

    def sublayer(
        self, block: Block, x: SSAValue, kind: type[model.BlockOp], path: str, properties: Properties
    ) -> SSAValue:
        """x + f(norm(x)), f a block of `kind`."""
        result = self.add(block, kind.make([self.norm(block, x, path)], [x.type], path, properties)).results[0]
        return self.add(block, model.AddOp.make([x, result], [x.type], f"{path}.residual")).results[0]

    def norm(self, block: Block, x: SSAValue, path: str) -> SSAValue:
        """The norm before the block at `path`."""
        properties: Properties = {"kind": "rms", "eps": self.fields.number("rms_norm_eps")}
        return self.add(block, model.NormOp.make([x], [x.type], f"{path}.norm", properties)).results[0]


_Blocks = list[tuple[type[model.BlockOp], str, Properties]]
"""The blocks of one layer: op class, name in the path, properties."""

_Layers = list[tuple[str, int, _Blocks]]
"""The layers of a model: kind, count, blocks."""


def _gqa(fields: Fields, head_dim: int, qk_norm: bool, theta: float | None = None) -> Properties:
    heads = fields.integer("num_attention_heads")
    # Absent = one key head per query head.
    kv_heads = fields.integer("num_key_value_heads") if fields.present("num_key_value_heads") else heads
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "qk_norm_eps": fields.number("rms_norm_eps") if qk_norm else None,
        **read_rope(fields, theta).properties(),
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
    return {"intermediate_size": fields.integer("intermediate_size")}


def _llama(fields: Fields) -> _Layers:
    fields.unsupported_unless("sliding_window", None)
    # rope_theta absent = 10000 (Llama 2 files have none).
    gqa = _gqa(fields, _head_dim(fields), qk_norm=False, theta=10000.0)
    blocks: _Blocks = [(model.GqaOp, "gqa", gqa), (model.FfnOp, "ffn", _ffn(fields))]
    return [("dense", fields.integer("num_hidden_layers"), blocks)]


def _qwen3(fields: Fields) -> _Layers:
    fields.unsupported_unless("use_sliding_window", False)
    for name in ("sliding_window", "max_window_layers"):  # read with use_sliding_window only
        fields.value(name)
    gqa = _gqa(fields, fields.integer("head_dim"), qk_norm=True)
    blocks: _Blocks = [(model.GqaOp, "gqa", gqa), (model.FfnOp, "ffn", _ffn(fields))]
    return [("dense", fields.integer("num_hidden_layers"), blocks)]


def _null(fields: Fields, name: str) -> bool:
    """Whether the field is given as null, which is not the same as absent."""
    return name in fields.config and not fields.present(name)


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
    }
    gqa = _gqa(fields, _head_dim(fields), qk_norm=False)
    blocks: _Blocks = [(model.GqaOp, "gqa", gqa), (model.MoeOp, "moe", moe)]
    return [("moe", fields.integer("num_hidden_layers"), blocks)]


def _deepseek_v3(fields: Fields) -> _Layers:
    return _deepseek(fields, model.MlaOp, "mla", {})


def _deepseek_v32(fields: Fields) -> _Layers:
    """As DeepSeek-V3, every layer with sparse attention."""
    indexer: Properties = {name: fields.integer(name) for name in ("index_n_heads", "index_head_dim", "index_topk")}
    if _null(fields, "q_lora_rank"):
        raise fields.fail("q_lora_rank", "null, but the indexer projects the query latent: expected an integer")
    return _deepseek(fields, model.DsaOp, "dsa", indexer)


def _deepseek(fields: Fields, kind: type[model.LatentAttentionOp], name: str, indexer: Properties) -> _Layers:
    """DeepSeek-V3 with attention blocks of `kind`, which have the fields of an `indexer` besides those of MLA."""
    # Absent = what DeepseekV3TopkRouter does: sigmoid scores, choice with the correction bias, every layer
    # MoE.
    fields.unsupported_unless("scoring_func", "sigmoid")
    fields.unsupported_unless("topk_method", "noaux_tc")
    fields.unsupported_unless("moe_layer_freq", 1)
    layers, dense = fields.integer("num_hidden_layers"), fields.integer("first_k_dense_replace", 0)
    if dense > layers:
        raise fields.fail("first_k_dense_replace", f"{dense} is more than num_hidden_layers {layers}")
    heads, rotary = fields.integer("num_attention_heads"), fields.integer("qk_rope_head_dim")
    for derived, value in (
        ("num_key_value_heads", heads),
        ("head_dim", rotary),
        ("qk_head_dim", fields.integer("qk_nope_head_dim") + rotary),
    ):
        fields.unsupported_unless(derived, value)
    attention: Properties = {
        "num_attention_heads": heads,
        # Null = queries are projected without a latent (DeepSeek-V2-Lite).
        "q_lora_rank": None if _null(fields, "q_lora_rank") else fields.integer("q_lora_rank"),
        "kv_lora_rank": fields.integer("kv_lora_rank"),
        "qk_nope_head_dim": fields.integer("qk_nope_head_dim"),
        "qk_rope_head_dim": rotary,
        "v_head_dim": fields.integer("v_head_dim"),
        # Absent = true.
        "rope_interleave": fields.boolean("rope_interleave") if fields.present("rope_interleave") else True,
        **read_rope(fields).properties(),
        **indexer,
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
    }
    layers_of: _Layers = [
        ("dense", dense, [(kind, name, attention), (model.FfnOp, "ffn", _ffn(fields))]),
        ("moe", layers - dense, [(kind, name, attention), (model.MoeOp, "moe", moe)]),
    ]
    return [found for found in layers_of if found[1]]


ARCHITECTURES: dict[str, Callable[[Fields], _Layers]] = {
    "LlamaForCausalLM": _llama,
    "DeepseekV3ForCausalLM": _deepseek_v3,
    "DeepseekV32ForCausalLM": _deepseek_v32,
    "Qwen3ForCausalLM": _qwen3,
    "MixtralForCausalLM": _mixtral,
}
"""The supported architectures, each with the layers it makes of a config."""
