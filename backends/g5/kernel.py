"""The compiled event loop: `kernel.c`, built with the C compiler of the machine when it is first used.

The library is kept in the folder for caches of the user, under a name that follows from its source.  Without a compiler
or a folder to write to, `available` is False and programs run in the plain form, with the same results.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from pmc.backends.g5 import dram
from pmc.backends.g5.clock import of_cycles
from pmc.backends.g5.program import Commands
from pmc.backends.g5.times import Jump, ProgramTimes
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import IntArray

SOURCE = Path(__file__).with_name("kernel.c")
FLAGS = ("-O3", "-shared", "-fPIC")

FINISHED, STANDS_STILL, NO_MEMORY = range(3)
"""What a run ends with."""

_Ints = ctypes.POINTER(ctypes.c_int64)
_NUMBERS = ("cores", "rows", "channels", "dies", "groups", "depth", "issue_ps", "barrier_ps", "cores_per_die", "skip")
_ARRAYS = (
    "engine", "lag", "fixed", "transfer", "port", "share", "source", "die", "group", "share_start", "share_channel",
    "share_ps", "group_size", "group_owner", "segment_start", "segment_first", "segment_rows", "segment_repeats",
)  # fmt: skip
_COLUMNS = ("core", "row", "start", "end", "reason", "cause", "limit")


class _Program(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _NUMBERS] + [(name, _Ints) for name in _ARRAYS]


class _Result(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("count", "duration", "jumps", "jump_room")),
        *((name, _Ints) for name in (*_COLUMNS, "jump")),
    ]


def available() -> bool:
    """Whether the compiled loop can be used here."""
    return _library() is not None


def run(commands: Commands, chip: Chip, *, skip: bool = True) -> ProgramTimes | None:
    """What `Machine.run` gives, or None for commands that wait for what never happens.

    With `skip`, repetitions of segments that happen as those before them did are left out, see `ProgramTimes.jumps`.
    Raises PmcError where memory is short.
    """
    library = _library()
    assert library is not None
    program, kept = _program(commands, chip, skip)
    result = _Result()
    try:
        state = library.pmc_simulate(ctypes.byref(program), ctypes.byref(result))
        if state == NO_MEMORY:
            raise PmcError(f"no memory left to simulate the program at '{commands.ops[0].path.data}'")
        return None if state == STANDS_STILL else _times(commands, result)
    finally:
        library.pmc_free(ctypes.byref(result))
        del kept


def _program(commands: Commands, chip: Chip, skip: bool) -> tuple[_Program, list[IntArray]]:
    """The input of the loop, and the arrays that it points to, which must live as long."""
    issue, ghz, segments = chip.commands.issue, chip.clocks.chip_ghz, commands.segments
    service = dram.service_ps(commands.shares, chip)
    used, channel = np.nonzero(service)
    starts = np.searchsorted(used, np.arange(len(service) + 1))
    numbers = (
        commands.cores, len(commands.op), service.shape[1], chip.dies, len(commands.group_sizes), issue.queue_depth,
        int(of_cycles(issue.cycles_per_command, ghz)), int(of_cycles(issue.barrier_cycles, ghz)),
        chip.cores // chip.dies, int(skip),
    )  # fmt: skip
    arrays = (
        commands.engine, commands.lags, commands.fixed_ps, commands.transfer_ps, commands.port_ps, commands.share,
        commands.source, commands.die_ps, commands.group, starts, channel, service[used, channel],
        commands.group_sizes, commands.group_owners, segments.start, segments.first, segments.rows, segments.repeats,
    )  # fmt: skip
    kept = [np.ascontiguousarray(array, np.int64) for array in arrays]
    return _Program(*numbers, *(array.ctypes.data_as(_Ints) for array in kept)), kept


def _times(commands: Commands, result: _Result) -> ProgramTimes:
    """The records of a run, ordered by core; those of one core are in the order in which they were given."""
    count, cores = int(result.count), commands.cores

    def column(name: str, size: int) -> IntArray:
        """A copy: the memory is that of the library."""
        return np.ctypeslib.as_array(getattr(result, name), (size,)).copy() if size else np.zeros(0, np.int64)

    core, row, start, end, reason, cause, limit = (column(name, count) for name in _COLUMNS)
    jumps = column("jump", int(result.jumps) * (2 + 2 * cores)).reshape(-1, 2 + 2 * cores)
    return ProgramTimes(
        commands,
        core,
        row,
        start,
        end,
        reason,
        cause,
        limit,
        int(result.duration),
        tuple(Jump(int(j[0]), int(j[1]), j[2::2].copy(), j[3::2].copy()) for j in jumps),
    )


@cache
def _library() -> ctypes.CDLL | None:
    """The library, built if it is not there yet; None where that is not possible."""
    name = f"g5-{hashlib.sha256(SOURCE.read_bytes() + repr((FLAGS, os.uname())).encode()).hexdigest()[:20]}.so"
    for folder in _folders():
        path = folder / name
        if (path.exists() or _built(path)) and (library := _loaded(path)) is not None:
            return library
    return None


def _folders() -> list[Path]:
    """Where the library may lie: the cache folder of the user."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return [(Path(base) if base else Path.home() / ".cache") / "pmc"]
    except RuntimeError:  # a user without a home
        return []


def _built(path: Path) -> bool:
    """Build the library; other processes see all of it or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            command = [os.environ.get("CC", "cc"), *FLAGS, "-o", str(made), str(SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            made.replace(path)
        return True
    except (OSError, subprocess.SubprocessError):
        return False


def _loaded(path: Path) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        return None
    library.pmc_simulate.argtypes = [ctypes.POINTER(_Program), ctypes.POINTER(_Result)]
    library.pmc_simulate.restype = ctypes.c_int
    library.pmc_free.argtypes = [ctypes.POINTER(_Result)]
    library.pmc_free.restype = None
    return library
