"""Stands in for the executable of HotSpot: reads its options and files, computes with the solver of pmc, writes files.

The first argument says how it behaves; see `test_thermal_hotspot.py`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def compute(given: dict[str, str]) -> None:
    # Here, because they take a second, which a program that does not compute need not take.
    from pmc.backends.thermal.solver import ThermalModel
    from pmc.backends.thermal.stack import read_stack
    from pmc.backends.thermal.traces import read_power, read_state, write_state, write_temperatures

    convention = "hotspot7" if given.get("-detailed_3D") == "on" else "hotspot6"
    model = ThermalModel.of(read_stack(Path(given["-grid_layer_file"]), Path(given["-c"]), convention))
    rows = read_power(Path(given["-p"]), model.stack)
    state = model.uniform(model.stack.package.ambient)
    if "-init_file" in given:
        state = read_state(Path(given["-init_file"]), model)
    names = model.stack.powered_units
    units = [unit.name for layer in model.stack.layers for unit in layer.floorplan.units]
    shown = [units.index(name) for name in names]
    temperatures = rows.copy()
    for row, power in enumerate(rows):
        state = model.advance(state, power, float(given["-sampling_intvl"]))
        temperatures[row] = model.unit_kelvin(state)[shown]
    # HotSpot promises no order of the columns.
    write_temperatures(temperatures[:, ::-1], names[::-1], Path(given["-o"]), convention)
    write_state(model, state, Path(given["-all_transient_file"]))
    write_state(model, model.steady(rows.mean(axis=0)), Path(given["-steady_file"]))


def main() -> None:
    behaviour, options = sys.argv[1], sys.argv[2:]
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert given["-leakage_used"] == "0" and "-o" in given and Path(given["-f"]).exists()
    if behaviour == "hangs":
        time.sleep(600)
    if behaviour == "says nothing":
        return
    if behaviour == "refuses":
        sys.exit("error: inordinate floorplan size!\n")
    compute(given)
    if behaviour == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if behaviour == "forgets a unit":
        for option in ("-o", "-steady_file"):
            path = Path(given[option])
            path.write_text(path.read_text().replace("C_1\t", "C_x\t"))
    if behaviour == "stops half-way":
        path = Path(given["-steady_file"])
        path.write_text(path.read_text()[:200])
    if behaviour == "keeps no state":
        Path(given["-all_transient_file"]).unlink()
    if behaviour == "skips a window":
        path = Path(given["-o"])
        path.write_text(path.read_text().splitlines()[0] + "\n")
    if behaviour == "divides by zero":
        path = Path(given["-o"])
        path.write_text(path.read_text().splitlines()[0] + "\n" + "nan\t" * 20 + "\n")


if __name__ == "__main__":
    main()
