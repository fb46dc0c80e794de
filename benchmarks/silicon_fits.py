"""Make the fits that come with pmc: one artefact for every system of the measured tables.

    python benchmarks/silicon_fits.py [--out configs/fits] [--systems h100_sxm,..]

Needs `pip install 'pmc[silicon]'`.  Fits are of the current version of every engine.  A system that was never measured
gets an artefact with its specification alone; its numbers come from the fits of the others.  Prints what it took.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import process_time

from pmc.backends.silicon.artefact import Artefact, artefact_text
from pmc.backends.silicon.calibrate import Plan
from pmc.backends.silicon.fit import SEED
from pmc.backends.silicon.library import OF_LIBRARIES, Library
from pmc.backends.silicon.physical import Fit


def main() -> None:
    """Write the artefacts, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("configs/fits"))
    parser.add_argument("--systems", default="")
    options = parser.parse_args()
    library = Library.installed()
    options.out.mkdir(parents=True, exist_ok=True)
    print("| system | fits | sets without | rows | KB | CPU s |\n|---|---|---|---|---|---|")
    for name in options.systems.split(",") if options.systems else library.systems:
        start = process_time()
        fits: list[Fit] = []
        refused = rows = 0
        if any(backend not in OF_LIBRARIES for backend in library.backends(name)):
            for step in Plan.of(library, name).run():
                rows += step.rows
                if isinstance(step.outcome, Fit):
                    fits.append(step.outcome)
                else:
                    refused += 1
        text = artefact_text(Artefact(library.system(name), library.package or "", SEED, tuple(fits)))
        (options.out / f"{name}.json").write_text(text, encoding="utf-8")
        took = process_time() - start
        print(f"| {name} | {len(fits)} | {refused} | {rows} | {len(text) / 1e3:.0f} | {took:.0f} |", flush=True)


if __name__ == "__main__":
    main()
