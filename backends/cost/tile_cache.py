"""Results of tile searches, kept in memory and, where a folder is given, on disk.

The key is a digest of every input of a search: all fields of the chip, all options of the accounting, the shape, the
kind of result, and the version of the models.  A file holds one result; one that cannot be read is searched anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from pmc.backends.cost.attention_tiles import AttentionTiling
from pmc.backends.cost.matmul_search import MatmulTiling
from pmc.backends.cost.rates import CoreRates
from pmc.dialects.interfaces import AttentionShape, MatmulShape

VERSION = 1
"""To be raised when a formula or the search changes: older files are then not found."""

TilingT = TypeVar("TilingT", MatmulTiling, AttentionTiling)


class TileCache:
    """Search results by their inputs."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[str, MatmulTiling | AttentionTiling] = {}
        self._targets: dict[int, tuple[CoreRates, str]] = {}

    def get(
        self,
        rates: CoreRates,
        shape: MatmulShape | AttentionShape,
        kind: type[TilingT],
        search: Callable[[], TilingT],
    ) -> TilingT:
        """The result for these inputs, searched when it is not known."""
        key = self.key(rates, shape, kind)
        known = self._known.get(key)
        if isinstance(known, kind):
            return known
        found = self._read(key, kind)
        if found is None:
            found = search()
            self._write(key, found)
        self._known[key] = found
        return found

    def key(
        self, rates: CoreRates, shape: MatmulShape | AttentionShape, kind: type[MatmulTiling] | type[AttentionTiling]
    ) -> str:
        """64 hex digits."""
        known = self._targets.get(id(rates))
        if known is None:
            target = {"chip": rates.chip.model_dump(), "accounting": rates.accounting.model_dump()}
            known = (rates, json.dumps([VERSION, target], sort_keys=True))
            self._targets[id(rates)] = known
        text = json.dumps([kind.__name__, asdict(shape)], sort_keys=True)
        return hashlib.sha256(f"{known[1]}\n{text}".encode()).hexdigest()

    def _read(self, key: str, kind: type[TilingT]) -> TilingT | None:
        if self.folder is None:
            return None
        try:
            return TypeAdapter(kind).validate_json((self.folder / f"{key}.json").read_bytes())
        except (OSError, ValueError):
            return None

    def _write(self, key: str, found: MatmulTiling | AttentionTiling) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{key}.{os.getpid()}.partial"
        partial.write_text(json.dumps(asdict(found)), encoding="utf-8")
        partial.replace(self.folder / f"{key}.json")
