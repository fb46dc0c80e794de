"""The files of a run of a trace: where its tables stand as CSV, and JSON of placements and replicas.

Names, columns and forms are those of the TAS-MoE study (section 3 of its guide).  Whatever is wrong with a file is one
PmcError with its path, and its line or its field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import numpy as np
from pydantic import Field, RootModel, ValidationError

from pmc.compiler.files import write_file
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import Schema, explain
from pmc.dialects.table import Table
from pmc.dialects.table_columns import Lists, Texts
from pmc.dialects.table_csv import read_table, write_table
from pmc.dialects.trace_tables import EXPERTS, LOGICAL_COMPUTE, LOGICAL_MEMORY, POLICIES, TENSORS, trace_table

FILES: Mapping[str, str] = {
    "compute": "traces/logical_compute.csv",
    "memory": "traces/logical_memory.csv",
    "reroute": "runtime/overlay_reroute.csv",
    "migrate": "runtime/overlay_migrate.csv",
    "compute_events": "traces/compute_events.csv",
    "memory_events": "traces/memory_events.csv",
}
"""Where the table of each kind stands in the folder of a run."""
PLACEMENT_FILE = "mapping/placement.json"
REPLICAS_FILE = "runtime/replica_state.json"

Cores = Annotated[tuple[Annotated[int, Field(ge=0, le=2**40)], ...], Field(strict=False, min_length=1)]


class PlacedExpert(Schema, frozen=True):
    """The cores of an expert."""

    cores: Cores = Field(description="Numbers of cores, the primary one first")
    policy: Literal["single", "replicate"] = Field(description="Whether it may have more than one")


class PlacedTensor(Schema, frozen=True):
    """The place of a tensor."""

    dram_bank: str = Field(description="Its bank, as B(12,7,3)")


class PlacementFile(Schema, frozen=True):
    """`placement.json`.  Whether cores and banks exist is for the verifier of `trace.placement`."""

    experts: dict[str, PlacedExpert] = Field(description="By name")
    tensors: dict[str, PlacedTensor] = Field(description="By name")


class Replica(Schema, frozen=True):
    """An expert on more than one core."""

    cores: Cores = Field(description="Numbers of cores, the primary one first")
    ts_created_ns: Annotated[int, Field(ge=0)] = Field(description="When its cores last changed, ns")


class ReplicaFile(RootModel[dict[str, Replica]]):
    """`replica_state.json`."""


Replicas = Mapping[str, tuple[tuple[int, ...], int]]
"""Of every expert with more than one core, these, and when they last changed, ns."""

FileT = TypeVar("FileT", PlacementFile, ReplicaFile)


def write_logical(folder: Path, compute: Table, memory: Table) -> tuple[Path, Path]:
    """Write both tables of a logical trace into the folder of a run; the paths of the files.  Raises PmcError."""
    paths = folder / FILES["compute"], folder / FILES["memory"]
    for path, table in zip(paths, (compute, memory), strict=True):
        write_table(path, table)
    return paths


def read_logical(compute: Path, memory: Path) -> tuple[Table, Table]:
    """Both tables of a logical trace.  Raises PmcError with file and line."""
    return read_table(compute, LOGICAL_COMPUTE), read_table(memory, LOGICAL_MEMORY)


def placement_document(experts: Table, tensors: Table) -> dict[str, Any]:
    """What `placement.json` holds: `{"experts": {E: {cores, policy}}, "tensors": {W: {dram_bank}}}`."""
    rows = zip(
        experts.texts("expert").tolist(), experts.lists("cores").int_lists(), experts.ints("policy"), strict=True
    )
    banks = zip(tensors.texts("tensor_id").tolist(), tensors.texts("dram_bank").tolist(), strict=True)
    return {
        "experts": {name: {"cores": cores, "policy": POLICIES[int(policy)]} for name, cores, policy in rows},
        "tensors": {name: {"dram_bank": bank} for name, bank in banks},
    }


def placement_tables(document: object, source: str) -> tuple[Table, Table]:
    """The tables of experts and of tensors of such a document.  Raises PmcError, which names `source` and the field."""
    found = _validated(PlacementFile, document, source)
    cores = [expert.cores for expert in found.experts.values()]
    starts = np.concatenate([[0], np.cumsum([len(own) for own in cores])]).astype(np.int64)
    return (
        trace_table(
            EXPERTS,
            expert=Texts.of(list(found.experts)),
            cores=Lists(starts, np.array([core for own in cores for core in own], np.int64)),
            policy=np.array([POLICIES.index(expert.policy) for expert in found.experts.values()], np.int64),
        ),
        trace_table(
            TENSORS,
            tensor_id=Texts.of(list(found.tensors)),
            dram_bank=Texts.of([tensor.dram_bank for tensor in found.tensors.values()]),
        ),
    )


def write_placement(path: Path, experts: Table, tensors: Table) -> None:
    """Write `placement.json`, an expert or a tensor a line.  Raises PmcError."""
    _write_json(path, placement_document(experts, tensors))


def read_placement(path: Path) -> tuple[Table, Table]:
    """The tables of experts and of tensors of a `placement.json`.  Raises PmcError."""
    return placement_tables(_read_json(path), str(path))


def write_replicas(path: Path, replicas: Replicas) -> None:
    """Write `replica_state.json`.  Raises PmcError."""
    _write_json(path, {name: {"cores": list(cores), "ts_created_ns": ts} for name, (cores, ts) in replicas.items()})


def read_replicas(path: Path) -> dict[str, tuple[tuple[int, ...], int]]:
    """The replicas of a `replica_state.json`.  Raises PmcError."""
    found = _validated(ReplicaFile, _read_json(path), str(path)).root
    return {name: (entry.cores, entry.ts_created_ns) for name, entry in found.items()}


def _validated(schema: type[FileT], document: object, source: str) -> FileT:
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        raise PmcError(f"{source}: {explain(error, schema)[1]}") from None


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PmcError(f"{path}: cannot be written: {error.strerror}") from None
    write_file(path, _json_text(dict(document), 0) + "\n")


def _json_text(value: object, depth: int) -> str:
    """JSON in which a mapping without mappings is one line."""
    entries = cast(dict[str, object], value) if isinstance(value, dict) else {}
    if not any(isinstance(entry, dict) for entry in entries.values()):
        return json.dumps(value, ensure_ascii=False)
    indent = "  " * (depth + 1)
    lines = (f"{indent}{json.dumps(k, ensure_ascii=False)}: {_json_text(v, depth + 1)}" for k, v in entries.items())
    return "{\n" + ",\n".join(lines) + f"\n{indent[2:]}}}"


def _read_json(path: Path) -> object:
    try:
        return cast(object, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise PmcError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PmcError(f"{path}: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise PmcError(f"{path}:{error.lineno}: {error.msg}") from None
    except RecursionError:
        raise PmcError(f"{path}: nested too deeply") from None
