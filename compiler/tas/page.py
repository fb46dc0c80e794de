"""All pictures and the table of a study on one page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from pmc.backends.thermal.metrics import RUN_COLUMNS
from pmc.compiler.files import write_bytes, write_file
from pmc.compiler.tas.pictures import comparison_png, maps_png, peaks_png
from pmc.compiler.tas.run_files import WINDOWS, read_windows
from pmc.dialects.stacked_arch import StackedArch

HOTTEST = "hottest.npz"
"""In the folder of a scenario: the cells of all dies at the end of the window with the hottest core."""

PAGE = "report.html"

STYLE = (
    "body{font:14px sans-serif;margin:2em;max-width:70em}td,th{padding:.2em .7em;text-align:right}img{max-width:100%}"
)


def write_page(out: Path, arch: StackedArch, rows: Sequence[Mapping[str, float | str]]) -> Path:
    """Write the pictures and `report.html` of scenarios that have run, and give its path.  Raises PmcError."""
    windows = {str(row["scenario"]): read_windows(out / str(row["scenario"]) / WINDOWS) for row in rows}
    pictures = {"peaks": peaks_png(windows), "comparison": comparison_png(rows)}
    for scenario in windows:
        path = out / scenario / HOTTEST
        if path.exists():
            with np.load(path) as kept:
                dies = dict(zip(kept["names"].tolist(), kept["cells"], strict=True))
            pictures[f"map-{scenario}"] = maps_png(f"{scenario}: when its hottest core is hottest", dies)
    for name, data in pictures.items():
        write_bytes(out / f"{name}.png", data)
    title = f"{rows[0]['workload']} on {arch.name}"
    body = [
        f"<h1>{escape(title)}</h1>",
        "<p>Results are relative only: not validated against silicon are "
        + escape(", ".join(arch.unvalidated))
        + ".</p>",
        _table(rows),
        *(f'<p><img alt="{name}" src="{_inline(data)}"></p>' for name, data in pictures.items()),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    write_file(out / PAGE, f"<!doctype html><html><head>{head}</head><body>{''.join(body)}</body></html>\n")
    return out / PAGE


def _table(rows: Sequence[Mapping[str, float | str]]) -> str:
    lines = ["".join(f"<th>{name}</th>" for name in RUN_COLUMNS)]
    lines += ["".join(f"<td>{escape(shown(row[name]))}</td>" for name in RUN_COLUMNS) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def shown(value: float | str) -> str:
    """A metric as people read it: four digits."""
    return value if isinstance(value, str) else f"{value:.4g}"


def _inline(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()
