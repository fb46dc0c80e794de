"""A model or a dump, as a program of one rank that the backends can look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pmc.compiler.cli.target import flag
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from pmc.compiler.cli.target import TargetOptions
    from pmc.dialects.arch import Chip, Topology
    from pmc.dialects.deployment import Deployment


class Parameters(NamedTuple):
    """The weights of a model."""

    total: int
    active: int
    """Those that a token uses: one row of the embedding, and of the routed experts those that it is sent to."""

    @classmethod
    def of(cls, module: ModuleOp) -> Parameters:
        """Those of a module of the model level."""
        from pmc.dialects.model import active_parameter_count, parameter_count

        return cls(parameter_count(module), active_parameter_count(module))

    def __str__(self) -> str:
        active = "" if self.active == self.total else f", a token uses {short(self.active)} of them"
        return f"parameters {short(self.total)}{active}"


def short(count: int) -> str:
    """`671.03 billion`, and digits where it is less than a million."""
    for scale, word in ((10**9, "billion"), (10**6, "million")):
        if count >= scale:
            return f"{count / scale:.2f} {word}"
    return str(count)


def parameters_of(model: str) -> Parameters | None:
    """The parameters of a model, None for a dump: it may hold one rank of it only.  Raises PmcError."""
    if model.endswith(".mlir"):
        return None
    from pmc.compiler.driver import load_model

    return Parameters.of(load_model(model))


SYMBOLS = ("batch", "q_len", "kv_len")
"""The fields of a deployment that stay symbols until `bind-symbols`."""


def deployment_of(module: ModuleOp, bindings: dict[str, int]) -> Deployment:
    """The deployment that a module of `rank_program` is looked at under."""
    from pmc.compiler.pipelines import DEPLOYMENT
    from pmc.dialects.arch import DeploymentAttr

    attribute = module.attributes[DEPLOYMENT]
    assert isinstance(attribute, DeploymentAttr)
    return attribute.data.at(bindings)


def to_compile(model: str, target: TargetOptions, shrink: bool) -> tuple[ModuleOp, Chip, Topology, Deployment]:
    """A module of the model level and its target; with `shrink` small versions of both.

    Lengths that the options give are kept in a small version too.  Raises PmcError.
    """
    from pmc.compiler.config import load_model_config
    from pmc.compiler.driver import load_model

    if not shrink:
        return (load_model(model), *target.load())
    if model.endswith(".mlir"):
        raise PmcError(f"{model}: the sizes in a dump are fixed; --shrink takes a model (preset, config.json, YAML)")
    from pmc.compiler.small import small_target

    lengths = {name: value for name in SYMBOLS if isinstance(value := target.fields.get(name), int)}
    config, source = load_model_config(model)
    chip, topology, deployment = target.load()
    small = small_target(config, source, chip, topology, deployment, lengths)
    return small.model, small.chip, small.topology, small.deployment


def rank_program(model: str, target: TargetOptions) -> tuple[ModuleOp, dict[str, int]]:
    """The module at the dist level, and the symbols that the options replace in a dump.

    A dump holds its own target; only --batch, --q-len and --kv-len may be given with it, and only while it has symbols,
    and --accounting, while no plans are chosen.  Raises PmcError.
    """
    from pmc.compiler.driver import compile_model, load_model, lower_dump
    from pmc.compiler.pipelines import DEPLOYMENT

    module = load_model(model)
    _refuse_service(model, module)
    if DEPLOYMENT not in module.attributes:
        return compile_model(module, *target.load(), "dist", accounting=target.load_accounting()), {}
    bindings = _taken_by_dump(model, module, target)
    return lower_dump(module, bindings), bindings


def commands_of(model: str, target: TargetOptions) -> ModuleOp:
    """The module at the commands level, of a model or of what is left to do on a dump; options as in `rank_program`."""
    from pmc.compiler.driver import resume
    from pmc.dialects.levels import LEVELS

    return resume(to_lower(model, target), LEVELS[-1])


def to_lower(model: str, target: TargetOptions) -> ModuleOp:
    """What `commands_of` goes on from: a model at the dist level, or a dump as it is."""
    from pmc.compiler.driver import compile_model, load_model
    from pmc.compiler.pipelines import DEPLOYMENT

    module = load_model(model)
    _refuse_service(model, module)
    if DEPLOYMENT not in module.attributes:
        return compile_model(module, *target.load(), "dist", accounting=target.load_accounting())
    bindings = _taken_by_dump(model, module, target)
    if bindings:
        raise PmcError(f"{model}: {', '.join(map(flag, bindings))} cannot be changed: compile the model with them")
    return module


def _refuse_service(model: str, module: ModuleOp) -> None:
    """Raises PmcError for a module whose programs stand in a service."""
    if any(op.name == "serve.service" for op in module.ops):
        raise PmcError(f"{model} holds a service of two programs: pmc serve {model} evaluates it")


def _taken_by_dump(model: str, module: ModuleOp, target: TargetOptions) -> dict[str, int]:
    from pmc.compiler.driver import replace_accounting

    accounting = target.load_accounting()
    bindings = {name: value for name, value in target.fields.items() if name in SYMBOLS and isinstance(value, int)}
    own = {"--accounting", *map(flag, SYMBOLS), *(f"--set deployment.{name}" for name in SYMBOLS)}
    foreign = [option for option in target.given if option not in own and not option.startswith("--set accounting.")]
    if foreign:
        raise PmcError(f"{model} holds its own target: {', '.join(foreign)} cannot be changed any more")
    if accounting is not None:
        replace_accounting(module, accounting)
    return bindings
