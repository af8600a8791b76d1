"""``cbmir encoders``: which encoders are known by name, and what they are."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cbmir.encoders import registry
from cbmir.encoders.base import EncoderSpec
from cbmir.options import json_option, print_json, say

_SHOWN = EncoderSpec.__dataclass_fields__.keys() - {"volume"}


@click.group()
def encoders() -> None:
    """List and show the encoders known by name, and download them for machines without internet."""


@encoders.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Print name, length of the vectors, text tower, terms, training data and source of the weights."""
    known = registry.specs()
    if as_json:
        print_json([_as_json(spec) for spec in known])
        return
    for spec in known:
        click.echo(
            f"{spec.name:30} {spec.dim or '':>5} {'text' if spec.text else '':4}  {_terms(spec)}; "
            f"trained on {spec.trained_on}; weights: {spec.source}"
        )
    for loader in registry.loaders():
        if loader.PREFIX:
            click.echo(f"{loader.PREFIX + loader.PREFIX_FORM:30} any network of this library, or --weights")


@encoders.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Print all that is known of an encoder before it is loaded."""
    _, spec = registry.find(name)
    data = _as_json(spec)
    if as_json:
        print_json(data)
        return
    for key, value in data.items():
        text = ", ".join(value) if isinstance(value, tuple) else value
        click.echo(f"{key:16} {text if text not in (None, '') else '-'}")


@encoders.command()
@click.argument("name")
@click.option("--to", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new or empty directory.")
def pull(name: str, to: Path) -> None:
    """Download an encoder into a directory: --weights DIR works without internet, text tower included."""
    registry.pull(name, to)
    say(f"{name} is in {to}: use --encoder {name} --weights {to}")


def _terms(spec: EncoderSpec) -> str:
    notes = [text for text, holds in (("gated", spec.gated), ("non-commercial", spec.non_commercial)) if holds]
    return f"{spec.licence} ({', '.join(notes)})" if notes else spec.licence


def _as_json(spec: EncoderSpec) -> dict[str, Any]:
    """The fields that all encoders have; preprocessing as it goes into the fingerprint, None where the weights say."""
    how = spec.preprocessing or spec.volume
    data = {name: value for name, value in asdict(spec).items() if name in _SHOWN}
    return {**data, "preprocessing": how.as_json() if how else None}
