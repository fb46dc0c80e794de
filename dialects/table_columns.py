"""The kinds of columns of a table: what a column holds in memory and how its values read.

    int 17    enum load    number 0.25    text 'B(12,7,3)'    lists [12 13], [0.5 1.0], ['E17' 'E3']

Columns are numpy arrays: integers and numbers as they are, enums as codes, texts as codes of their different words,
lists as one flat column with the place where each list begins.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias, cast

import numpy as np

from pmc.dialects.interfaces import FloatArray, IntArray

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'", re.DOTALL)
_TOKEN = re.compile(r"\s*('(?:[^'\\]|\\.)*'|[\[\];]|[^\s\[\];']+)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Texts:
    """A column of texts: `words[codes[i]]`; the words differ, stand in the order of their first use, and are all used.

    Build one with `Texts.of` or, where codes are at hand, `Texts.coded`.
    """

    codes: IntArray
    words: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[str]) -> Texts:
        """The column of these texts."""
        numbers: dict[str, int] = {}
        codes = [numbers.setdefault(value, len(numbers)) for value in values]
        return cls(np.array(codes, np.int64), tuple(numbers))

    @classmethod
    def coded(cls, codes: IntArray, words: Sequence[str]) -> Texts:
        """The column `words[codes]`, from different words of which some may not be used."""
        used, first, places = np.unique(codes, return_index=True, return_inverse=True)
        order: IntArray = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return cls(np.asarray(rank[places], np.int64).reshape(-1), tuple([words[int(i)] for i in used[order]]))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: IntArray | slice) -> Texts:
        return Texts.coded(self.codes[rows], self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Texts) and self.words == other.words and np.array_equal(self.codes, other.codes)

    __hash__ = None  # type: ignore[assignment]

    def tolist(self) -> list[str]:
        """All texts."""
        return [self.words[code] for code in self.codes.tolist()]


Flat: TypeAlias = IntArray | FloatArray | Texts


@dataclass(frozen=True, eq=False)
class Lists:
    """A column of lists: list i is `values[starts[i]:starts[i + 1]]`; `starts` has one entry more than lists."""

    starts: IntArray
    values: Flat

    @classmethod
    def of_equal(cls, values: Flat, length: int) -> Lists:
        """Lists of one length, from their values one after the other."""
        return cls(np.arange(0, len(values) + 1, length), values)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def int_lists(self) -> list[list[int]]:
        """The lists, whose values must be integers."""
        assert isinstance(self.values, np.ndarray) and self.values.dtype == np.int64
        values: list[int] = self.values.tolist()
        return [values[a:b] for a, b in pairwise(self.starts.tolist())]

    def values_as_numbers(self) -> FloatArray:
        """The values, which must be numbers."""
        assert isinstance(self.values, np.ndarray) and self.values.dtype == np.float64
        return self.values.astype(np.float64, copy=False)

    @property
    def lengths(self) -> IntArray:
        """How many values each list has."""
        return np.diff(self.starts)

    def __getitem__(self, rows: IntArray | slice) -> Lists:
        lengths = self.lengths[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        shifts = self.starts[:-1][rows] - starts[:-1]
        return Lists(starts, self.values[np.repeat(shifts, lengths) + np.arange(starts[-1])])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Lists) and np.array_equal(self.starts, other.starts) and same(self.values, other.values)
        )

    __hash__ = None  # type: ignore[assignment]


Values: TypeAlias = Flat | Lists


def same(a: Values, b: Values) -> bool:
    """Whether two columns hold the same values."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return not isinstance(a, np.ndarray) and not isinstance(b, np.ndarray) and a == b


Token: TypeAlias = "str | list[str]"
"""The text of one value; of a list, the texts of its values."""


@dataclass(frozen=True)
class Column(ABC):
    """The name of a column; the class says what it holds."""

    name: str

    @property
    def head(self) -> str:
        """How the head of a table calls it."""
        return self.name

    @abstractmethod
    def wrong(self, values: Values) -> str | None:
        """What is wrong with `values` as those of this column."""

    @abstractmethod
    def texts(self, values: Values) -> list[str]:
        """One text per value."""

    @abstractmethod
    def parsed(self, tokens: Sequence[Token]) -> Values:
        """The column of such texts.  Raises ValueError."""

    @abstractmethod
    def digest_parts(self, values: Values) -> list[bytes | memoryview]:
        """Bytes that two columns share only where they hold the same values."""

    def _flat(self, tokens: Sequence[Token]) -> list[str]:
        wrong = next((token for token in tokens if not isinstance(token, str)), None)
        if wrong is not None:
            raise ValueError(f"a list stands in column '{self.head}', which has none")
        return cast(list[str], tokens)

    def _refused(self, text: str, expected: str) -> ValueError:
        return ValueError(f"'{text[:40]}' in column '{self.head}' is not {expected}")


@dataclass(frozen=True)
class IntColumn(Column):
    """Integers of up to 18 digits."""

    def wrong(self, values: Values) -> str | None:
        """They are not an int64 array."""
        fits = isinstance(values, np.ndarray) and values.dtype == np.int64 and values.ndim == 1
        return None if fits else f"column '{self.head}' must be an array of int64"

    def texts(self, values: Values) -> list[str]:
        """Decimal digits."""
        return list(map(str, cast(IntArray, values).tolist()))

    def parsed(self, tokens: Sequence[Token]) -> IntArray:
        """Read `texts`."""
        texts = self._flat(tokens)
        wrong = next((text for text in texts if not _INTEGER.fullmatch(text)), None)
        if wrong is not None:
            raise self._refused(wrong, "an integer of up to 18 digits")
        return np.array(texts, np.str_).astype(np.int64) if texts else np.zeros(0, np.int64)

    def digest_parts(self, values: Values) -> list[bytes | memoryview]:
        """Little-endian int64."""
        return [_bytes(cast(IntArray, values), "<i8")]


@dataclass(frozen=True)
class EnumColumn(IntColumn):
    """Codes, which the text spells as `names`.  With an `enum` the head says its name too, as `kind:direction`."""

    names: tuple[str, ...] = ()
    enum: str = ""

    @property
    def head(self) -> str:
        """The name, and that of the enum."""
        return f"{self.name}:{self.enum}" if self.enum else self.name

    def wrong(self, values: Values) -> str | None:
        """They are no codes of this enum."""
        found = super().wrong(values)
        if (
            found is None
            and len(codes := cast(IntArray, values))
            and not (0 <= codes.min() <= codes.max() < len(self.names))
        ):
            return f"column '{self.head}' must hold codes below {len(self.names)}"
        return found

    def texts(self, values: Values) -> list[str]:
        """Names."""
        return [self.names[code] for code in cast(IntArray, values).tolist()]

    def parsed(self, tokens: Sequence[Token]) -> IntArray:
        """Read names."""
        texts = self._flat(tokens)
        codes = {name: code for code, name in enumerate(self.names)}
        unknown = set(texts) - codes.keys()
        if unknown:
            raise ValueError(f"'{min(unknown)[:40]}' is not one of {', '.join(self.names)}")
        return np.array([codes[text] for text in texts], np.int64)


@dataclass(frozen=True)
class NumberColumn(Column):
    """Finite numbers; the text is the shortest that gives the same float64 back."""

    def wrong(self, values: Values) -> str | None:
        """They are not a finite float64 array."""
        if not (isinstance(values, np.ndarray) and values.dtype == np.float64 and values.ndim == 1):
            return f"column '{self.head}' must be an array of float64"
        return None if np.isfinite(values).all() else f"column '{self.head}' must hold finite numbers"

    def texts(self, values: Values) -> list[str]:
        """The `repr` of Python."""
        return list(map(repr, cast(FloatArray, values).tolist()))

    def parsed(self, tokens: Sequence[Token]) -> FloatArray:
        """Read `texts`."""
        texts = self._flat(tokens)
        found = np.array([float(text) if _NUMBER.fullmatch(text) else np.nan for text in texts], np.float64)
        if not np.isfinite(found).all():
            raise self._refused(texts[int(np.argmin(np.isfinite(found)))], "a number")
        return found

    def digest_parts(self, values: Values) -> list[bytes | memoryview]:
        """Little-endian float64; -0.0 and 0.0 differ, as their texts do."""
        return [_bytes(cast(FloatArray, values), "<f8")]


@dataclass(frozen=True)
class TextColumn(Column):
    """Any texts, quoted."""

    def wrong(self, values: Values) -> str | None:
        """They are no texts."""
        return None if isinstance(values, Texts) else f"column '{self.head}' must hold texts"

    def texts(self, values: Values) -> list[str]:
        """Single quotes; a backslash before quotes and backslashes."""
        texts = cast(Texts, values)
        quoted = [quote(word) for word in texts.words]
        return [quoted[code] for code in texts.codes.tolist()]

    def parsed(self, tokens: Sequence[Token]) -> Texts:
        """Read `texts`."""
        texts = self._flat(tokens)
        wrong = next((text for text in set(texts) if not _QUOTED.fullmatch(text)), None)
        if wrong is not None:
            raise self._refused(wrong, "a text in single quotes")
        found = Texts.of(texts)
        return Texts(found.codes, tuple(map(unquote, found.words)))

    def digest_parts(self, values: Values) -> list[bytes | memoryview]:
        """The words with their lengths, then the codes."""
        texts = cast(Texts, values)
        words = b"".join(f"{len(word)}:{word}".encode() for word in texts.words)
        return [words, _bytes(texts.codes, "<i8")]


@dataclass(frozen=True)
class ListColumn(Column):
    """Lists of the values of another kind of column."""

    items: Column

    @classmethod
    def of(cls, name: str, kind: type[Column]) -> ListColumn:
        """Lists whose items are those of a `kind` of columns."""
        return cls(name, kind(name))

    def wrong(self, values: Values) -> str | None:
        """They are no lists, or lists of something else."""
        if not isinstance(values, Lists):
            return f"column '{self.head}' must hold lists"
        if values.starts[0] != 0 or values.starts[-1] != len(values.values) or (values.lengths < 0).any():
            return f"the lists of column '{self.head}' do not fill their values"
        return self.items.wrong(values.values)

    def texts(self, values: Values) -> list[str]:
        """`[17 3]`."""
        lists = cast(Lists, values)
        items, starts = self.items.texts(lists.values), lists.starts.tolist()
        return [f"[{' '.join(items[a:b])}]" for a, b in pairwise(starts)]

    def parsed(self, tokens: Sequence[Token]) -> Lists:
        """Read `texts`."""
        wrong = next((token for token in tokens if isinstance(token, str)), None)
        if isinstance(wrong, str):
            raise self._refused(wrong, "a list")
        starts = np.concatenate([[0], np.cumsum([len(token) for token in tokens])]).astype(np.int64)
        items = self.items.parsed([item for token in tokens for item in token])
        assert not isinstance(items, Lists)
        return Lists(starts, items)

    def digest_parts(self, values: Values) -> list[bytes | memoryview]:
        """Where lists begin, then their values."""
        lists = cast(Lists, values)
        return [_bytes(lists.starts, "<i8"), *self.items.digest_parts(lists.values)]


def _bytes(values: IntArray | FloatArray, form: str) -> memoryview:
    return np.ascontiguousarray(values, form).data


def quote(text: str) -> str:
    """The text in single quotes."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def unquote(text: str) -> str:
    """What `quote` was given."""
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)


def split_rows(text: str) -> list[list[Token]]:
    """The values of every row of a text like `1 'a' [2 3]; 4 'b' []`.  Raises ValueError."""
    rows: list[list[Token]] = [[]]
    inner: list[str] | None = None
    for token in _tokens(text):
        if token == "[" and inner is None:
            inner = []
            rows[-1].append(inner)
        elif token == "]" and inner is not None:
            inner = None
        elif token in ("[", "]") or (token == ";" and inner is not None):
            raise ValueError(f"'{token}' stands where no list begins or ends")
        elif token == ";":
            rows.append([])
        elif inner is not None:
            inner.append(token)
        else:
            rows[-1].append(token)
    if inner is not None:
        raise ValueError("a list does not end")
    return rows


def _tokens(text: str) -> Iterator[str]:
    text, position = text.rstrip(), 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"'{text[position : position + 40].strip()}' is no value")
        position = match.end()
        yield match[1]
