"""`pmc collect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pmc.compiler.cli.bar import progress_bar
from pmc.compiler.cli.output import deliver
from pmc.compiler.cli.text_table import Column, output_width, text_table
from pmc.compiler.files import prepare_folder
from pmc.dialects.errors import PmcError

EXAMPLES = """
pmc collect --device cuda --out measured
pmc collect --device cpu --out measured --kinds gemm,norm --points 100
"""


def collect_command(
    *,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="What runs the kernels, with PyTorch.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the tables; rows that stand are kept.")],
    kinds: Annotated[str | None, typer.Option(metavar="KIND,..", help="Kinds of tables; by default all.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the system; by default what the device says it is.")] = None,
    points: Annotated[int | None, typer.Option(min=1, help="Only so many of each kind, drawn evenly.")] = None,
    most_ms: Annotated[
        float, typer.Option(min=0.001, help="Leave out what takes longer at the rates of the device.")
    ] = 50.0,
) -> None:
    """Measure kernels on the device that this runs on, and write tables that pmc calibrate and queries read.

    Matrix products, attention, experts, norms and element-wise kernels in bfloat16. What is broken off goes on where it
    was with the same command. `pmc calibrate --perf-dir DIR -o FITS.json` makes the model of the device.
    """
    from pmc.backends.silicon.collect import GRIDS, Collection, check_kinds
    from pmc.backends.silicon.torch_device import TorchDevice

    asked = list(GRIDS) if kinds is None else kinds.split(",")
    check_kinds(asked)
    if name is not None and not name.replace("-", "").replace("_", "").isalnum():
        raise PmcError(f"--name '{name}': a name has letters, digits, - and _")
    runner = TorchDevice(device)
    prepare_folder(out)
    collection = Collection.open(out, (name or runner.name()).replace("-", "_"), runner)
    tasks = collection.plan(asked, points, most_ms)
    with progress_bar("points", sum(len(task.missing) for task in tasks)) as advance:
        for _ in collection.run(tasks):
            advance(1)
    columns = [
        Column("kind", [task.kind for task in tasks], left=True),
        Column("measured", [str(len(task.missing)) for task in tasks]),
        Column("stood", [str(task.standing) for task in tasks]),
        Column("left out", [str(task.too_long) for task in tasks]),
        Column("table", [str(collection.path(task.kind)) for task in tasks], left=True),
    ]
    deliver("".join(f"{line}\n" for line in text_table(columns, output_width(None))), None)
