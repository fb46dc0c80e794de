"""Routing that was recorded: a CSV file with the experts of every token.

The file has at least the columns `token_id` and `experts_json`, a JSON list of `E0`, `E1`, ..; rows without experts, as
those of attention in `logical_compute.csv`, are passed over.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import cast

import numpy as np

from pmc.dialects.errors import PmcError, excerpt
from pmc.dialects.interfaces import IntArray
from pmc.dialects.moe_workload import MoeWorkload

_EXPERT = re.compile(r"E(\d{1,9})")


def recorded_routing(path: Path, workload: MoeWorkload) -> IntArray:
    """The experts [steps * micro_batch, topk] of the first tokens of a file, in the order of their numbers.

    Raises PmcError with file and line for what is malformed, and for too few tokens.
    """
    tokens = workload.sequence.steps * workload.sequence.micro_batch
    found: dict[int, list[int]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if not {"token_id", "experts_json"} <= set(reader.fieldnames or ()):
                raise PmcError(f"{path}:1: needs the columns token_id and experts_json")
            for row in reader:
                _take(found, row, workload, f"{path}:{reader.line_num}")
    except OSError as error:
        raise PmcError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PmcError(f"{path}: not UTF-8 text") from None
    except csv.Error as error:
        raise PmcError(f"{path}: {error}") from None
    if len(found) < tokens:
        raise PmcError(f"{path}: holds the experts of {len(found)} tokens, the workload has {tokens}")
    return np.array([found[token] for token in sorted(found)[:tokens]], np.int64)


def _take(found: dict[int, list[int]], row: dict[str, str], workload: MoeWorkload, where: str) -> None:
    token, text = row["token_id"], row["experts_json"]
    if not re.fullmatch(r"\d{1,18}", token or ""):
        raise PmcError(f"{where}: token_id: '{excerpt(token or '', 40)}' is not a number of a token")
    try:
        names: object = json.loads(text or "")
    except (ValueError, RecursionError):
        names = None
    if names == []:
        return
    matches = [_EXPERT.fullmatch(str(name)) for name in cast(list[object], names)] if isinstance(names, list) else []
    experts = [int(match[1]) for match in matches if match is not None]
    count, topk = workload.routing.experts, workload.routing.topk
    if len(set(experts)) != topk or len(matches) != topk or max(experts) >= count:
        raise PmcError(
            f"{where}: experts_json: expected {topk} different experts of E0 .. E{count - 1}, "
            f"found {excerpt(text or '', 80)}"
        )
    if int(token) in found:
        raise PmcError(f"{where}: token {token} has its experts twice")
    found[int(token)] = experts
