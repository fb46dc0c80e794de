"""The fields of a Hugging Face `config.json`: typed access, which of them were read, and what is known of the others.

Nothing in a file is ignored silently.  A field that the import did not read is refused by name, unless it stands in
`HARMLESS`, where it is known to change no tensor of inference, or is null, which means without the feature.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

from pmc.compiler.config import ConfigError

HARMLESS: Mapping[str, tuple[str, ...]] = {
    "what wrote the file, and which code loads it": (
        "model_type", "auto_map", "transformers_version", "name_or_path", "library_name", "tokenizer_class",
        "is_decoder", "torchscript", "tf_legacy_loss", "use_bfloat16", "unsloth_fixed", "unsloth_version",
    ),
    "what the code returns besides logits, and whether it keeps a cache": (
        "use_cache", "return_dict", "output_attentions", "output_hidden_states", "output_scores",
        "output_router_logits", "return_dict_in_generate", "chunk_size_feed_forward",
    ),
    "tokens with a role": (
        "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id",
        "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens",
        "prefix",
    ),
    "how the next token is chosen from the logits": (
        "do_sample", "temperature", "top_k", "top_p", "typical_p", "min_length", "max_length", "max_new_tokens",
        "num_beams", "num_beam_groups", "num_return_sequences", "diversity_penalty", "length_penalty",
        "repetition_penalty", "exponential_decay_length_penalty", "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size", "early_stopping", "remove_invalid_values",
    ),
    "training, and tasks other than language": (
        "attention_dropout", "hidden_dropout", "classifier_dropout", "initializer_range", "gradient_checkpointing",
        "aux_loss_alpha", "seq_aux", "router_aux_loss_coef", "router_jitter_noise", "finetuning_task",
        "task_specific_params", "problem_type", "id2label", "label2id", "num_labels",
    ),
    "in how many parts the reference code computes the same sums": ("pretraining_tp", "ep_size"),
}  # fmt: skip
"""Fields that change no tensor of inference, by why.  Names that begin with `_` are private to transformers."""

SWITCHES = ("attention_bias", "mlp_bias", "qkv_bias", "use_sliding_window", "use_mrope")
"""Features that a family without them may say to be switched off."""


class Fields:
    """Typed access to a configuration, which notes what is read; `prefix` is the path of a nested block."""

    def __init__(
        self,
        config: Mapping[str, object],
        source: str,
        prefix: str = "",
        read: Collection[str] = (),
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.names = names or {}
        """What files of a family call a field that others name otherwise: an `attribute_map` of transformers."""
        self.source = source
        self.prefix = prefix
        self._read = set(read)

    def fail(self, name: str, problem: str) -> ConfigError:
        """The error for a field."""
        return ConfigError(self.source, f"{self.prefix}{self.names.get(name, name)}: {problem}")

    def value(self, name: str) -> object:
        """Whatever the field holds under either of its names; None where it is absent."""
        own = self.names.get(name, name)
        self._read |= {own, name}
        found = [self.config[each] for each in (own, name) if each in self.config]
        if any(value != found[0] for value in found):
            raise self.fail(name, f"{found[0]!r} is not what {name} says, {found[1]!r}; leave one out")
        return found[0] if found else None

    def given(self, name: str) -> bool:
        """Whether the file has the field, under either of its names."""
        return name in self.config or self.names.get(name, name) in self.config

    def _get(self, name: str, expected: str) -> object:
        value = self.value(name)
        if not self.given(name):
            raise self.fail(name, f"missing, expected {expected}")
        return value

    def present(self, name: str) -> bool:
        """Whether the field is given and not null."""
        return self.value(name) is not None

    def is_null(self, name: str) -> bool:
        """Whether the field is given as null, which is not the same as absent."""
        return self.given(name) and not self.present(name)

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

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of positive numbers."""
        value = self._get(name, "a list of positive numbers")
        found = cast(list[object], value) if isinstance(value, list) else [value]
        numbers = [float(v) for v in found if isinstance(v, int | float) and not isinstance(v, bool)]
        if not isinstance(value, list) or len(numbers) < len(found) or not all(0 < v < float("inf") for v in numbers):
            raise self.fail(name, f"expected a list of positive numbers, found {value!r}")
        return tuple(numbers)

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

    def block(self, name: str) -> Fields | None:
        """A block of fields; None where it is absent or null."""
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.fail(name, f"expected a block of fields or null, found {value!r}")
        return Fields(cast(Mapping[str, object], value), self.source, f"{self.prefix}{name}.")

    def entry(self, name: str, index: int) -> Fields:
        """The fields of one entry of list `name`."""
        entries = self.value(name)
        found = cast(list[object], entries)[index] if isinstance(entries, list) else None
        if not isinstance(found, Mapping):
            raise self.fail(f"{name}[{index}]", f"expected a block of fields, found {found!r}")
        return Fields(cast(Mapping[str, object], found), self.source, f"{self.prefix}{name}[{index}].")

    def unsupported_unless(self, name: str, allowed: object) -> None:
        """Reject a feature that the `model` dialect does not describe; absent or null means without it."""
        value = self.value(name)
        if value is not None and value != allowed:
            raise self.fail(name, f"{value!r} is not supported, only {allowed!r} is")

    def refuse(self, parts: Mapping[str, str]) -> None:
        """Raise ConfigError that names those of the fields that are given, neither null nor false, and their parts.

        Fields of a block are `block.field`.
        """
        given: list[str] = []
        for name in parts:
            block, _, inner = name.rpartition(".")
            held = self.config.get(block) if block else self.config
            value = cast(Mapping[str, object], held).get(inner) if isinstance(held, Mapping) else None
            if value is not None and value is not False:
                given.append(name)
        if given:
            fields = ", ".join(f"{self.prefix}{name}" for name in given)
            lacking = "; ".join(dict.fromkeys(parts[name] for name in given))
            raise ConfigError(self.source, f"{fields}: not supported, the model dialect has no such parts: {lacking}")

    def refuse_unread(self, reader: str) -> None:
        """Raise ConfigError for the first field that `reader` has not read and that may change the computation."""
        harmless = {name for names in HARMLESS.values() for name in names}
        for name, value in self.config.items():
            is_off = name in SWITCHES and value is False
            if value is not None and not is_off and name not in self._read | harmless and not name.startswith("_"):
                raise self.fail(
                    name,
                    f"not a field that pmc reads of {reader}, and it may change the computation; "
                    "remove it if the model is the same without it",
                )
