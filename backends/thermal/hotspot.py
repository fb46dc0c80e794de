"""Temperatures by an executable of HotSpot, or of CoMeT's copy of it, which reads and writes files.

CoMeT calls HotSpot in the same way for every epoch: `-p` a power trace of one row, `-init_file` what the call before
left as `-all_transient_file`.  That file has one temperature per unit, so each call forgets what differs within a unit;
the solver of pmc does not.  Fillings are split into a unit per core, so that spreader and sink, which have the units of
the last filling, keep their warm middle.  HotSpot's own builds do not know `-all_transient_file`: they compute all
windows since the last steady state again in each call, which forgets nothing and takes longer from call to call.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pmc.backends.thermal.coarse import coarse_chip
from pmc.backends.thermal.engine import HeatEngine, KeptHeat, SolverEngine
from pmc.backends.thermal.floorplan import Floats, write_floorplan
from pmc.backends.thermal.stack import ZERO_CELSIUS, write_stack
from pmc.backends.thermal.stacked import StackedModel, require_powers
from pmc.backends.thermal.traces import powered_lines, read_names, read_temperatures, write_power
from pmc.dialects.errors import PmcError, excerpt
from pmc.dialects.stacked_arch import StackedArch

logger = logging.getLogger(__name__)

Mode = Literal["auto", "file", "api"]
"""`file`: the executable; `api`: the solver of pmc; `auto`: the executable where there is one."""

LAYERS, CONFIG, POWER, START = "stack.lcf", "hotspot.config", "power.ptrace", "start.init"
TRACE, STEADY, LAST, LOG = "temperatures.ttrace", "chip.steady", "last.init", "hotspot.log"


@dataclass(frozen=True)
class HotspotProgram:
    """How HotSpot is called."""

    command: tuple[str, ...]
    """The executable, by its path or as the shell finds it, and what stands before HotSpot's options."""
    timeout_s: float = 300.0
    """After which a call is ended."""

    @property
    def executable(self) -> str | None:
        """The full path of the executable, None where there is none."""
        found = shutil.which(self.command[0]) if self.command else None
        return None if found is None else str(Path(found).absolute())


def heat_engine(chip: StackedModel, program: HotspotProgram | None, folder: Path, mode: Mode = "auto") -> HeatEngine:
    """The engine of a mode; `folder` gets the files of HotSpot.

    Raises PmcError where the files are asked for and there is no executable.
    """
    if mode == "api":
        return SolverEngine(chip)
    if mode == "file" or (program is not None and program.executable is not None):
        return HotspotEngine(chip.arch, program or HotspotProgram(()), folder)
    what = "no executable is configured" if program is None else _missing(program)
    logger.info("hotspot: %s, temperatures come from the solver of pmc", what)
    return SolverEngine(chip)


def _missing(program: HotspotProgram) -> str:
    return f"there is no executable '{program.command[0]}'" if program.command else "no executable is configured"


class HotspotEngine:
    """The program, in a folder of its own; the heat in the chip is that of the file `start.init`.

    Chips with more units than stock builds hold get merged banks (see `coarse`), all of which read one temperature.
    Raises PmcError where there is no executable, and for a grid whose rows or columns are no power of two.
    """

    def __init__(self, arch: StackedArch, program: HotspotProgram, folder: Path):
        if program.executable is None:
            raise PmcError(f"hotspot: {_missing(program)}, which file mode needs")
        self.command = (program.executable, *program.command[1:])
        for what, count in zip(("rows", "columns"), arch.geometry.grid, strict=True):
            if count & (count - 1):
                raise PmcError(f"hotspot: the grid has {count} {what}, the program needs a power of two")
        self.arch = arch
        self.program = program
        self.folder = folder
        self.coarse = coarse_chip(arch)
        if self.coarse.arch is not arch:
            before, after = ("{}x{}x{}".format(*a.dram.banks) for a in (arch, self.coarse.arch))
            logger.info("hotspot: the program cannot hold %s banks, they are merged to %s", before, after)
        self.chip = StackedModel.of(self.coarse.arch, split_filling=True)
        self._again: list[Floats] = []
        """Powers of the windows that `start.init` does not have in it yet."""
        self._seconds = 0.0
        """How long each of them is."""
        self._write_stack()

    def steady(self, core_w: Floats, bank_w: Floats) -> tuple[Floats, Floats]:
        """Put the chip into the state that a constant power leads to.  Raises PmcError, see `advance`."""
        self._again = []
        self._call([self._powers(core_w, bank_w)], ["-sampling_intvl", "0.001"], STEADY)
        path = self.folder / STEADY
        found = read_names(path)
        lines = powered_lines(self.chip.model.stack)
        kelvin = _picked(path, lines, found)
        shutil.copyfile(path, self.folder / START)
        return self._celsius(kelvin)

    def advance(self, core_w: Floats, bank_w: Floats, seconds: float) -> tuple[Floats, Floats]:
        """Go on for some time with a constant power.

        Raises PmcError for a program that does not end in time, for files that it did not write or wrote wrongly, and
        for windows of different lengths where they are computed again.  What the program returns is not looked at: some
        builds crash when all is written.
        """
        if self._again and seconds != self._seconds:
            raise PmcError(
                f"hotspot: a window of {seconds:g} s after one of {self._seconds:g} s: a program that does not know "
                "-all_transient_file needs windows of one length"
            )
        powers = [*self._again, self._powers(core_w, bank_w)]
        options = ["-sampling_intvl", f"{seconds:.12g}"]
        if (self.folder / START).exists():
            options += ["-init_file", START]
        self._call(powers, options, TRACE)
        path = self.folder / TRACE
        names, rows = read_temperatures(path, self.arch.geometry.convention)
        if len(rows) != len(powers):
            raise PmcError(f"{path}: {len(rows)} rows of temperatures for {len(powers)} of powers")
        kelvin = _picked(path, self.chip.model.stack.powered_units, dict(zip(names, rows[-1].tolist(), strict=True)))
        self._again, self._seconds = powers, seconds
        if (self.folder / LAST).is_file():
            os.replace(self.folder / LAST, self.folder / START)
            self._again = []
        return self._celsius(kelvin)

    def kept(self) -> KeptHeat:
        """The file that the next call begins with."""
        path = self.folder / START
        return path.read_text() if path.exists() else ""

    def restore(self, kept: KeptHeat) -> None:
        """Write that file."""
        assert isinstance(kept, str), "the heat of the solver is no file"
        if kept:
            (self.folder / START).write_text(kept)

    def layers_c(self) -> dict[str, Floats] | None:
        """Cells are not in the files of HotSpot."""
        return None

    def _write_stack(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / START).unlink(missing_ok=True)
        stack = self.chip.model.stack
        for plan in {layer.floorplan.source: layer.floorplan for layer in stack.layers}.values():
            write_floorplan(plan, self.folder / plan.source)
        write_stack(stack, self.folder / LAYERS, self.folder / CONFIG)

    def _powers(self, core_w: Floats, bank_w: Floats) -> Floats:
        require_powers(self.arch, core_w, bank_w)
        return self.chip.powers(core_w, self.coarse.merge_w(bank_w))

    def _call(self, powers: list[Floats], options: list[str], needed: str) -> None:
        stack = self.chip.model.stack
        for name in (TRACE, STEADY, LAST):
            (self.folder / name).unlink(missing_ok=True)
        write_power(np.stack(powers), stack, self.folder / POWER)
        # Without -o the program crashes; with leakage it gives no power to units beyond the 16th of a layer.
        fixed = ["-c", CONFIG, "-f", stack.layers[0].floorplan.source, "-grid_layer_file", LAYERS, "-p", POWER]
        fixed += ["-o", TRACE, "-steady_file", STEADY, "-all_transient_file", LAST, "-leakage_used", "0"]
        fixed += ["-model_type", "grid", "-model_secondary", "0" if stack.package.board is None else "1"]
        fixed += ["-detailed_3D", "on"] if stack.convention == "hotspot7" else []
        code = self._run([*self.command, *fixed, *options])
        if not (self.folder / needed).is_file():
            text = (self.folder / LOG).read_text(encoding="utf-8", errors="replace")
            said = excerpt(" ".join(text.split())) or "nothing"
            raise PmcError(f"hotspot: {self.program.command[0]} wrote no {needed}, returned {code}, and said {said}")

    def _run(self, command: list[str]) -> int:
        """The return code of the program, whose words go to the log."""
        with (self.folder / LOG).open("wb") as log:
            try:
                process = subprocess.Popen(
                    command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            except OSError as error:
                raise PmcError(f"hotspot: {command[0]} cannot be run: {error.strerror}") from None
            try:
                return process.wait(self.program.timeout_s)
            except BaseException as error:
                # With all that it has started: a wrapper script would leave the program behind.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    limit = self.program.timeout_s
                    raise PmcError(f"hotspot: {command[0]} did not end within {limit:g} s and was stopped") from None
                raise

    def _celsius(self, kelvin: Floats) -> tuple[Floats, Floats]:
        celsius = kelvin - ZERO_CELSIUS
        return celsius[self.chip.core_powers], self.coarse.spread_c(celsius[self.chip.bank_powers])


def _picked(path: Path, wanted: tuple[str, ...], found: dict[str, float]) -> Floats:
    missing = next((name for name in wanted if name not in found), None)
    if missing is not None:
        raise PmcError(f"{path}: '{missing}' is missing")
    return np.array([found[name] for name in wanted])
