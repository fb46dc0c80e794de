"""The language model inside of a larger model: `text_config` of a config with an encoder of images or sound."""

from __future__ import annotations

from pmc.compiler.config import MODELOPT_FILE
from pmc.compiler.frontend.fields import Fields

SHARED = (
    "tie_word_embeddings", "dtype", "torch_dtype", "quantization_config", "compression_config", MODELOPT_FILE,
)  # fmt: skip
"""Fields of the language model that some files write beside `text_config`."""

ENCODER_BLOCKS = ("vision_config", "audio_config")

ENCODERS = (
    *ENCODER_BLOCKS, "image_token_id", "video_token_id", "audio_token_id", "vision_start_token_id",
    "vision_end_token_id", "image_token_index", "media_placeholder_token_id", "use_unified_vision_chunk",
    "video_placeholder", "boa_token_id", "eoa_token_id", "eoa_token_index", "vision_soft_tokens_per_image",
    "ignore_index", "boi_token_index", "eoi_token_index", "boi_token_id", "eoi_token_id",
    "language_model_only", "video_token_index", "img_token_compression_config", "image_grid_pinpoints",
    "image_seq_length", "multimodal_projector_bias", "process_image_mode", "projector_hidden_act",
    "projector_hidden_size", "vision_feature_layer", "vision_feature_select_strategy",
)  # fmt: skip
"""Fields of what stands beside the language model, and of the tokens in which they meet.  Their work is not costed."""


ROTARY = ("rope_scaling", "rope_parameters")
SECTIONS = ("mrope_section", "mrope_interleaved")
"""Which columns turn by which coordinate of a patch of an image; a token of text has one number for all of them."""


def encoders(whole: Fields) -> tuple[str, ...]:
    """What stands beside the language model: `vision`, `audio`."""
    return tuple(name.removesuffix("_config") for name in ENCODER_BLOCKS if whole.block(name) is not None)


def language_model(whole: Fields, architecture: str) -> Fields:
    """The fields of the language model of a config.

    Raises ConfigError where there is no `text_config`, where a field stands in both places with two values, and for
    fields beside it that are not known.
    """
    inner = whole.block("text_config")
    if inner is None:
        raise whole.fail("text_config", f"missing, expected the block of the language model of {architecture}")
    given = {name: whole.value(name) for name in SHARED if whole.present(name)}
    for name, value in given.items():
        if inner.config.get(name, value) != value:
            raise whole.fail(name, f"{value!r} is not what text_config.{name} says, {inner.config[name]!r}")
    for name in ENCODERS:
        whole.value(name)
    whole.unsupported_unless("num_reward_heads", 0)
    whole.refuse_unread(architecture)
    config = {**inner.config, **given}
    for name in ROTARY:
        block = inner.block(name)
        if block is not None:
            config[name] = {key: value for key, value in block.config.items() if key not in SECTIONS}
    return Fields(config, whole.source, inner.prefix, read=("architectures",))
