"""The Python API: load a model, compile it to a level, run passes, print.  Every user error is a PmcError.

module = compile_model(
    load_model("deepseek-v3"), load_chip("sg2262"), load_topology("p1-r1-b4-c32"),
    load_deployment("dsv3-decode-ep32"), emit="dist",
)
print(module_text(module))
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Data
from xdsl.utils.arg_spec import ArgSpec
from xdsl.utils.exceptions import VerifyException

from pmc.compiler.config import default_accounting, load_model_config
from pmc.compiler.context import make_context
from pmc.compiler.frontend import import_hf
from pmc.compiler.module_text import module_text as module_text
from pmc.compiler.pipelines import DEPLOYMENT, PIPELINE, build_pass, default_pipeline, remaining_pipeline
from pmc.compiler.source_text import one_line, parse_text
from pmc.dialects.accounting import ACCOUNTING, Accounting, AccountingAttr
from pmc.dialects.arch import Chip, ChipAttr, DeploymentAttr, Topology, TopologyAttr, check_network
from pmc.dialects.checkpoint import too_long
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level, level_of
from pmc.passes.base import history

SELECT_TILES = "select-tiles"
"""The pass that chooses plans under the accounting."""

CHIP = "arch.chip"
TOPOLOGY = "arch.topology"

MAX_MODULE_BYTES = 64 * 2**20
"""A stage has under 10 000 ops, a few MB of text; more is no dump of ours and would take minutes to parse."""


class Observer:
    """Told before and after every pass of a run; `step` counts from 0, which is the module before any pass."""

    def before(self, step: int, name: str) -> None:
        """Pass `name` is about to run."""

    def after(self, step: int, name: str, module: ModuleOp) -> None:
        """Pass `name` (or `import`) has left this verified module."""


def load_model(name_or_path: str | Path) -> ModuleOp:
    """The module of a preset, a `config.json` (or its folder, or YAML), or an `.mlir` file.  Raises PmcError."""
    if Path(name_or_path).suffix == ".mlir":
        return load_module(name_or_path)
    config, source = load_model_config(name_or_path)
    return import_hf(config, source, _model_name(name_or_path))


def _model_name(name_or_path: str | Path) -> str:
    path = Path(name_or_path)
    if path.name == "config.json":
        return path.parent.name or "model"
    return path.stem if path.suffix in (".json", ".yaml", ".yml") else path.name


def load_module(path: str | Path) -> ModuleOp:
    """The verified module in an MLIR file.  Raises PmcError."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_MODULE_BYTES + 1)
    except OSError as error:
        raise PmcError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_MODULE_BYTES:
        raise PmcError(f"{path}: larger than {MAX_MODULE_BYTES // 2**20} MiB")
    try:
        return parse_module(raw.decode(), str(path))
    except UnicodeDecodeError as error:
        raise PmcError(f"{path}: not UTF-8 text (byte {error.start})") from None


def parse_module(text: str, source: str) -> ModuleOp:
    """The verified module of MLIR text; an error says `source:line:column`.  Raises PmcError."""
    module = parse_text(make_context(foreign=True), text, source)
    try:
        module.verify()
    except VerifyException as error:
        raise PmcError(f"{source}: {verify_error_line(error)}") from None
    except RecursionError:
        raise PmcError(f"{source}: nested too deeply") from None
    return module


def verify_error_line(error: VerifyException) -> str:
    """What the verifier says, in one line; the IR around the op is in the notes of the exception."""
    return one_line(str(error))


def set_target(
    module: ModuleOp, chip: Chip, topology: Topology, deployment: Deployment, accounting: Accounting | None = None
) -> None:
    """Write the target into the module, which from then on is all that passes and cost models read.

    Without an accounting it is the preset `physical`.
    """
    _set_part(module, CHIP, ChipAttr, chip)
    _set_part(module, TOPOLOGY, TopologyAttr, topology)
    _set_part(module, DEPLOYMENT, DeploymentAttr, deployment)
    _set_part(module, ACCOUNTING, AccountingAttr, accounting or default_accounting())


PartT = TypeVar("PartT")


def _set_part(module: ModuleOp, name: str, kind: Callable[[PartT], Data[PartT]], part: PartT) -> None:
    """Write a part of the target into the module, where it does not stand there yet."""
    if getattr(module.attributes.get(name), "data", None) is not part:
        module.attributes[name] = kind(part)


def replace_accounting(module: ModuleOp, accounting: Accounting) -> None:
    """Charge by `accounting` from here on.

    Raises PmcError when the plans of the module were chosen under another one: their times under this one would be
    those of plans that nobody chooses.
    """
    chosen = module.attributes.get(ACCOUNTING)
    if isinstance(chosen, AccountingAttr) and chosen.data != accounting and SELECT_TILES in passes_of(module):
        raise PmcError(
            f"the plans of the module were chosen under the accounting '{chosen.data.name}': to evaluate it under "
            f"'{accounting.name}', take a dump before {SELECT_TILES} or compile with --accounting"
        )
    module.attributes[ACCOUNTING] = AccountingAttr(accounting)


def check_target(chip: Chip, topology: Topology, deployment: Deployment) -> None:
    """Raises PmcError when the deployment needs more chips than the topology has, or the chip cannot be wired so."""
    check_network(chip, topology)
    d = deployment
    if d.ranks > topology.chips:
        raise PmcError(
            f"the deployment needs tp*cp*dp*pp = {d.tp}*{d.cp}*{d.dp}*{d.pp} = {d.ranks} chips, "
            f"topology {topology.name} has {topology.chips}"
        )


def check_deployment(model: ModuleOp, chip: Chip, topology: Topology, deployment: Deployment) -> None:
    """Raises PmcError when the target is too small, or for lengths that the model is not made for."""
    check_target(chip, topology, deployment)
    problem = too_long(model, deployment.kv_len, deployment.longer_context)
    if problem is not None:
        raise PmcError(problem)


def compile_model(
    model: ModuleOp,
    chip: Chip,
    topology: Topology,
    deployment: Deployment,
    emit: Level,
    observers: Sequence[Observer] = (),
    extra: Sequence[ArgSpec] = (),
    accounting: Accounting | None = None,
) -> ModuleOp:
    """Lower a module of the `model` level, in place, to the level `emit`; `extra` passes run last.

    Tiles are chosen under `accounting`, by default the preset `physical`, which also says what an evaluation charges.
    Raises PmcError when the target is too small, for lengths that the model is not made for, and for whatever a pass
    cannot do.
    """
    level = level_of(model)
    if level != "model" or history(model):
        raise PmcError(f"compile takes a module of the model level, this one is at the {level} level")
    check_deployment(model, chip, topology, deployment)
    set_target(model, chip, topology, deployment, accounting)
    run_pipeline(model, [*default_pipeline(deployment, emit), *extra], observers)
    return model


def resume(
    module: ModuleOp, emit: Level, observers: Sequence[Observer] = (), extra: Sequence[ArgSpec] = ()
) -> ModuleOp:
    """Run what is left of the pipeline of the module's own deployment, in place.  Raises PmcError."""
    run_pipeline(module, [*remaining_pipeline(module, emit), *extra], observers)
    return module


def lower_dump(module: ModuleOp, bindings: Mapping[str, int]) -> ModuleOp:
    """A dump, in place, at the dist level or below, where it can be looked at with symbols replaced by `bindings`.

    Raises PmcError where the symbols are bound already.
    """
    done = passes_of(module)
    if bindings and "bind-symbols" in done:
        raise PmcError(f"the symbols {', '.join(bindings)} are bound already; take a dump before bind-symbols")
    return module if set(PIPELINE["dist"]) <= set(done) else resume(module, "dist")


def passes_of(module: ModuleOp) -> list[str]:
    """The names of the passes that the module has been through."""
    return [entry.data.partition("{")[0] for entry in history(module)]


def run_pipeline(
    module: ModuleOp,
    specs: Sequence[ArgSpec],
    observers: Sequence[Observer] = (),
    verify_each: bool = True,
) -> None:
    """Run passes in place, verifying after each.  Raises PmcError, for a bad option before anything runs."""
    passes = [build_pass(spec) for spec in specs]
    context = make_context()
    first = len(history(module))
    if first == 0:
        for observer in observers:
            observer.after(0, "import", module)
    for step, module_pass in enumerate(passes, first + 1):
        for observer in observers:
            observer.before(step, module_pass.name)
        with verifier_errors(module_pass.name):
            module_pass.apply(context, module)
            if verify_each:
                module.verify()
        for observer in observers:
            observer.after(step, module_pass.name, module)


@contextmanager
def verifier_errors(where: str) -> Generator[None]:
    """Turn what a verifier says into a PmcError that begins with `where`."""
    try:
        yield
    except VerifyException as error:
        raise PmcError(f"{where}: {verify_error_line(error)}") from error
