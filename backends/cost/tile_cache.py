"""Plans that searches have found, kept in memory and, where a folder is given, on disk.

The key of a file is a digest of every input of a search: all fields of the chip, all options of the accounting, the
shape, and the version of the models.  A file holds one plan; one that cannot be read is searched anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pmc.backends.cost.rates import CoreRates
from pmc.dialects.analyses.attention_tiling import AttentionShape
from pmc.dialects.analyses.index_tiling import IndexShape
from pmc.dialects.analyses.matmul_tiling import MatmulShape
from pmc.dialects.tile_plan import PlanAttr

PlannedShape = MatmulShape | IndexShape | AttentionShape
"""What plans are searched for."""

VERSION = 2
"""To be raised when a formula or the search changes: older files are then not found."""


class PlanCache:
    """The plans of one chip under one accounting, by shape."""

    def __init__(self, rates: CoreRates, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[PlannedShape, PlanAttr] = {}
        self._rates = rates

    def get(self, shape: PlannedShape, search: Callable[[], PlanAttr]) -> PlanAttr:
        """The plan of a shape, searched when it is not known."""
        found = self._known.get(shape)
        if found is None:
            found = self._read(shape)
            if found is None:
                found = search()
                self._write(shape, found)
            self._known[shape] = found
        return found

    def key(self, shape: PlannedShape) -> str:
        """64 hex digits."""
        target = {"chip": self._rates.chip.model_dump(), "accounting": self._rates.accounting.model_dump()}
        text = json.dumps([VERSION, target, type(shape).__name__, asdict(shape)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _read(self, shape: PlannedShape) -> PlanAttr | None:
        if self.folder is None:
            return None
        try:
            fields: dict[str, Any] = json.loads((self.folder / f"{self.key(shape)}.json").read_bytes())
            return PlanAttr.of(**fields)
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def _write(self, shape: PlannedShape, plan: PlanAttr) -> None:
        if self.folder is None:
            return
        fields = {
            "cores": plan.core_counts,
            "tile": plan.tile_sizes,
            "order": plan.order.data,
            "slots": plan.buffer_slots,
            "multicast": [name.data for name in plan.multicast.data],
            "merge": plan.merge.data,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.key(shape)}.json"
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(fields), encoding="utf-8")
        partial.replace(path)
