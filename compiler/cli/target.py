"""The options that say what to compile for, shared by the commands that compile; and what they make of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.dialects.accounting import Accounting
    from pmc.dialects.arch import Chip, Deployment, Topology

_PARALLELISM: dict[str, Any] = {"rich_help_panel": "Parallelism (replaces what the deployment says)"}
_WORKLOAD: dict[str, Any] = {"rich_help_panel": "Workload (replaces what the deployment says)"}
_TYPES: dict[str, Any] = {"rich_help_panel": "Element types and assumptions (replaces what the deployment says)"}


@dataclass(frozen=True)
class TargetOptions:
    """Chip, topology and deployment as given on the command line; None is not given."""

    chip: Annotated[str | None, typer.Option(help="Chip: preset or YAML file.")] = None
    topology: Annotated[str | None, typer.Option(help="Topology: preset or YAML file.")] = None
    deployment: Annotated[
        str | None,
        typer.Option(help="Deployment: preset or YAML file. Without it, the options below give every field."),
    ] = None
    accounting: Annotated[
        str | None,
        typer.Option(
            help="What cost models charge, and tiles are chosen by: preset (physical if not given) or YAML file."
        ),
    ] = None
    tp: Annotated[int | None, typer.Option(help="Tensor parallelism.", **_PARALLELISM)] = None
    pp: Annotated[int | None, typer.Option(help="Pipeline parallelism.", **_PARALLELISM)] = None
    dp: Annotated[int | None, typer.Option(help="Data parallelism.", **_PARALLELISM)] = None
    ep: Annotated[int | None, typer.Option(help="Expert parallelism.", **_PARALLELISM)] = None
    moe_tp: Annotated[int | None, typer.Option(help="Tensor parallelism inside an expert.", **_PARALLELISM)] = None
    cp: Annotated[
        int | None, typer.Option(help="Context parallelism: ring attention over striped sequences.", **_PARALLELISM)
    ] = None
    sp: Annotated[
        bool | None, typer.Option("--sp/--no-sp", help="Sequence parallelism (needs tp > 1).", **_PARALLELISM)
    ] = None
    phase: Annotated[str | None, typer.Option(help="prefill or decode.", **_WORKLOAD)] = None
    batch: Annotated[int | None, typer.Option(help="Sequences over all ranks.", **_WORKLOAD)] = None
    q_len: Annotated[int | None, typer.Option(help="New tokens per sequence and step.", **_WORKLOAD)] = None
    kv_len: Annotated[int | None, typer.Option(help="Tokens attended to, the new ones included.", **_WORKLOAD)] = None
    weights: Annotated[str | None, typer.Option(help="Element type, e.g. bf16, f8E4M3FN.", **_TYPES)] = None
    activations: Annotated[str | None, typer.Option(help="Element type of matrix inputs.", **_TYPES)] = None
    kv_cache: Annotated[str | None, typer.Option(help="Element type of the KV cache.", **_TYPES)] = None
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of paths that keep the model's element type; repeatable.", **_TYPES),
    ] = None
    expert_capacity: Annotated[str | None, typer.Option(help="Rows per expert: balanced or worst.", **_TYPES)] = None
    routing: Annotated[
        str | None, typer.Option(help="uniform, zipf:EXPONENT, or histogram:ROWS,ROWS,.. of every expert.", **_TYPES)
    ] = None
    absorb_mla: Annotated[
        bool | None,
        typer.Option("--absorb-mla/--no-absorb-mla", help="Attend over the MLA latent itself.", **_TYPES),
    ] = None
    ring_exchange: Annotated[
        str | None,
        typer.Option(help="What cp exchanges: expanded (keys, values) or smallest (what they come from).", **_TYPES),
    ] = None

    def given(self) -> dict[str, object]:
        """The options that were given."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value not in (None, [])}

    def load(self) -> tuple[Chip, Topology, Deployment]:
        """The configurations.  Raises PmcError, once for all missing options."""
        from pmc.compiler.config import load_chip, load_deployment, load_topology

        required = ["chip", "topology"]
        if self.deployment is None:
            named = [f.name for f in fields(self)]
            required += [name for name in named if name not in (*required, "deployment", "accounting", "keep")]
        missing = [f"--{name.replace('_', '-')}" for name in required if getattr(self, name) is None]
        if missing:
            hint = "" if self.deployment is not None else "; --deployment gives all but --chip and --topology"
            raise PmcError(f"missing options: {', '.join(missing)}{hint}")
        assert self.chip is not None and self.topology is not None
        chip, topology = load_chip(self.chip), load_topology(self.topology)
        return chip, topology, load_deployment(self.deployment, self._overrides())

    def load_accounting(self) -> Accounting | None:
        """The accounting, None where none is given.  Raises PmcError."""
        from pmc.compiler.config import load_accounting

        return None if self.accounting is None else load_accounting(self.accounting)

    def _overrides(self) -> dict[str, object]:
        """Options by the path of their field."""
        overrides = self.given()
        for name in ("chip", "topology", "deployment", "accounting"):
            overrides.pop(name, None)
        if self.deployment is None:  # no pattern given is no pattern
            overrides.setdefault("keep", [])
        if self.routing is not None:
            overrides["routing"] = _routing(self.routing)
        quantized = ("weights", "activations", "kv_cache", "keep")
        return {f"quantization.{n}" if n in quantized else n: value for n, value in overrides.items()}


def _routing(text: str) -> object:
    kind, _, numbers = text.partition(":")
    if kind not in ("zipf", "histogram"):
        return text
    try:
        return {kind: float(numbers) if kind == "zipf" else [float(n) for n in numbers.split(",")]}
    except ValueError:
        forms = "uniform, zipf:EXPONENT or histogram:ROWS,ROWS,.."
        raise PmcError(f"--routing: expected {forms}, found '{text}'") from None


def takes_target(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `TargetOptions`, which it receives as its keyword argument `target`."""
    hints = get_type_hints(TargetOptions, include_extras=True)
    own = inspect.signature(command, eval_str=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(TargetOptions)
    ]
    rest = [p for p in own.parameters.values() if p.name != "target"]
    positional = [p for p in rest if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    options = [p for p in rest if p.kind is inspect.Parameter.KEYWORD_ONLY]

    @wraps(command)
    def run(**arguments: Any) -> None:
        target = TargetOptions(**{p.name: arguments.pop(p.name) for p in shared})
        command(**arguments, target=target)

    parameters = [*positional, *shared[:4], *options, *shared[4:]]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    del run.__wrapped__  # typer would look at the signature of the command itself
    return run


Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the result here, not to stdout.")
]
"""The option `-o`."""
