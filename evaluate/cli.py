"""``cbmir evaluate``: a command for each analysis, made from its configuration, and ``run`` for experiment files."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cbmir.errors import ProtocolError
from cbmir.evaluate.analysis import Analysis, Chosen
from cbmir.evaluate.configuration import Configuration, OptionSpec
from cbmir.evaluate.experiment import run
from cbmir.evaluate.experiment_plan import Plan, read_plan, read_reference
from cbmir.evaluate.options import Narrowed
from cbmir.evaluate.protocol import wording
from cbmir.evaluate.registry import ANALYSES
from cbmir.evaluate.results import Result
from cbmir.limit_options import image_limit_options
from cbmir.options import (
    EXIT_FAILURES,
    echo,
    filter_options,
    json_option,
    keyed,
    opened,
    opened_collection,
    print_json,
    say,
    store_key,
    store_option,
)
from cbmir.store import Key


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def evaluate() -> None:
    """Measure how well a collection retrieves."""


def command_of(analysis: Analysis[Any]) -> click.Command:
    """The command of an analysis: an option for each field of its configuration."""

    def command(location: str, collections: Any, as_json: bool, out: Path | None, **given: Any) -> int | None:
        try:
            asked = analysis.configuration(**given)
        except ProtocolError as error:
            raise click.UsageError(str(error)) from error
        result = _result(analysis, location, collections, asked)
        files = result.write(out) if out else []
        if as_json:
            print_json({**({"files": [str(path) for path in files]} if analysis.folder else {}), **result.as_json()})
        else:
            echo(result.table())
            if analysis.folder:
                echo(f"written: {files[0]} and {len(files) - 1:,} more")
        for line in (lines := result.shortcomings()):
            say(line)
        return EXIT_FAILURES if lines else None

    command.__doc__ = analysis.function.__doc__
    wrapped: Any = _out_option(analysis)(json_option(command))
    if issubclass(analysis.configuration, Narrowed):
        wrapped = filter_options(wrapped)
    if analysis.decodes:
        wrapped = image_limit_options(wrapped)
    for spec in reversed(analysis.configuration.options()):
        wrapped = _option(spec)(wrapped)
    return click.command(analysis.name)(_collections(analysis)(wrapped))


def _result(analysis: Analysis[Any], location: str, collections: Any, asked: Configuration) -> Result:
    if analysis.takes == "one":
        with opened_collection(location, collections) as collection:
            return analysis.run(collection, asked)
    with opened(location) as store:
        return analysis.run(Chosen(store, collections), asked)


def _collections(analysis: Analysis[Any]) -> Any:
    """``--store``, and the collections of it."""
    if analysis.takes == "one":
        text = "Needed where the store holds several."
        chosen = click.option("--collection", "collections", metavar="NAME", help=text)
    elif analysis.takes == "several":
        chosen = click.argument("collections", nargs=-1, required=True, metavar="COLLECTION COLLECTION...")
    else:
        chosen = click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
    return lambda command: store_option(chosen(command))


def _out_option(analysis: Analysis[Any]) -> Any:
    if analysis.folder:
        path = click.Path(file_okay=False, path_type=Path)
        return click.option("--out", type=path, required=True, metavar="DIR", help="Folder of the result.")
    path = click.Path(dir_okay=False, path_type=Path)
    return click.option("--out", type=path, metavar="FILE", help="Write the rows as CSV.")


def _option(spec: OptionSpec) -> Any:
    """A field as an option of a command."""
    default = spec.default
    if spec.filters:
        default = tuple(map(wording, default)) if spec.several_filters else (wording(default),)
    shown: Any = spec.option.default or not (default is None or default == ())
    if spec.type is bool:
        return click.option(spec.flag, spec.field, is_flag=True, help=spec.option.help)
    return click.option(
        spec.flag,
        spec.field,
        type=_type(spec),
        multiple=spec.several,
        default=default,
        show_default=shown,
        required=spec.required,
        metavar=spec.option.metavar,
        help=spec.option.help,
    )


def _type(spec: OptionSpec) -> Any:
    if spec.file:
        return click.Path(exists=spec.file == "read", dir_okay=spec.folder, file_okay=not spec.folder, path_type=Path)
    if spec.choices is not None:
        return click.Choice(spec.choices)
    low = spec.least if spec.above is None else spec.above
    if spec.type is int and (low, spec.most) != (None, None):
        return click.IntRange(low, spec.most)  # type: ignore[arg-type]  # bounds of whole numbers are whole
    if spec.type is float and (low, spec.most) != (None, None):
        return click.FloatRange(low, spec.most, min_open=spec.above is not None)
    return spec.type


def _plan_of(file: Path) -> Plan:
    return (read_reference if file.suffix.lower() == ".json" else read_plan)(file)


def _needed(plan: Plan, location: str | None, out: Path | None) -> Iterator[str]:
    if not location:
        yield "the store: give --store"
    if not out:
        yield "where results go: give --out"


@click.command("run")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--store", "location", envvar="CBMIR_STORE", show_envvar=True, metavar="DIR|URL", help="Instead of the file's."
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Instead of the file's.")
@click.option("--collection", "names", multiple=True, metavar="NAME", help="Instead of the file's. Repeatable.")
@click.option("--again", is_flag=True, help="Do everything again.")
@json_option
def run_command(
    file: Path, location: str | None, out: Path | None, names: tuple[str, ...], again: bool, as_json: bool
) -> int:
    """Do all analyses that FILE asks for.

    FILE is TOML: a table for each analysis, its keys the options of the command; or a config.json of the paper's
    programs. A result whose collections, options and programs are the same as before is kept, not made again.
    """
    plan = _plan_of(file)
    key = Key.of_host(plan.store) if plan.store and not location else store_key()
    location, out = location or plan.store, out or plan.out
    if missing := next(_needed(plan, location, out), None):
        raise click.UsageError(f"{file} doesn't say {missing}")
    assert location
    assert out
    plan = dataclasses.replace(plan, collections=names or plan.collections)
    outcomes = []
    with keyed(key), opened(location) as store:
        for outcome in run(plan, store, out, again=again):
            outcomes.append(outcome)
            say(str(outcome))
    if as_json:
        print_json([{**dataclasses.asdict(item), "file": str(item.file)} for item in outcomes])
    return EXIT_FAILURES if any(item.state == "failed" for item in outcomes) else 0


for _analysis in ANALYSES.values():
    evaluate.add_command(command_of(_analysis))
evaluate.add_command(run_command)
