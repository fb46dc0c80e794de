"""The layers of a stack, from `.lcf` files, and the package that takes its heat, from `.config` files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from pmc.backends.thermal.floorplan import (
    TOLERANCE,
    Floats,
    Floorplan,
    number_of,
    read_floorplan,
    text_of,
    whole_number_of,
)
from pmc.dialects.errors import PmcError

ZERO_CELSIUS = 273.15
"""Kelvin."""

CONVENTIONS = ("hotspot6", "hotspot7")
"""How the resistances between cells are put together, see `network`."""

MAP_MODES = ("avg", "min", "max", "center")
"""What the temperature of a unit is: that of all cells that it touches, or of those in its middle."""


@dataclass(frozen=True)
class StackLayer:
    """One layer of material with the same floorplan edges as all others."""

    lateral: bool
    """Whether heat goes sideways in it."""
    powered: bool
    """Whether its units have power."""
    heat_capacity: float
    """J / (m3 K)."""
    resistivity: float
    """m K / W."""
    thickness: float
    """Metres."""
    floorplan: Floorplan


@dataclass(frozen=True)
class Board:
    """The second way of heat, on the side of the first layer: substrate, solder balls, board and the air under it.

    By their names in HotSpot; `s_` are sides and `t_` thicknesses in metres.  The materials are those of HotSpot.
    """

    s_sub: float
    t_sub: float
    s_solder: float
    t_solder: float
    s_pcb: float
    t_pcb: float
    r_convec_sec: float
    """From the board to the air, K/W."""
    c_convec_sec: float
    """Of the air under the board, J/K."""

    def __post_init__(self) -> None:
        """All sizes are positive, the board is no smaller than the field of solder balls."""
        _require_positive("board", self)
        if self.s_solder > self.s_pcb:
            raise PmcError(f"board: s_pcb ({self.s_pcb} m) must be at least s_solder ({self.s_solder} m)")


@dataclass(frozen=True)
class Package:
    """Spreader, heat sink and air on the side of the last layer, by their names in HotSpot; lengths in metres.

    Spreader and sink are squares around the die: `s_` is the side, `t_` the thickness, `k_` W/(m K), `p_` J/(m3 K).
    """

    s_spreader: float
    t_spreader: float
    k_spreader: float
    p_spreader: float
    s_sink: float
    t_sink: float
    k_sink: float
    p_sink: float
    r_convec: float
    """From the sink to the air, K/W; 1 / (h * area) of a cooler of h W/(m2 K)."""
    c_convec: float
    """Of the air, J/K."""
    ambient: float
    """Kelvin."""
    board: Board | None = None
    """None where no heat leaves through the board (HotSpot's `-model_secondary 0`)."""

    def __post_init__(self) -> None:
        """All sizes and materials are positive, the sink is no smaller than the spreader."""
        _require_positive("package", self)
        if self.s_spreader > self.s_sink:
            raise PmcError(f"package: s_sink ({self.s_sink} m) must be at least s_spreader ({self.s_spreader} m)")


@dataclass(frozen=True)
class Grid:
    """How finely the layers are cut, and how units read their temperature."""

    rows: int
    columns: int
    map_mode: str

    def __post_init__(self) -> None:
        """At least one cell, a known mode."""
        if min(self.rows, self.columns) < 1:
            raise PmcError(f"grid: {self.rows} rows and {self.columns} columns, must be at least 1")
        if self.map_mode not in MAP_MODES:
            raise PmcError(f"grid: grid_map_mode is '{self.map_mode}', must be {', '.join(MAP_MODES)}")


@dataclass(frozen=True)
class Stack:
    """Layers, the last of which touches the spreader.

    Raises PmcError where the layers differ in size, or the die does not fit under the spreader.
    """

    layers: tuple[StackLayer, ...]
    package: Package
    grid: Grid
    convention: str = CONVENTIONS[0]

    def __post_init__(self) -> None:
        """Check the layers against each other and the package."""
        if self.convention not in CONVENTIONS:
            raise PmcError(f"stack: convention is '{self.convention}', must be {', '.join(CONVENTIONS)}")
        if not self.layers:
            raise PmcError("stack: needs at least one layer")
        for number, layer in enumerate(self.layers):
            for name in ("heat_capacity", "resistivity", "thickness"):
                if not getattr(layer, name) > 0:
                    raise PmcError(f"stack: {name} of layer {number} is {getattr(layer, name)}, must be positive")
            plan = layer.floorplan
            if abs(plan.width - self.width) > TOLERANCE * self.width or (
                abs(plan.height - self.height) > TOLERANCE * self.height
            ):
                raise PmcError(
                    f"stack: layer {number} ({plan.source}) is {plan.width} x {plan.height} m, "
                    f"layer 0 is {self.width} x {self.height} m"
                )
        board = self.package.board
        around = {"s_spreader": self.package.s_spreader}
        around |= {} if board is None else {"s_sub": board.s_sub, "s_solder": board.s_solder}
        for name, side in around.items():
            if max(self.width, self.height) >= side:
                raise PmcError(
                    f"stack: {name} ({side} m) must be longer than the sides of the die "
                    f"({self.width} x {self.height} m)"
                )

    @property
    def width(self) -> float:
        """Metres."""
        return self.layers[0].floorplan.width

    @property
    def height(self) -> float:
        """Metres."""
        return self.layers[0].floorplan.height

    @cached_property
    def shared(self) -> tuple[Floats, ...]:
        """Of every layer [units, cells] square metres that units share with the cells of the grid."""
        grid = self.grid
        return tuple(n.floorplan.cells(self.width, self.height, grid.rows, grid.columns) for n in self.layers)

    @property
    def powered_units(self) -> tuple[str, ...]:
        """The names of all units with power, layer by layer: the header of a `.ptrace` file."""
        return tuple(u.name for layer in self.layers if layer.powered for u in layer.floorplan.units)


BOARD_FIELDS = tuple(field.name for field in fields(Board))
PACKAGE_FIELDS = tuple(field.name for field in fields(Package) if field.name != "board")


def _require_positive(what: str, part: Board | Package) -> None:
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, float) and not value > 0:
            raise PmcError(f"{what}: {field.name} is {value}, must be positive")


def read_stack(layers: Path, config: Path, convention: str = CONVENTIONS[0]) -> Stack:
    """The stack of a `.lcf` file, whose floorplans lie beside it, in the package of a `.config` file.

    The board is part of it where the file says `-model_secondary 1`.  Raises PmcError for what is missing or has
    another form.
    """
    options = _options(config)

    def option(name: str) -> str:
        if name not in options:
            raise PmcError(f"{config}: -{name} is missing")
        return options[name]

    def numbers(names: tuple[str, ...]) -> dict[str, float]:
        return {name: number_of(option(name), f"{config}: -{name}") for name in names}

    secondary = options.get("model_secondary", "0")
    if secondary not in ("0", "1"):
        raise PmcError(f"{config}: -model_secondary is '{secondary}', must be 0 or 1")
    board = Board(**numbers(BOARD_FIELDS)) if secondary == "1" else None
    package = Package(**numbers(PACKAGE_FIELDS), board=board)
    rows, columns = (whole_number_of(option(name), f"{config}: -{name}") for name in ("grid_rows", "grid_cols"))
    return Stack(tuple(_layers(layers)), package, Grid(rows, columns, option("grid_map_mode")), convention)


def write_stack(stack: Stack, layers: Path, config: Path) -> None:
    """Write the `.lcf` file and the `.config` file; floorplans are named as they are, without their folder."""
    text: list[str] = []
    for number, layer in enumerate(stack.layers):
        flags = ("Y" if flag else "N" for flag in (layer.lateral, layer.powered))
        values = (layer.heat_capacity, layer.resistivity, layer.thickness)
        text += [str(number), *flags, *(f"{value:.12g}" for value in values), Path(layer.floorplan.source).name, ""]
    layers.write_text("\n".join(text), encoding="utf-8")
    options = {name: f"{getattr(stack.package, name):.12g}" for name in PACKAGE_FIELDS}
    board = stack.package.board
    options["model_secondary"] = "0" if board is None else "1"
    options |= {} if board is None else {name: f"{getattr(board, name):.12g}" for name in BOARD_FIELDS}
    options |= {"grid_rows": str(stack.grid.rows), "grid_cols": str(stack.grid.columns)}
    options |= {"grid_map_mode": stack.grid.map_mode, "model_type": "grid", "leakage_used": "0"}
    # HotSpot starts at 333.15 K where nothing says another temperature.
    options["init_temp"] = f"{stack.package.ambient:.12g}"
    config.write_text("".join(f"\t\t-{name}\t\t{value}\n" for name, value in options.items()), encoding="utf-8")


def _options(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(text_of(path).splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not words[0].startswith("-"):
            raise PmcError(f"{path}:{number}: needs -name value, found '{line.strip()}'")
        found[words[0].removeprefix("-")] = words[1]
    return found


@dataclass(frozen=True)
class _LayerText:
    """The lines of one layer with their numbers, by what they say."""

    path: Path
    lines: Mapping[str, tuple[int, str]]

    def value(self, name: str) -> float:
        number, text = self.lines[name]
        return number_of(text, f"{self.path}:{number}: {name}")

    @property
    def number(self) -> int:
        line, text = self.lines["number"]
        return whole_number_of(text, f"{self.path}:{line}: number")

    def flag(self, name: str) -> bool:
        number, text = self.lines[name]
        if text not in ("Y", "N"):
            raise PmcError(f"{self.path}:{number}: {name} is '{text}', must be Y or N")
        return text == "Y"


LAYER_LINES: tuple[str, ...] = ("number", "lateral", "power", "heat capacity", "resistivity", "thickness", "floorplan")


def _layers(path: Path) -> Sequence[StackLayer]:
    lines = [(n, text.split("#")[0].strip()) for n, text in enumerate(text_of(path).splitlines(), 1)]
    lines = [(number, text) for number, text in lines if text]
    count = len(LAYER_LINES)
    if not lines or len(lines) % count:
        raise PmcError(f"{path}: needs {count} lines per layer ({', '.join(LAYER_LINES)}), found {len(lines)} lines")
    plans: dict[str, Floorplan] = {}
    found: list[StackLayer] = []
    numbers: list[int] = []
    for start in range(0, len(lines), count):
        part = _LayerText(path, dict(zip(LAYER_LINES, lines[start : start + count], strict=True)))
        name = part.lines["floorplan"][1]
        if name not in plans:
            plans[name] = read_floorplan(path.parent / name)
        numbers.append(part.number)
        found.append(
            StackLayer(
                part.flag("lateral"),
                part.flag("power"),
                part.value("heat capacity"),
                part.value("resistivity"),
                part.value("thickness"),
                plans[name],
            )
        )
    for before, after in pairwise([-1, *numbers]):
        if after != before + 1:
            raise PmcError(f"{path}: layer {after} stands where layer {before + 1} must be")
    return found
