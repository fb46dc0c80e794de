"""The evaluation engine: time, traffic and bottleneck of every op of a module, and what they add up to."""

from pmc.backends.evaluate.engine import evaluate_module
from pmc.backends.evaluate.metrics import COLUMNS, EngineResult, StageMetrics, StepMetrics
from pmc.backends.evaluate.overlap import Overlap, StepResult, evaluate_step
from pmc.backends.evaluate.request import RequestResult, evaluate_request
from pmc.backends.evaluate.sweep import SweepResult, sweep_module

__all__ = [
    "COLUMNS",
    "EngineResult",
    "Overlap",
    "RequestResult",
    "StageMetrics",
    "StepMetrics",
    "StepResult",
    "SweepResult",
    "evaluate_module",
    "evaluate_request",
    "evaluate_step",
    "sweep_module",
]
