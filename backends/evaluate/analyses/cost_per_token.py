"""What a million tokens cost: chips rented by the hour, and optionally the energy they take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from pmc.backends.evaluate.analyses.table import Analysis, Row
from pmc.backends.evaluate.assumptions import honesty_notes
from pmc.backends.evaluate.footprint import Feasibility
from pmc.dialects.errors import PmcError


@dataclass(frozen=True)
class CostOptions:
    """Prices; none has a default.  Raises PmcError for a negative one, or power without its price."""

    dollars_per_chip_hour: float
    """Price of one chip with its part of the host, network and cooling, energy included unless given apart."""
    watts_per_chip: float | None
    """Mean power of one chip, where energy is paid apart."""
    dollars_per_kwh: float | None
    """Price of energy, where it is paid apart."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value < float("inf"):
                raise PmcError(f"{name} is {value}, must be a finite number of at least 0")
        if (self.watts_per_chip is None) != (self.dollars_per_kwh is None):
            missing = "dollars_per_kwh" if self.dollars_per_kwh is None else "watts_per_chip"
            raise PmcError(f"{missing} must be given too: energy is watts_per_chip times dollars_per_kwh")

    @property
    def dollars_per_chip_second(self) -> float:
        """Rent and energy."""
        energy = (self.watts_per_chip or 0.0) / 1000 * (self.dollars_per_kwh or 0.0)
        return (self.dollars_per_chip_hour + energy) / 3600


@dataclass(frozen=True)
class TokenCost(Analysis):
    """The price of the tokens of steps that follow each other without a gap.

    dollars per token = dollars per chip-second * chips * seconds per step / tokens per step.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "tokens_per_s", "tokens_per_s_per_chip", "dollars_per_million_tokens", "joules_per_token",
    )  # fmt: skip

    name: str
    """What is priced."""
    step_us: float
    tokens_per_step: int | float
    chips: int
    options: CostOptions
    unvalidated: tuple[str, ...]
    assumptions: tuple[str, ...]
    lower_bound: bool
    memory: Feasibility | None
    """Whether the program fits, where that is known: nobody can buy tokens of one that does not."""

    @property
    def misfits(self) -> list[str]:
        """What exceeds, where the program does not fit."""
        return [] if self.memory is None or self.memory.fits else [self.memory.verdict]

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all chips together."""
        return self.tokens_per_step / (self.step_us * 1e-6)

    @property
    def dollars_per_million_tokens(self) -> float:
        """The price."""
        return self.options.dollars_per_chip_second * self.chips / self.tokens_per_s * 1e6

    @property
    def joules_per_token(self) -> float | None:
        """Energy of all chips per token, None where no power was given."""
        watts = self.options.watts_per_chip
        return None if watts is None else watts * self.chips / self.tokens_per_s

    def to_rows(self) -> list[Row]:
        """One row."""
        return [
            {
                "tokens_per_s": self.tokens_per_s,
                "tokens_per_s_per_chip": self.tokens_per_s / self.chips,
                "dollars_per_million_tokens": self.dollars_per_million_tokens,
                "joules_per_token": self.joules_per_token,
            }
        ]

    def summary(self) -> dict[str, object]:
        """Conditions."""
        return {
            "name": self.name,
            "step_us": self.step_us,
            "tokens_per_step": self.tokens_per_step,
            "chips": self.chips,
            "options": asdict(self.options),
            "relative_only": bool(self.unvalidated),
            "unvalidated": list(self.unvalidated),
            "assumptions": list(self.assumptions),
            "lower_bound": self.lower_bound,
            "memory": None if self.memory is None else self.memory.to_dict(),
        }

    def headline(self) -> str:
        """What is priced, and at which prices."""
        o = self.options
        energy = "" if o.watts_per_chip is None else f" and {o.watts_per_chip:g} W at {o.dollars_per_kwh:g} $/kWh"
        return f"{self.name}: {self.chips} chips at {o.dollars_per_chip_hour:g} $/h each{energy}"

    def notes(self) -> list[str]:
        """Step and tokens, and what does not fit."""
        return [
            f"{self.tokens_per_step} tokens per step of {self.step_us:.3f} us, one step after the other",
            *honesty_notes(self.lower_bound, self.assumptions, self.unvalidated),
            *self.misfits,
        ]


def cost_per_token(
    name: str,
    step_us: float,
    tokens_per_step: int | float,
    chips: int,
    options: CostOptions,
    unvalidated: tuple[str, ...] = (),
    assumptions: tuple[str, ...] = (),
    lower_bound: bool = False,
    memory: Feasibility | None = None,
) -> TokenCost:
    """The price of tokens that `chips` chips make or read in steps of `step_us` with `tokens_per_step` each.

    `unvalidated`, `assumptions` and `lower_bound` are those of the evaluation that the step time is from, `memory`
    says whether its program fits.  Raises PmcError for a quantity that is not positive.
    """
    for what, value in (("step_us", step_us), ("tokens_per_step", tokens_per_step), ("chips", chips)):
        if not value > 0:
            raise PmcError(f"{what} is {value}, must be greater than 0")
    return TokenCost(name, step_us, tokens_per_step, chips, options, unvalidated, assumptions, lower_bound, memory)
