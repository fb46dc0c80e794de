"""The evaluation engine: time, traffic and bottleneck of every op of a module, and what they add up to."""

from .engine import evaluate_module
from .metrics import COLUMNS, EngineResult, StageMetrics, StepMetrics
from .overlap import Overlap, StepResult, evaluate_step
from .request import RequestResult, evaluate_request
from .sweep import SweepResult, sweep_module

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
