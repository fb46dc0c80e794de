"""Maps the top-level folders to the import namespace ``pmc``; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

TOPS = ("compiler", "dialects", "passes", "backends", "configs")

setup(
    package_dir={"pmc": "pmc", **{f"pmc.{top}": top for top in TOPS}},
    packages=[
        "pmc",
        *(f"pmc.{name}" for top in TOPS for name in (top, *(f"{top}.{sub}" for sub in find_packages(top)))),
    ],
)
