"""Random small models on random meshes and chips: compiled to commands and equal at every level."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from pmc.compiler.check import check_model
from pmc.compiler.config import load_topology
from pmc.compiler.frontend import import_hf

from .random_deployments import Case, cases

TOPOLOGY = load_topology("p1-r1-b4-c32")


def check(case: Case) -> None:
    """The case is the same at every level; tiles that no LMEM could hold are not generated."""
    model = import_hf(case.config, "random", "random")
    result = check_model(model, case.chip, TOPOLOGY, case.deployment, case.seed)
    assert result.guilty is None
    assert result.checks[-1].name == "unroll-commands"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(cases())
def test_random_deployments_are_equal_at_every_level(case: Case) -> None:
    check(case)


@pytest.mark.long
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(cases())
def test_many_random_deployments_are_equal_at_every_level(case: Case) -> None:
    check(case)
