"""What `pmc.check` gives: the checks of all phases, and the answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pmc.backends.evaluate.notebook import Tabular
from pmc.compiler.check import CheckResult, PassCheck


@dataclass(frozen=True, repr=False)
class CheckReport(Tabular):
    """Whether every pass keeps the meaning of a model."""

    model: str
    results: tuple[CheckResult, ...]
    """One per phase and kind of plans, up to the first failure."""

    @property
    def passed(self) -> bool:
        """Whether every pass kept the meaning."""
        return all(result.passed for result in self.results)

    @property
    def guilty(self) -> PassCheck | None:
        """The first pass that did not."""
        return next((result.guilty for result in self.results if result.guilty is not None), None)

    def to_rows(self) -> list[dict[str, object]]:
        """One mapping per pass of a phase."""
        return [
            {
                "phase": result.phase,
                "types": result.types,
                "plans": result.plans,
                "pass": check.name,
                "level": check.level,
                "passed": check.passed,
                "max_error": check.max_error,
                "seconds": check.seconds,
            }
            for result in self.results
            for check in result.checks
        ]

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {"passed": self.passed, "phases": [{**asdict(r), "passed": r.passed} for r in self.results]}

    def __repr__(self) -> str:
        guilty = self.guilty
        answer = "every pass keeps the meaning" if guilty is None else f"{guilty.name} is wrong"
        return f"<check of {self.model}: {answer}, {sum(len(r.checks) for r in self.results)} checks>"
