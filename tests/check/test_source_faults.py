"""`pmc check` with its default options finds faults in the sources of every pass, if they change anything."""

from __future__ import annotations

import pytest

from .fault_table import FAULTS
from .source_faults import Fault, checked

FOUND = [fault for fault in FAULTS if not fault.equivalent]
SLOW = ("tiling/compress.py",)
"""What any plan of which does is tested at less cost (`tests/passes/test_compression_plans.py`)."""
QUICK = list({fault.file: fault for fault in reversed(FOUND) if fault.file not in SLOW}.values())
"""The first fault of every other file."""


def test_the_table_has_faults_in_every_pass() -> None:
    assert len(FOUND) >= 125
    assert len({fault.file for fault in FOUND}) >= 28


@pytest.mark.parametrize("fault", QUICK, ids=lambda f: f.name)
def test_a_fault_is_found(fault: Fault) -> None:
    assert checked(fault) is not None


@pytest.mark.long
@pytest.mark.parametrize("fault", FOUND, ids=lambda f: f.name)
def test_every_fault_is_found(fault: Fault) -> None:
    assert checked(fault) is not None


@pytest.mark.long
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.equivalent], ids=lambda f: f.name)
def test_what_is_argued_to_be_equivalent_changes_nothing(fault: Fault) -> None:
    assert checked(fault) is None


def test_a_fault_that_makes_a_later_pass_crash_is_reported_for_its_own_pass() -> None:
    fault = next(fault for fault in FOUND if "axes[len(chain" in fault.old)
    found = checked(fault)
    assert found is not None and ": insert-collectives: " in found
