"""Options of a target for the commands that compile; those of the deployment follow from its schema.

A module of its own because it reads the schema, which `pmc --help` need not wait for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from pmc.compiler.cli.complete import preset_names
from pmc.compiler.cli.target import CONFIGURATIONS, SETTING, TargetOptions, flag
from pmc.dialects.deployment import PANELS, DeploymentField, deployment_fields
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import Words


def takes_target(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a target, which it receives as its keyword argument `target`.

    A command with an argument `axes` receives there what `--set` gives several values, one with an argument `study`
    what it says of the parts of a thermal study.
    """
    own = inspect.signature(command, eval_str=True)
    files = [_option(name, str, help=text, autocompletion=preset_names(name)) for name, text in CONFIGURATIONS.items()]
    settings = inspect.Parameter(
        "settings", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[list[str] | None, SETTING]
    )
    by_panel = sorted(deployment_fields(), key=lambda field: PANELS.index(field.panel))
    sweeps, studies = "axes" in own.parameters, "study" in own.parameters
    rest = [p for p in own.parameters.values() if p.name not in ("target", "axes", "study")]
    positional = [p for p in rest if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    options = [p for p in rest if p.kind is inspect.Parameter.KEYWORD_ONLY]

    @wraps(command)
    def run(**arguments: Any) -> None:
        configurations = {name: arguments.pop(name) for name in CONFIGURATIONS}
        settings: list[str] = arguments.pop("settings") or []
        options = {field: arguments.pop(field.name) for field in deployment_fields()}
        given = {field: value for field, value in options.items() if value not in (None, [])}
        if sweeps:
            from pmc.compiler.sweep.axes import varies

            arguments["axes"] = [text for text in settings if varies(text)]
            settings = [text for text in settings if text not in arguments["axes"]]
        if studies:
            arguments["study"] = _of_study(settings)
            settings = [text for text in settings if text not in arguments["study"]]
        command(**arguments, target=_target(configurations, given, settings))

    parameters = [*positional, *files, settings, *options, *map(_field_option, by_panel)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    del run.__wrapped__  # typer would look at the signature of the command itself
    return run


def _of_study(settings: Sequence[str]) -> list[str]:
    """The settings of parts of a thermal study.  Raises PmcError for a part of neither the study nor a target."""
    if not settings:
        return []
    from pmc.compiler.overrides import PARTS, parse_setting, study_parts

    return [text for text in settings if parse_setting(text, {**PARTS, **study_parts()}).part in study_parts()]


def _target(
    configurations: Mapping[str, str | None], options: Mapping[DeploymentField, Any], texts: Sequence[str]
) -> TargetOptions:
    """What the options say.  Raises PmcError for a field that is given twice."""
    fields = {field.path: _value(field, value) for field, value in options.items()}
    given = [flag(name) for name, value in configurations.items() if value is not None]
    given += [flag(field.name) for field in options]
    settings: dict[str, dict[str, object]] = {}
    if texts:
        from pmc.compiler.overrides import parse_setting, values_by_part

        parsed = [parse_setting(text) for text in texts]
        settings = values_by_part(parsed)
        given += [f"--set {setting.name}" for setting in parsed]
        for path, value in settings.pop("deployment", {}).items():
            if path in fields:
                raise PmcError(f"--set deployment.{path}: also given as {flag(path.rpartition('.')[2])}")
            fields[path] = value
    return TargetOptions(**configurations, fields=fields, settings=settings, given=tuple(given))


def _value(field: DeploymentField, given: Any) -> object:
    """What the schema takes for an option.  Raises PmcError for text that is none of its forms."""
    if field.text_form is None:
        return given
    try:
        return field.text_form.parse(given)
    except ValueError:
        raise PmcError(f"{flag(field.name)}: expected {field.text_form.forms}, found '{given}'") from None


def _option(name: str, kind: Any, *declarations: str, **shown: Any) -> inspect.Parameter:
    """A keyword of a command that is an option, None if it is not given."""
    optional: Any = kind | None
    annotation: Any = Annotated[optional, typer.Option(*declarations, **shown)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _field_option(field: DeploymentField) -> inspect.Parameter:
    """The option of a field: its type without units and bounds, which the schema checks."""
    shown: dict[str, Any] = {"rich_help_panel": f"{field.panel.title} (replaces what the deployment says)"}
    text, kind = field.info.description, field.info.annotation
    if field.text_form is not None:
        return _option(field.name, str, help=f"{text}: {field.text_form.forms}", **shown)
    if kind is bool:
        yes = flag(field.name)
        return _option(field.name, bool, f"{yes}/--no-{yes[2:]}", help=f"{text}.", **shown)
    if field.is_list:
        return _option(field.name, list[str], help=f"{text}; repeatable.", **shown)
    words_of = next((mark for mark in field.info.metadata if isinstance(mark, Words)), None)
    if words_of is not None:
        return _option(field.name, str, help=f"{text}.", autocompletion=words_of.known, **shown)
    if get_origin(kind) is Literal:
        words: tuple[str, ...] = get_args(kind)
        return _option(
            field.name, str, help=f"{text} ({', '.join(words)}).", autocompletion=lambda: list(words), **shown
        )
    return _option(field.name, kind, help=f"{text}.", **shown)
