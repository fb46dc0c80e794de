"""Systems without measurements: formulas of others at their rates, and how far off they may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pmc.backends.silicon.artefact import Artefact
from pmc.backends.silicon.chip import system_of_chip
from pmc.backends.silicon.database import DatabaseMode, PerfDatabase, Source
from pmc.backends.silicon.gemm import Gemm
from pmc.backends.silicon.library import Library
from pmc.backends.silicon.mla import MlaBmm
from pmc.backends.silicon.physical import Fit, Parameters
from pmc.backends.silicon.system import System
from pmc.backends.silicon.transfer import ALONE, DEVIATIONS, SCALE, distance
from pmc.compiler.config import load_chip, load_topology
from pmc.dialects.errors import PmcError

from .silicon_library import LAW, TILE, toy_system

WORKLOAD = Gemm(4096, 4096, 4096, "bfloat16")


def faster(system: System, name: str, times: float) -> System:
    """The same with a higher rate: so many octaves of the rate, and of its ratio to the bandwidth."""
    gpu = system.spec.gpu.model_copy(update={"bfloat16_tc_flops": times * system.spec.gpu.bfloat16_tc_flops})
    return system.model_copy(update={"name": name, "spec": system.spec.model_copy(update={"gpu": gpu})})


def artefact(system: System, parameters: Parameters, band: tuple[float, float] = (0.9, 1.1)) -> Artefact:
    fit = Fit("gemm", system.name, "vllm", "1", {"gemm_dtype": "bfloat16"}, TILE, parameters, band, 100, 20, "made up")
    return Artefact(system, "made up", 20, (fit,))


@pytest.fixture
def target(tmp_path: Path) -> System:
    return toy_system(tmp_path)


def at(system: System, parameters: Parameters) -> float:
    fit = artefact(system, parameters).fits[0]
    return float(fit.predict_ms(Gemm, WORKLOAD.points, system)[0])


def test_one_donor_speaks_at_the_rates_of_the_system(target: System) -> None:
    donor = artefact(faster(target, "fast", 2.0), LAW)
    database = PerfDatabase.unmeasured(target, "vllm", donors=[donor])
    found = database.query(WORKLOAD)
    assert found == pytest.approx(at(target, LAW)) and found.source is Source.ANALYTIC
    assert found > 1.5 * at(donor.system, LAW)
    assert found.error_band is not None
    # The rate is an octave away, and so is its ratio to the bandwidth: sqrt(2) octaves.
    assert distance(target, donor.system) == pytest.approx(2**0.5)
    own = np.log(1.1 / 0.9) / (2 * DEVIATIONS)
    wide = DEVIATIONS * 2**0.5 * np.sqrt(ALONE**2 + own**2)
    assert found.error_band == pytest.approx((found * np.exp(-wide), found * np.exp(wide)))
    assert found.origin == "fits of fast at the rates of toy"


def test_nearer_donors_weigh_more_and_leaving_out_makes_the_band(target: System) -> None:
    """Two donors: weights by distance; each is off by the same from the other, which is the band."""
    slow = replace(LAW, fixed_us=1e-6, compute_efficiency=0.4, step_us=1e-9, tile_us=1e-9, memory_efficiency=1e3)
    quick = replace(slow, compute_efficiency=0.8)
    near, far = (
        artefact(target.model_copy(update={"name": "near"}), slow, (1.0, 1.0)),
        artefact(faster(target, "far", 2.0), quick, (1.0, 1.0)),
    )
    found = PerfDatabase.unmeasured(target, "vllm", donors=[near, far]).query(WORKLOAD)
    weight = 1 / (1 + np.exp(-(2**0.5) / SCALE))
    middle = weight * np.log(at(target, slow)) + (1 - weight) * np.log(at(target, quick))
    assert found == pytest.approx(np.exp(middle))
    # Only the efficiency differs, by a factor of 2, so either of them is off by that from the other.
    assert found.error_band is not None
    assert found.error_band[1] / found == pytest.approx(np.exp(DEVIATIONS * np.log(2)), rel=1e-3)


def test_a_system_is_not_predicted_from_itself(target: System) -> None:
    other = artefact(faster(target, "other", 2.0), LAW)
    own = artefact(target, replace(LAW, compute_efficiency=0.01))
    database = PerfDatabase.unmeasured(target, "vllm", donors=[own, other])
    assert database.query(WORKLOAD) == pytest.approx(at(target, LAW))
    with pytest.raises(PmcError, match="no fits of 'vllm'; there are "):
        PerfDatabase.unmeasured(target, "vllm", donors=[own])


def test_what_no_system_has_is_refused(target: System) -> None:
    database = PerfDatabase.unmeasured(target, "vllm", donors=[artefact(faster(target, "other", 2.0), LAW)])
    with pytest.raises(PmcError, match="no system has a fit of gemm under vllm with gemm_dtype 'fp8'"):
        database.query(Gemm(1, 2, 3, "fp8"))
    with pytest.raises(PmcError, match="no system has a fit of mla_bmm under vllm with"):
        database.query(MlaBmm(1, 2, "mla_gen_pre", "fp8"))
    with pytest.raises(PmcError, match="toy was never measured: mode empirical has numbers of it"):
        database.query(WORKLOAD, DatabaseMode.SILICON)
    assert database.query(WORKLOAD, DatabaseMode.HYBRID) == database.query(WORKLOAD)
    assert database.query(WORKLOAD, DatabaseMode.SOL) == pytest.approx(1e3 * 2 * 4096**3 / 1e14)


def test_shipped_systems_without_measurements_and_chips_answer() -> None:
    """An L4 has a third of the rate of an L40S, and a chip of `pmc.configs` is a system by its sheet."""
    l4 = PerfDatabase.open("l4", "vllm", mode=DatabaseMode.EMPIRICAL)
    l40s = PerfDatabase.open("l40s", "vllm", mode=DatabaseMode.EMPIRICAL)
    assert 2 < l4.query(WORKLOAD) / l40s.query(WORKLOAD) < 5
    system = system_of_chip(load_chip("h100-sxm"), load_topology("nvlink-8"))
    spec = PerfDatabase.open("h100-sxm", "vllm").system
    assert system.processors == spec.processors
    assert system.bytes_per_second == pytest.approx(spec.bytes_per_second, rel=0.01)
    assert [system.rate(r) for r in ("bfloat16", "fp8")] == pytest.approx(
        [spec.rate(r) for r in ("bfloat16", "fp8")], rel=0.01
    )
    with pytest.raises(PmcError, match="h100-sxm has no rate for fp4"):
        system.rate("fp4")
    with pytest.raises(PmcError, match="16 ranks are more than its node has"):
        system.link_bytes_per_second(16)
    alone = PerfDatabase.unmeasured(system, "vllm", family="h100-sxm").query(WORKLOAD)
    known = PerfDatabase.open("h100-sxm", "vllm").query(WORKLOAD, DatabaseMode.EMPIRICAL)
    assert alone == pytest.approx(known, rel=0.02) and alone.origin == "fits of h100_sxm at the rates of h100-sxm"
    tpu = system_of_chip(load_chip("sg2262"), load_topology("p1-r1-b1-c8"))
    assert PerfDatabase.unmeasured(tpu, "vllm").query(WORKLOAD) > 1e3 * 2 * 4096**3 / tpu.rate("bfloat16")
    with pytest.raises(PmcError, match="no fits of 'h10_sxm'; did you mean"):
        PerfDatabase.unmeasured(system, "vllm", family="h10-sxm")


def test_a_folder_of_ones_own_is_not_filled_from_others(tmp_path: Path) -> None:
    toy_system(tmp_path)
    with pytest.raises(PmcError, match="toy has a specification and no measurements"):
        PerfDatabase.open("toy", "vllm", library=Library.folder(tmp_path), mode=DatabaseMode.EMPIRICAL)
