"""The columns of a file of measurements, checked against the schema of its kind: parquet, CSV and `*_perf.txt`."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pmc.backends.silicon.schema import POWER, TableKind
from pmc.dialects.errors import PmcError, excerpt
from pmc.dialects.schema import did_you_mean

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

SUFFIXES = (".parquet", ".csv", ".txt")
INSTALL = "pip install 'pmc[silicon]'"

_HEADER = re.compile(r"\s*(?P<name>\w+)\s*(?:[\[(]\s*(?P<unit>[^\])]*?)\s*[\])])?\s*")
_UNIT_SUFFIX = re.compile(r"(?P<name>\w+)_(?P<unit>ns|us|ms|s|mw|w|kw|bytes)")


@dataclass(frozen=True)
class Words:
    """A column of text: the word of row i is `words[codes[i]]`."""

    codes: Ints
    words: tuple[str, ...]

    @classmethod
    def of(cls, cells: Sequence[str]) -> Words:
        """A column from its cells."""
        words, codes = np.unique(np.asarray(cells, dtype=np.str_), return_inverse=True)
        return cls(codes.astype(np.intp), tuple(str(word) for word in words))

    @classmethod
    def constant(cls, word: str, rows: int) -> Words:
        """A column with one word."""
        return cls(np.zeros(rows, dtype=np.intp), (word,))


@dataclass(frozen=True)
class Columns:
    """What is read of a file: numbers, words, times and power; all of one length."""

    numbers: Mapping[str, Floats]
    words: Mapping[str, Words]
    latency_ms: Floats
    power_w: Floats | None


def read_columns(path: Path, kind: TableKind) -> Columns:
    """The key columns, lanes, times and power of a file; other columns are checked by name and not read.

    Raises PmcError, naming file and column, for a file that cannot be read, for columns that the kind does not know or
    that are missing, for foreign units, and for cells that are no positive time or no number.
    """
    if path.suffix == ".parquet":
        header, read = _open_parquet(path)
    elif path.suffix in SUFFIXES:
        header, read = _open_csv(path)
    else:
        raise PmcError(f"{path}: a table is one of *{', *'.join(SUFFIXES)}")
    named = check_header(path, kind, header)
    wanted_numbers = [c for c in (*kind.axes, kind.latency, POWER) if c in named]
    wanted_words = [c for c in (*kind.categories, *kind.lanes) if c in named]
    numbers, words = read([named[c] for c in wanted_numbers], [named[c] for c in wanted_words])
    found = dict(zip(wanted_numbers, numbers, strict=True))
    for name, column in found.items():
        bad = np.flatnonzero(~np.isfinite(column) | (column <= 0 if name == kind.latency else column < 0))
        if bad.size:
            need = "a positive time" if name == kind.latency else "a number from 0"
            raise PmcError(f"{path}: row {bad[0] + 1} has {column[bad[0]]} in column '{name}', not {need}")
    rows = len(found[kind.latency])
    for axis in kind.coordinates:
        if axis.name not in found:
            assert axis.default is not None
            found[axis.name] = np.full(rows, axis.default)
    texts = dict(zip(wanted_words, words, strict=True))
    for name in (*kind.categories, *kind.lanes):
        texts.setdefault(name, Words.constant(kind.category_defaults.get(name, ""), rows))
    return Columns({a: found[a] for a in kind.axes}, texts, found[kind.latency], found.get(POWER))


def check_header(path: Path, kind: TableKind, header: Sequence[str]) -> dict[str, str]:
    """The column of the file for every column of the kind that it has.

    A header may end in its unit: `latency [ms]`.  Raises PmcError for unknown and missing columns and foreign units.
    """
    named: dict[str, str] = {}
    for title in header:
        match = _HEADER.fullmatch(title)
        if match is None:
            raise PmcError(f"{path}: column '{excerpt(title)}' has no name of letters, digits and _")
        name, unit = match["name"], match["unit"]
        if name not in kind.known:
            suffixed = _UNIT_SUFFIX.fullmatch(name)
            if suffixed is not None and suffixed["name"] in kind.known:
                own = kind.unit_of(suffixed["name"])
                raise PmcError(
                    f"{path}: column '{name}' is in {suffixed['unit']}, a {kind.name} table has "
                    f"'{suffixed['name']}' in {own or 'words'}"
                )
            raise PmcError(
                f"{path}: a {kind.name} table has no column '{excerpt(name)}'{did_you_mean(name, kind.known)}"
            )
        if unit is not None and unit != kind.unit_of(name):
            raise PmcError(
                f"{path}: column '{name}' is in '{excerpt(unit)}', a {kind.name} table has it in "
                f"{kind.unit_of(name) or 'words'}"
            )
        if name in named:
            raise PmcError(f"{path}: column '{name}' is there twice")
        named[name] = title
    missing = [name for name in kind.required if name not in named]
    if missing:
        raise PmcError(f"{path}: a {kind.name} table needs the column '{missing[0]}'; it has {', '.join(named)}")
    return named


def require_pyarrow(module: str) -> Any:
    """A module of pyarrow.  Raises PmcError, naming the extra, where it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise PmcError(f"tables in parquet files need pyarrow: {INSTALL}") from None


def _open_parquet(path: Path) -> tuple[list[str], Any]:
    parquet, arrow = require_pyarrow("pyarrow.parquet"), require_pyarrow("pyarrow")
    try:
        file = parquet.ParquetFile(path)
    except (OSError, arrow.ArrowException) as error:
        raise PmcError(f"{path}: no readable parquet file: {excerpt(str(error))}") from None

    def read(numbers: list[str], words: list[str]) -> tuple[list[Floats], list[Words]]:
        try:
            data = file.read(columns=[*numbers, *words])
            floats = [np.asarray(data[c].cast(arrow.float64()).to_numpy(), dtype=np.float64) for c in numbers]
            texts: list[Words] = []
            for name in words:
                cells = data[name].cast(arrow.string()).combine_chunks().dictionary_encode()
                if cells.null_count:
                    raise PmcError(f"{path}: column '{name}' has empty cells")
                texts.append(Words(cells.indices.to_numpy().astype(np.intp), tuple(cells.dictionary.to_pylist())))
        except (OSError, arrow.ArrowException) as error:
            raise PmcError(f"{path}: a damaged parquet file: {excerpt(str(error))}") from None
        return floats, texts

    return list(file.schema_arrow.names), read


def _open_csv(path: Path) -> tuple[list[str], Any]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PmcError(f"{path}: no readable table: {excerpt(str(error))}") from None
    rows = list(csv.reader(lines))
    if not rows or len(rows) < 2:
        raise PmcError(f"{path}: a table has a line of columns and at least one row")
    header = [title.strip() for title in rows[0]]

    def read(numbers: list[str], words: list[str]) -> tuple[list[Floats], list[Words]]:
        for place, row in enumerate(rows[1:], 1):
            if len(row) != len(header):
                raise PmcError(f"{path}: row {place} has {len(row)} cells, the header has {len(header)}")
        cells = {title: [row[i].strip() for row in rows[1:]] for i, title in enumerate(header)}
        return [_floats(path, c, cells[c]) for c in numbers], [Words.of(cells[c]) for c in words]

    return header, read


def _floats(path: Path, name: str, cells: Sequence[str]) -> Floats:
    values = np.empty(len(cells))
    for place, cell in enumerate(cells):
        try:
            values[place] = float(cell)
        except ValueError:
            raise PmcError(f"{path}: row {place + 1} has '{excerpt(cell)}' in column '{name}', not a number") from None
    return values
