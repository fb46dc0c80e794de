"""The evaluation engine: time, traffic and bottleneck of every op of a module, and what they add up to."""

from .engine import evaluate_module
from .metrics import COLUMNS, EngineResult, StageMetrics, StepMetrics
from .sweep import SweepResult, sweep_module

__all__ = ["COLUMNS", "EngineResult", "StageMetrics", "StepMetrics", "SweepResult", "evaluate_module", "sweep_module"]
