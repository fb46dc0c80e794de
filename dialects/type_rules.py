"""Types of single weights: patterns of their paths, each with the format that the weights are held in.

    blocks.*.experts.*=nvfp4             weights in NVFP4, activations as all others
    blocks.*.experts.*=nvfp4+bf16        the same with activations in bf16
    *.router.weight=none                 neither is converted

A pattern is one of `fnmatch` on the whole path.  The first rule that matches a weight holds.

This module imports no dialect: the schema of deployments reads it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from pmc.dialects.element_formats import element_format

UNCONVERTED = "none"
"""Written for a format: the model's own type stays."""

CHECKPOINT_TYPES = "checkpoint"
"""Written for a format: the one that the checkpoint has."""

_PATTERN = re.compile(r"[A-Za-z0-9_.*?\[\]-]+")


@dataclass(frozen=True)
class TypeRule:
    """The formats of the weights whose path matches a pattern, and of what they are multiplied with."""

    pattern: str
    weights: str
    """A format, or `none`."""
    activations: str | None
    """A format, or `none`; None is that of the activations of all other weights."""

    def __str__(self) -> str:
        behind = "" if self.activations is None else f"+{self.activations}"
        return f"{self.pattern}={self.weights}{behind}"


def parse_rule(text: str) -> TypeRule:
    """A rule from its text.  Raises ValueError, which says what is wrong."""
    pattern, equals, formats = text.partition("=")
    weights, plus, activations = formats.partition("+")
    if not equals or not _PATTERN.fullmatch(pattern):
        raise ValueError(f"'{text}' is no rule of a type, which is PATTERN=WEIGHTS or PATTERN=WEIGHTS+ACTIVATIONS")
    rule = TypeRule(pattern, _format(weights), _activations(activations) if plus else None)
    if rule.weights == UNCONVERTED and rule.activations not in (None, UNCONVERTED):
        raise ValueError(f"'{text}' keeps the weights and converts their activations, which no kernel does")
    return rule


def canonical_rule(text: str) -> str:
    """A rule as dumps have it.  Raises ValueError for what is none."""
    return str(parse_rule(text))


def canonical_or_checkpoint(name: str) -> str:
    """A format as dumps have it, or `checkpoint`.  Raises ValueError for what is none."""
    return name if name == CHECKPOINT_TYPES else str(element_format(name))


def _format(name: str) -> str:
    return name if name == UNCONVERTED else str(element_format(name))


def _activations(name: str) -> str:
    found = _format(name)
    if found != UNCONVERTED and element_format(found).scales is not None:
        raise ValueError(
            f"activations in '{name}': scales of groups are modelled for weights only; "
            f"{element_format(found).element} has none"
        )
    return found


@dataclass(frozen=True)
class HeldTypes:
    """In which formats a program holds its weights, their activations and its caches; `none` is the model's type."""

    weights: str
    activations: str
    kv_cache: str
    rules: tuple[TypeRule, ...]
    """Of single weights, in the order in which they are asked."""

    def of(self, path: str) -> tuple[str, str]:
        """The formats of the weight at `path` and of what it is multiplied with."""
        for rule in self.rules:
            if fnmatchcase(path, rule.pattern):
                if rule.weights == UNCONVERTED:
                    return UNCONVERTED, UNCONVERTED
                return rule.weights, self.activations if rule.activations is None else rule.activations
        return self.weights, self.activations

    @property
    def formats(self) -> list[str]:
        """All formats that are named."""
        rules = [name for rule in self.rules for name in (rule.weights, rule.activations) if name is not None]
        return [name for name in (self.weights, self.activations, self.kv_cache, *rules) if name != UNCONVERTED]


def held_types(
    weights: str, activations: str, kv_cache: str, keep: Sequence[str], types: Sequence[str], stored: HeldTypes
) -> HeldTypes:
    """What options of these values mean for a model whose checkpoint holds the types `stored`.

    Rules of the options come first.  Those of the checkpoint hold where the weights are to be as it has them; their
    activations hold where activations are too.
    """
    rules = [*(TypeRule(pattern, UNCONVERTED, None) for pattern in keep), *(parse_rule(text) for text in types)]
    as_stored = activations == CHECKPOINT_TYPES
    if weights == CHECKPOINT_TYPES:
        rules += stored.rules if as_stored else [replace(rule, activations=None) for rule in stored.rules]
    return HeldTypes(
        stored.weights if weights == CHECKPOINT_TYPES else weights,
        stored.activations if as_stored else activations,
        stored.kv_cache if kv_cache == CHECKPOINT_TYPES else kv_cache,
        tuple(rules),
    )
