"""What the shell may complete: names of presets and passes, parts of a pipeline, fields of `--set`."""

from __future__ import annotations

from collections.abc import Callable

from pmc.compiler.presets import presets


def preset_names(kind: str) -> Callable[[str], list[str]]:
    """Completes the name of a preset of that kind."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in sorted(presets(kind)) if name.startswith(incomplete)]

    return complete


def any_preset(incomplete: str) -> list[str]:
    """Completes the name of a preset of any kind, or of a pass."""
    from pmc.compiler.pipelines import pass_names
    from pmc.compiler.presets import KINDS

    names = {*pass_names(), *(name for kind in KINDS for name in presets(kind))}
    return sorted(name for name in names if name.startswith(incomplete))


def pipeline(incomplete: str) -> list[str]:
    """Completes the last pass of `pass{option=value},pass`."""
    from pmc.compiler.pipelines import pass_names

    done, comma, last = incomplete.rpartition(",")
    return [f"{done}{comma}{name}" for name in pass_names() if name.startswith(last)]


def setting(incomplete: str) -> list[str]:
    """Completes the field of `PART.FIELD=VALUE`."""
    from pmc.compiler.overrides import all_names, short_names

    return [f"{name}=" for name in (*short_names(), *all_names()) if name.startswith(incomplete)]
