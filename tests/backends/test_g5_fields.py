"""Every field of a chip that the simulator reads changes some result of it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pmc.backends.cost.network import Network
from pmc.backends.cost.protocol import CommProtocol
from pmc.backends.g5.cdma import Message, simulate_exchange
from pmc.backends.g5.links import Links
from pmc.backends.g5.program import lower
from pmc.backends.g5.run import run
from pmc.backends.g5.stream import CHIP_FIELDS
from pmc.compiler.config import load_accounting, load_chip, load_topology
from pmc.compiler.field_readers import covers
from pmc.dialects.arch import Chip
from pmc.dialects.collective import Phase
from pmc.dialects.dist import Axis, Mesh
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import leaves

from .test_g5_kernel import program

BASE = load_chip("sg2262")

OTHER: dict[str, Any] = {
    # Where neither twice nor half of the value is valid, or makes a difference.
    "command_level.gdma.efficiency": 0.5,
    "command_level.sdma.efficiency": 0.5,
    "command_level.noc.mesh_columns": 16,
    "command_level.issue.queue_depth": 1,
    "command_level.cdma.threads_per_engine": 1,
    "command_level.cdma.credit_queue_depth": 1,
    "command_level.dram_channels.page_bytes": 64,
    "command_level.lmem.bytes_per_cycle": 16,
    "die_to_die.gb_per_s": 4.0,
}

WITH: dict[str, dict[str, Any]] = {"command_level.noc.mesh_columns": {"command_level.noc.mesh_rows": 4}}
"""What must follow another field."""


def load(address: str, lmem: str = "0", after: str = "") -> str:
    waits = f" after [{after}]" if after else ""
    return (
        f'g5.gdma {{direction = "load", dram = <{address}>, lmem = <{lmem}>, shape = [<64>, <256>], '
        f'dram_strides = [<1024>, <1>], lmem_strides = [<256>, <1>], element_type = i8}}{waits} at "load"'
    )


def multiply(element: str, transposed: str, result: int = 524288) -> str:
    return (
        f"g5.tiu {{acc = #g5.lmem<{result}, pitch 40, f32>, a = #g5.lmem<0, pitch 520, {element}>, "
        f"b = #g5.lmem<262144, pitch 520, {element}>, m = <40>, n = <40>, k = <520>, accumulate = <0>, "
        f'transpose_b = {transposed}}} at "mm"'
    )


def matrix(address: int, element: str = "bf16", pitch: int = 640) -> str:
    return f"#g5.lmem<{address}, pitch {pitch}, {element}>"


def vector(kind: str, ins: int, outs: int, updates: int = 0, element: str = "bf16", engine: str = "vec") -> str:
    names = [matrix(8192 * i, element) for i in range(ins + outs + updates)]
    groups = ", ".join(names[:ins]), ", ".join(names[ins : ins + outs]), ", ".join(names[ins + outs :])
    return (
        f"g5.{engine} {{kind = {kind}, ins = [{groups[0]}], outs = [{groups[1]}], updates = [{groups[2]}], "
        f'rows = <64>, columns = <640>}} at "v"'
    )


FETCH = (
    "g5.fetch {core = <core + 20>, source = #g5.lmem<0, pitch 640, bf16>, target = #g5.lmem<65536, pitch 640, bf16>, "
    'rows = <16>, columns = <640>} at "fetch"'
)
TOPK = (
    'g5.hau {kind = #tile.router_topk<top_k = 8, scoring = "sigmoid", groups = 8, top_groups = 4, normalize = true, '
    "scale = 2.5>, ins = [#g5.lmem<0, pitch 256, f32>, #g5.lmem<32768, pitch 256, f32>], outs = [#g5.lmem<66560, "
    'pitch 8, f32>, #g5.lmem<68608, pitch 8, i32>], updates = [], rows = <32>, columns = <256>} at "topk"'
)
NARROW = FETCH.replace("core + 20", "mod(core*5 + 37, 64)")

PROGRAMS: tuple[tuple[int, str], ...] = (
    (64, f'g5.loop i < <20> at "l" {{ {load("core*8192 + i*65536", "mod(i.seq, 2)*65536", "tiu-1")} '
         f'{multiply("f8E4M3FN", "false")} }} g5.barrier() at "b" {load("0")}'),
    *((1, multiply(element, t)) for element in ("f8E4M3FN", "f8E5M2", "i8", "bf16", "f16", "i4", "tf32")
      for t in ("true", "false")),
    (1, multiply("f8E4M3FN", "false", 196608)),
    (64, load("0").replace("<64>, <256>", "<2048>").replace("<1024>, <1>", "<1>").replace("<256>, <1>", "<1>")),
    *((1, vector("#tile.silu_mul", 2, 1, element=e)) for e in ("f8E4M3FN", "bf16", "f32")),
    (1, vector("#tile.rms_norm<eps = 1.000000e-06>", 2, 1)),
    (1, f'{vector("#tile.silu_mul", 2, 1)} {vector("#tile.silu_mul", 2, 1)}'),
    (1, TOPK),
    (40, FETCH),
    (64, NARROW),
)  # fmt: skip


@cache
def program_of(index: int) -> Any:
    cores, text = PROGRAMS[index]
    return program(text, cores=cores)


def results(chip: Chip) -> list[Any]:
    """What all probes say: ends of commands, the time of an exchange."""
    found: list[Any] = []
    for index in range(len(PROGRAMS)):
        try:
            times = run(lower(program_of(index), chip, {}, loops=False), chip)
            found.append((times.duration_ps, times.end_ps.tolist()))
        except PmcError as error:  # more cores than are left
            found.append(str(error))
    over = load_topology("p1-r1-b4-c32")
    links = Links(Network(over, Mesh(32, (Axis("tp", 32, 1),))), chip)
    messages = [[Message(0, 1 + i % 31, 1 << 20, Phase.MESSAGE) for i in range(n)] for n in (1, 64)]
    messages += [[Message(0, 8, 1 << 24, Phase.MESSAGE), Message(0, 1, 1 << 24, Phase.MESSAGE)]]
    small = [[Message(0, 1 + i % 31, 64, Phase.MESSAGE) for i in range(640)]]
    protocol = CommProtocol(over, load_accounting("physical"))
    found += [simulate_exchange(rounds, chip, links, protocol).duration_ps for rounds in (messages, small)]
    return found


@cache
def base_results() -> list[Any]:
    return results(BASE)


def changed(path: str, value: object) -> Chip | None:
    data: Any = BASE.model_dump()
    for name, own in {path: value, **WITH.get(path, {})}.items():
        *blocks, last = name.split(".")
        place = data
        for block in blocks:
            place = place[block]
        place[last] = own
    try:
        return Chip.model_validate(data)
    except ValidationError:
        return None


def value_at(path: str) -> Any:
    value: Any = BASE.model_dump()
    for name in path.split("."):
        value = None if value is None else value[name]
    return value


TIMING = sorted(
    leaf.path
    for leaf in leaves(Chip)
    if any(covers(declared, leaf.path) for declared in CHIP_FIELDS) and value_at(leaf.path) is not None
)

COUNTS = ("cores", "dies", "dram.capacity_gib")
"""No times: what other fields must follow, and what addresses are held against."""


@pytest.mark.parametrize("path", [path for path in TIMING if path not in COUNTS])
def test_every_field_changes_a_result(path: str) -> None:
    value = value_at(path)
    tried = [OTHER[path]] if path in OTHER else [value * 2, value // 2 if isinstance(value, int) else value / 2]
    chips = [chip for other in tried if (chip := changed(path, other)) is not None]
    assert chips, f"{path}: no other value is valid"
    assert any(results(chip) != base_results() for chip in chips)


def test_what_is_declared_has_values() -> None:
    assert len(TIMING) > 45
    assert np.all([value_at(path) is not None for path in TIMING])
