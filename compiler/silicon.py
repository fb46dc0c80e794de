"""Evaluation by measured tables: which tables are meant, and a program in which queries stand for what they cover."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.arg_spec import ArgSpec

from pmc.compiler.driver import run_pipeline
from pmc.compiler.pipelines import DEPLOYMENT, Options
from pmc.dialects.arch import DeploymentAttr
from pmc.dialects.deployment import Zipf
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import did_you_mean
from pmc.dialects.silicon import DATABASE, HOSTS, AnyQueryOp, Database, DatabaseAttr

if TYPE_CHECKING:
    from pmc.backends.silicon.database import DatabaseMode, PerfDatabase

NO_HOST = "none"
EVEN = "balanced"
"""What the tables call experts with equal loads."""


@dataclass(frozen=True)
class Measurements:
    """Whose tables an evaluation asks; what is not said follows from the tables."""

    system: str
    backend: str
    version: str | None = None
    mode: str = "silicon"
    distribution: str | None = None
    """How uneven tokens choose experts, as the tables call it; without it balanced for a uniform routing."""
    folder: Path | None = None
    """Tables of one's own, in place of those that are installed."""
    host: str = "graph"
    """How the host launches kernels: graph, eager or none."""


def with_queries(module: ModuleOp, asked: Measurements | None) -> tuple[ModuleOp, PerfDatabase]:
    """A copy of a module at the dist level in which queries stand for what tables cover, and the tables.

    A module that has been through `match-silicon` keeps its queries.  Raises PmcError for unknown systems, engines,
    versions and modes, and where nothing says whose tables are meant.
    """
    module = module.clone()
    if asked is not None:
        module.attributes[DATABASE] = DatabaseAttr(_named(asked, module))
    meant = module.attributes.get(DATABASE)
    if not isinstance(meant, DatabaseAttr):
        raise PmcError("granularity silicon asks the tables of a system and an engine: give --system and --backend")
    database = open_database(meant.data)
    if not any(isinstance(op, AnyQueryOp) for op in module.walk()):
        options: Options = {"distribution": (meant.data.distribution,), "host": (meant.data.host,)}
        run_pipeline(module, [ArgSpec("match-silicon", options)])
    return module, database


@lru_cache(maxsize=4)
def open_database(meant: Database) -> PerfDatabase:
    """The tables that a module names, kept with what was read and fitted for the next program.

    Raises PmcError where they are not there.
    """
    from pmc.backends.silicon.database import PerfDatabase
    from pmc.backends.silicon.library import Library

    library = Library.folder(Path(meant.folder)) if meant.folder else None
    return PerfDatabase.open(meant.system, meant.backend, meant.version, _mode(meant.mode), library)


def _named(asked: Measurements, module: ModuleOp) -> Database:
    """What is asked for with everything said."""
    from pmc.backends.silicon.columns import INSTALL
    from pmc.backends.silicon.database import DatabaseMode, PerfDatabase
    from pmc.backends.silicon.library import Library

    hosts = (*HOSTS, NO_HOST)
    if asked.host not in hosts:
        raise PmcError(f"unknown host '{asked.host}'{did_you_mean(asked.host, hosts)}; must be {', '.join(hosts)}")
    library = None if asked.folder is None else Library.folder(asked.folder)
    if library is None and _mode(asked.mode) is DatabaseMode.SILICON and not Library.is_installed():
        raise PmcError(
            f"measured tables are not installed: {INSTALL}, or give a folder of them with --perf-dir; "
            "--database-mode empirical asks the fits that come with pmc"
        )
    database = PerfDatabase.open(asked.system, asked.backend, asked.version, _mode(asked.mode), library)
    return Database(
        system=database.system.name,
        backend=asked.backend,
        version=database.version,
        mode=asked.mode,
        distribution=asked.distribution or _distribution(module),
        folder="" if asked.folder is None else str(asked.folder),
        host=asked.host,
    )


def _distribution(module: ModuleOp) -> str:
    deployment = module.attributes.get(DEPLOYMENT)
    routing = deployment.data.routing if isinstance(deployment, DeploymentAttr) else "uniform"
    if routing == "uniform" or (isinstance(routing, Zipf) and routing.zipf == 0):
        return EVEN
    raise PmcError(
        f"tables of experts have loads of their own and none for the routing {routing}: "
        "say which is meant with --expert-load-table balanced, power_law_1.01 or power_law_1.2"
    )


def _mode(name: str) -> DatabaseMode:
    from pmc.backends.silicon.database import DatabaseMode

    known = [mode.value for mode in DatabaseMode]
    if name not in known:
        raise PmcError(f"unknown database mode '{name}'{did_you_mean(name, known)}; must be {', '.join(known)}")
    return DatabaseMode(name)
