"""Fits of one system as a JSON file: parameters, bands and where they are from; the shipped ones lie in `pmc.configs`.

    {"format": .., "data": what was fitted, "seed": .., "system": {"name": .., "spec": {gpu, node, misc}},
     "fits": [one object a line]}

The specification stands in the file because parameters mean nothing without it: efficiencies are parts of its rates.
A line has the parameters as a list in the order of `Parameters`, and the bands as three, see `Bands`.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from pmc.backends.silicon.bands import Bands
from pmc.backends.silicon.physical import Fit, Parameters
from pmc.backends.silicon.system import System
from pmc.dialects.errors import PmcError, excerpt
from pmc.dialects.schema import Schema

FORMAT = "pmc silicon fits 2"


@dataclass(frozen=True)
class Artefact:
    """Fits of one system."""

    system: System
    data: str
    """What was fitted: a package and its version, or a folder."""
    seed: int
    """That rows were drawn with."""
    fits: tuple[Fit, ...]


class _Line(Schema, frozen=True):
    kind: str
    backend: str
    version: str
    categories: dict[str, str]
    source: str
    rows: int
    tile: tuple[int, ...]
    parameters: tuple[float, float, float, float, float, float, float, float]
    band_80: tuple[float, float]
    bands: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]] | None = None


class _File(Schema, frozen=True):
    format: Literal["pmc silicon fits 2"]
    data: str
    seed: int
    system: System
    fits: tuple[_Line, ...]


def artefact_text(artefact: Artefact) -> str:
    """The JSON file, with a line per fit."""
    system = artefact.system.model_dump(mode="json", exclude_none=True)
    head = {"format": FORMAT, "data": artefact.data, "seed": artefact.seed, "system": system}
    lines = [
        _compact(
            {
                "kind": fit.kind, "backend": fit.backend, "version": fit.version, "categories": dict(fit.categories),
                "source": fit.source, "rows": fit.rows, "tile": fit.tile, "parameters": astuple(fit.parameters),
                "band_80": fit.band_80, **({"bands": astuple(fit.bands)} if fit.bands else {}),
            }
        )
        for fit in artefact.fits
    ]  # fmt: skip
    fields = "".join(f"{json.dumps(name)}:{_compact(value)},\n" for name, value in head.items())
    return f'{{{fields}"fits":[\n' + ",\n".join(lines) + "\n]}\n"


def read_artefact(path: Path) -> Artefact:
    """What `artefact_text` wrote.  Raises PmcError, naming the file and the field, for other files."""
    try:
        file = _File.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PmcError(f"{path}: no readable fits: {excerpt(str(error))}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PmcError(f"{path}: no artefact of fits: {where or 'the file'}: {excerpt(first['msg'])}") from None
    try:
        return Artefact(file.system, file.data, file.seed, tuple(_fit(file, line) for line in file.fits))
    except PmcError as error:
        raise PmcError(f"{path}: {error}") from None


def _fit(file: _File, line: _Line) -> Fit:
    return Fit(
        line.kind, file.system.name, line.backend, line.version, line.categories, line.tile,
        Parameters(*line.parameters), line.band_80, line.rows, file.seed, line.source,
        None if line.bands is None else Bands(*line.bands),
    )  # fmt: skip


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
