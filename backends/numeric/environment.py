"""What a program runs on: token ids, weights and caches by path, and the values of the symbols.

A weight or cache inside a repeat is one array with a leading dim of all stored layers of its path.  Seeded
arrays depend on (seed, path, shape) alone, so the modules of all levels of one model get identical inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

import numpy as np

from pmc.backends.numeric.errors import Array, NumericError, require_finite
from pmc.dialects.drafting import DRAFT, application, is_drafting
from pmc.dialects.expr import Expr, UnboundSymbolError
from pmc.dialects.state_roles import ENTRY_AXIS, FIXED_SIZE_ROLES

SYMBOLS = ("batch", "q_len", "kv_len")
"""The symbols that every program depends on; `kv_len` counts the current queries too."""

MAX_ELEMENTS = 2**28
"""Inputs beyond this take minutes and more memory than a small machine has (2 GiB in FP64)."""

_CACHE_POSITION = 1
"""The dim of one layer's cache that counts positions: [batch, kv_len, width]."""


@dataclass(frozen=True)
class Source:
    """A tensor that a program reads from memory."""

    path: str
    kind: Literal["weight", "state"]
    shape: tuple[int, ...]
    """With the leading layer dims of the repeats around it."""
    axes: tuple[str, ...]
    """The logical axis of every dim of one layer ('' for none)."""
    role: str | None = None
    """What the tensor is, as `layer.weight` and `layer.state` declare it."""
    below: int | None = None
    """What all entries of a table of experts by token id are below."""

    @property
    def stacked(self) -> int:
        """How many leading dims count layers."""
        return len(self.shape) - len(self.axes)

    @property
    def counts_positions(self) -> bool:
        """Whether it is a cache with a row for every position of a sequence."""
        return self.kind == "state" and self.role not in FIXED_SIZE_ROLES and not self.counts_entries

    @property
    def counts_entries(self) -> bool:
        """Whether it is a cache with a row for every entry that tokens have been compressed to, from the first on."""
        return ENTRY_AXIS in self.axes


@dataclass(frozen=True)
class Environment:
    """The inputs of one step.  `tokens` is flat [batch*q_len], sequence by sequence."""

    bindings: Mapping[str, int]
    tokens: Array
    weights: Mapping[str, Array]
    states: Mapping[str, Array] = field(default_factory=dict[str, Array])
    fixed: frozenset[str] = frozenset()
    """The states that have no row for every position, by path: they stay as large as they are."""
    drafted: tuple[Array, ...] = ()
    """The tokens of every application of a draft layer: flat [batch*q_len] for the first, [batch] for the others."""

    def __post_init__(self) -> None:
        """Every symbol has a usable value and there is one token per query."""
        check_bindings(self.bindings)
        batch, q_len = self.bindings["batch"], self.bindings["q_len"]
        if self.tokens.shape != (batch * q_len,) or self.tokens.dtype.kind not in "iu":
            raise NumericError(
                f"tokens are {self.tokens.dtype}{list(self.tokens.shape)}, "
                f"must be integers [{batch * q_len}] (batch {batch} * q_len {q_len})"
            )
        for number, tokens in enumerate(self.drafted):
            rows = batch if number else batch * q_len
            if tokens.shape != (rows,) or tokens.dtype.kind not in "iu":
                raise NumericError(
                    f"the tokens of '{application(DRAFT, number)}' are {tokens.dtype}{list(tokens.shape)}, "
                    f"must be integers [{rows}]"
                )

    @property
    def inputs(self) -> tuple[Array, ...]:
        """The arguments of the program: its tokens, then those of the applications of a draft layer."""
        return (self.tokens, *self.drafted)

    def check(self, sources: Iterable[Source]) -> None:
        """Raise unless every source has an array of its shape with finite elements."""
        for source in sources:
            held = self.weights if source.kind == "weight" else self.states
            values = held.get(source.path)
            if values is None:
                raise NumericError(f"no array for {source.kind} '{source.path}', must be {list(source.shape)}")
            if values.shape != source.shape:
                raise NumericError(
                    f"{source.kind} '{source.path}' is {list(values.shape)}, must be {list(source.shape)}"
                )
            require_finite(values, f"{source.kind} '{source.path}'")

    def next_step(self, tokens: Array, states: Mapping[str, Array]) -> Environment:
        """The inputs of the next step: this one's final `states` with room for `tokens` [batch*new q_len]."""
        batch = self.bindings["batch"]
        if len(tokens) % batch or not len(tokens):
            raise NumericError(f"{len(tokens)} new tokens for a batch of {batch}, must be a positive multiple")
        q_len = len(tokens) // batch
        grown = {p: values if p in self.fixed else _with_room(values, q_len) for p, values in states.items()}
        kv_len = self.bindings["kv_len"] + q_len
        bindings = {**self.bindings, "q_len": q_len, "kv_len": kv_len}
        return replace(self, bindings=bindings, tokens=tokens, states=grown)

    def newest(self, sources: Iterable[Source]) -> Environment:
        """The same with the newest positions of caches that the `sources` of a program have fewer positions of.

        A cache of entries has as many as the program says, from the first on; those that it lacks are zeros.
        """
        states = dict(self.states)
        for source in sources:
            if source.path in states and source.counts_positions:
                values = states[source.path]
                states[source.path] = values[..., max(0, values.shape[-2] - source.shape[-2]) :, :]
            elif source.path in states and source.counts_entries:
                values, rows = states[source.path], source.shape[-2]
                states[source.path] = _with_room(values, max(0, rows - values.shape[-2]))[..., :rows, :]
        return replace(self, states=states)


def _with_room(cache: Array, q_len: int) -> Array:
    """`cache` [.., batch, kv_len, width] with q_len zero positions appended."""
    room = [(0, 0)] * cache.ndim
    room[-2] = (0, q_len)
    return np.pad(cache, room)


def check_bindings(bindings: Mapping[str, int]) -> None:
    """Raise unless batch, q_len and kv_len have positive values with q_len <= kv_len."""
    for symbol in SYMBOLS:
        if bindings.get(symbol, 0) < 1:
            raise NumericError(f"symbol '{symbol}' is {bindings.get(symbol)}, must be at least 1")
    if bindings["q_len"] > bindings["kv_len"]:
        raise NumericError(
            f"q_len {bindings['q_len']} exceeds kv_len {bindings['kv_len']}, which counts the queries too"
        )


def evaluate_dims(dims: Iterable[Expr], bindings: Mapping[str, int], where: str) -> tuple[int, ...]:
    """The integer dims under `bindings`; an unbound symbol is an error that opens with `where`."""
    try:
        return tuple(int(d.evaluate(bindings)) for d in dims)
    except UnboundSymbolError as error:
        raise NumericError(f"{where}: {error}; known are {', '.join(sorted(bindings))}") from None


def seeded_environment(
    sources: Iterable[Source], vocabulary: int, bindings: Mapping[str, int], seed: int, drafts: int = 0
) -> Environment:
    """Deterministic inputs in float64; see `seeded_array` for their distribution.

    Tokens are uniform over `vocabulary`.  The last q_len positions of caches, those of the tokens, hold zeros; states
    of a fixed size hold values everywhere.  `drafts` is how often a draft layer is applied: its caches have a position
    more for every application behind the first.
    """
    check_bindings(bindings)
    sources = list(sources)
    elements = sum(prod(source.shape) for source in sources)
    if elements > MAX_ELEMENTS:
        raise NumericError(
            f"the inputs have {elements} elements, at most {MAX_ELEMENTS} are run; "
            "--shrink of `pmc run` and `pmc compile` makes a small version"
        )
    arrays: dict[str, dict[str, Array]] = {"weight": {}, "state": {}}
    for source in sources:
        values = seeded_array(source, seed)
        if source.counts_positions:
            new = bindings["q_len"] + (drafts - 1 if is_drafting(source.path) else 0)
            past = source.shape[source.stacked + _CACHE_POSITION] - new
            values[(slice(None),) * (source.stacked + _CACHE_POSITION) + (slice(past, None),)] = 0.0
        arrays[source.kind][source.path] = values
    count = bindings["batch"] * bindings["q_len"]
    tokens = _generator(seed, "tokens").integers(0, vocabulary, count)
    fixed = frozenset(s.path for s in sources if s.kind == "state" and not s.counts_positions)
    rows = [bindings["batch"] if number else count for number in range(drafts)]
    drafted = tuple(
        _generator(seed, f"{application(DRAFT, number)}.tokens").integers(0, vocabulary, size)
        for number, size in enumerate(rows)
    )
    return Environment(dict(bindings), tokens, arrays["weight"], arrays["state"], fixed, drafted)


def seeded_array(source: Source, seed: int) -> Array:
    """Values that keep activations near 1, a function of (seed, path, shape).

    Matrices are N(0, 1/fan_in) with fan_in the last dim but one; embedding rows and caches N(0, 1); vectors
    are norm weights around 1, or biases around 0.  A row of a table of experts holds different ones.
    """
    if source.below is not None:
        order = np.argsort(_generator(seed, source.path).random((*source.shape[:-1], source.below)), axis=-1)
        experts: Array = order[..., : source.shape[-1]]
        return experts
    normal: Array = _generator(seed, source.path).standard_normal(source.shape)
    dims = source.shape[source.stacked :]
    if source.kind == "state" or source.axes[0] == "vocab":
        return normal
    if len(dims) == 1:
        return normal * 0.1 if source.role == "bias" else 1.0 + 0.1 * normal
    matrix: Array = normal / np.sqrt(dims[-2])
    return matrix


def _generator(seed: int, path: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
