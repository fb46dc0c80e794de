"""The options that say whose measured tables are asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pmc.compiler.cli.target import TargetOptions, flag
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.compiler.silicon import Measurements


def of_system(
    target: TargetOptions,
    system: str | None,
    backend: str | None,
    version: str | None,
    mode: str | None,
    distribution: str | None,
    folder: Path | None,
    host: str | None,
) -> tuple[TargetOptions, Measurements | None]:
    """The target with the chip and the topology of a system, where none are given, and whose tables are meant.

    Without options there are none, and the target is as it was.  Raises PmcError for a system without an engine, the
    other way round, and options without both.
    """
    named = {"database_version": version, "database_mode": mode, "expert_load_table": distribution, "host": host}
    given = [
        flag(name) for name, value in {**named, "perf_dir": folder, "backend": backend}.items() if value is not None
    ]
    if system is None:
        if given:
            raise PmcError(f"{given[0]} is about the tables of a system: give --system; pmc list systems names them")
        return target, None
    if backend is None:
        raise PmcError("--system asks the tables of a serving engine: give --backend trtllm, sglang or vllm")
    from pmc.compiler.config import load_system
    from pmc.compiler.silicon import Measurements

    known = load_system(system)
    for part, name in (("chip", known.chip), ("topology", known.topology)):
        if getattr(target, part) is None:
            target = target.with_file(part, name)
    chosen = Measurements(known.tables, backend, version, mode or "silicon", distribution, folder, host or "graph")
    return target, chosen
