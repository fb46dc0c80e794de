"""`pmc evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ...dialects.errors import PmcError
from ..files import check_writable_file
from .output import TableFormat, deliver, progress
from .target import Output, TargetOptions, takes_target

if TYPE_CHECKING:
    from ...backends.evaluate import EngineResult

EXAMPLES = """\b
Examples:
  pmc evaluate llama-3.1-8b --chip sg2262 --topology p1-r1-b1-c8 --deployment llama-8b-decode
  pmc evaluate deepseek-v3 --chip sg2262 --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32 \\
      --batch 1024 --format csv -o table.csv
  pmc evaluate dumps/06-partition-stages.mlir --kv-len 8192
"""


@takes_target
def evaluate_command(
    model: Annotated[str, typer.Argument(help="Preset, config.json, YAML; or a dump of pmc compile (.mlir).")],
    *,
    level: Annotated[str, typer.Option(help="The cost model: chip is a roofline per op.")] = "chip",
    output: Output = None,
    output_format: Annotated[TableFormat, typer.Option("--format", help="The form of the table.")] = (TableFormat.TEXT),
    target: TargetOptions,
) -> None:
    """Tell how long one step of one rank takes, op by op, and what limits each op.

    A dump holds its own target; only --batch, --q-len and --kv-len may be given with it, and only while it has symbols.
    """
    check_writable_file(output)
    with progress(f"evaluating {model}"):
        result = _evaluate(model, level, target)
    if output_format is TableFormat.CSV:
        text = result.to_csv()
    elif output_format is TableFormat.JSON:
        text = result.to_json()
    else:
        from .table import result_table

        text = result_table(result)
    deliver(text, output)


def _evaluate(model: str, level: str, target: TargetOptions) -> EngineResult:
    from ..driver import evaluate, evaluate_dump, load_model
    from ..pipelines import DEPLOYMENT

    module = load_model(model)
    if DEPLOYMENT in module.attributes:
        symbols = {"batch": target.batch, "q_len": target.q_len, "kv_len": target.kv_len}
        bindings = {name: value for name, value in symbols.items() if value is not None}
        given = {name: value for name, value in target.given().items() if name not in symbols}
        if given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise PmcError(f"{model} holds its own target: {options} cannot be changed any more")
        return evaluate_dump(module, level, bindings)
    return evaluate(module, *target.load(), level)


evaluate_command.__doc__ = f"{evaluate_command.__doc__}\n\n{EXAMPLES}"
