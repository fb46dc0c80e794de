"""The preset files in `pmc.configs`, by kind and name.  Light on imports, because `pmc list` only needs names."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

KINDS = {
    "model": "models",
    "chip": "chips",
    "topology": "topologies",
    "deployment": "deployments",
    "accounting": "accounting",
    "calibration": "calibrations",
    "stack": "stacks",
    "workload": "workloads",
    "tas": "tas",
    "system": "systems",
}
"""The kinds of configuration and their folders."""

SUFFIXES = (".yaml", ".yml", ".json")


def presets(kind: str) -> dict[str, Traversable]:
    """The preset files of a kind by name; a name that begins with `_` is no preset."""
    folder = resources.files("pmc.configs") / KINDS[kind]
    files = ((Path(f.name), f) for f in folder.iterdir())
    return {p.stem: f for p, f in files if p.suffix in SUFFIXES and not p.name.startswith("_")}


def list_presets() -> dict[str, list[str]]:
    """Names of the presets of each kind of `KINDS`."""
    return {kind: sorted(presets(kind)) for kind in KINDS}
