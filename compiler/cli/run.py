"""`pmc run`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.compile import Emit
from pmc.compiler.cli.compiled import SYMBOLS, to_compile
from pmc.compiler.cli.output import Format, deliver, progress
from pmc.compiler.cli.target import MODELS, TargetOptions, flag
from pmc.compiler.files import check_writable_file
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from pmc.backends.numeric.environment import Environment
    from pmc.backends.numeric.errors import Array
    from pmc.backends.numeric.layer import LayerRun

EXAMPLES = """
pmc run llama-3.1-8b --shrink --chip sg2262 --topology p1-r1-b1-c8 --deployment llama-8b-decode --tp 2
pmc run dumps/08-bind-symbols.mlir --save-inputs inputs.npz -o results.npz
pmc run dumps/13-emit-g5.mlir --inputs inputs.npz --format json
"""


class PrecisionName(StrEnum):
    """How floats are kept between ops, from the model level down to dist."""

    EXACT64 = "exact64"
    EXACT32 = "exact32"
    EMULATED = "emulated"


def run_command(
    model: Annotated[
        str, typer.Argument(help="Preset, config.json, YAML; or a dump of pmc compile (.mlir).", autocompletion=MODELS)
    ],
    *,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Compile and run a small version of model, chip and lengths.")
    ] = False,
    emit: Annotated[
        Emit | None,
        typer.Option(help="With --shrink, the level to run; without it the lowest that the chip has."),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Inputs as .npz: tokens, weights/PATH, states/PATH. Without: seeded."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the inputs.")] = 0,
    precision: Annotated[
        PrecisionName, typer.Option(help="emulated rounds every value to its element type.")
    ] = PrecisionName.EXACT64,
    save_inputs: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the inputs as .npz.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write logits and caches as .npz.")
    ] = None,
    output_format: Annotated[Format, typer.Option("--format", help="The form of the summary on stdout.")] = Format.TEXT,
    target: TargetOptions,
) -> None:
    """Execute a module of any level on numpy and print its results.

    Inputs are those of the whole model at every level; programs of ranks run on all ranks in one process.  --batch,
    --q-len and --kv-len are its lengths; a dump knows its own.  Models of their real size are mostly too large:
    --shrink compiles and runs a small version of the model for a small version of the target, as `pmc check` does.
    """
    for path in (save_inputs, output):
        check_writable_file(path)
    with progress(f"running {model}"):
        module = _module(model, target, shrink, emit)
        lengths = {name: value for name in SYMBOLS if isinstance(value := target.fields.get(name), int)}
        environment, run = _run(module, lengths, inputs, seed, precision)
    from pmc.backends.numeric.run import input_arrays, result_arrays

    results = result_arrays(run)
    if save_inputs is not None:
        _save(save_inputs, input_arrays(environment))
    if output is not None:
        _save(output, results)
    deliver(_json(results) if output_format is Format.JSON else _text(results), None)


def _module(model: str, target: TargetOptions, shrink: bool, emit: Emit | None) -> ModuleOp:
    """The module of a model or dump as it is, or the compilation of a small version."""
    from pmc.compiler.driver import compile_model, load_model

    if not shrink:
        lengths = {*map(flag, SYMBOLS), *(f"--set deployment.{name}" for name in SYMBOLS)}
        foreign = [name for name in target.given if name not in lengths]
        foreign += ["--emit"] if emit is not None else []
        if foreign:
            raise PmcError(f"{', '.join(foreign)}: only with --shrink, which compiles; a module runs as it is")
        return load_model(model)
    module, chip, topology, deployment = to_compile(model, target, shrink)
    lowest = Emit.DIST if chip.command_level is None else Emit.COMMANDS
    return compile_model(
        module, chip, topology, deployment, (emit or lowest).value, accounting=target.load_accounting()
    )


def _run(
    module: ModuleOp, bindings: dict[str, int], inputs: Path | None, seed: int, precision: PrecisionName
) -> tuple[Environment, LayerRun]:
    from pmc.backends.numeric.precision import EMULATED, EXACT32, EXACT64
    from pmc.backends.numeric.run import bindings_of, load_inputs, run_module, seeded_inputs

    known = bindings_of(module, bindings)
    environment = load_inputs(inputs, known) if inputs is not None else seeded_inputs(module, known, seed)
    precisions = {p.name: p for p in (EXACT64, EXACT32, EMULATED)}
    if precision.value not in precisions:
        raise PmcError(f"--precision: {precision.value} is not one of {', '.join(precisions)}")
    return environment, run_module(module, environment, precisions[precision.value])


def _save(path: Path, arrays: dict[str, Array]) -> None:
    from io import BytesIO

    import numpy as np

    from pmc.compiler.files import write_bytes

    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def _text(arrays: dict[str, Array]) -> str:
    import numpy as np

    lines: list[str] = []
    for name, values in arrays.items():
        lines.append(f"{name} {list(values.shape)} mean {values.mean():.6g} max |x| {np.abs(values).max():.6g}")
    lines.append(np.array2string(arrays["logits"], precision=6, threshold=64, edgeitems=3))
    return "\n".join(lines) + "\n"


def _json(arrays: dict[str, Array]) -> str:
    import json

    import numpy as np

    summary = {
        name: {"shape": list(v.shape), "mean": float(v.mean()), "max_abs": float(np.abs(v).max())}
        for name, v in arrays.items()
    }
    return json.dumps({"results": summary, "logits": arrays["logits"].tolist()}, indent=2) + "\n"
