"""``cbmir encoders``: which encoders are known by name, and what they are."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cbmir.encoders import registry
from cbmir.encoders.base import EncoderSpec
from cbmir.encoders.plugins import plugins
from cbmir.options import echo, json_option, print_json, say

_SHOWN = EncoderSpec.__dataclass_fields__.keys() - {"volume", "input_px"}
_WIDEST = 48
"""Characters of a column; `show` has the whole text."""


@click.group()
def encoders() -> None:
    """List and show the encoders known by name, and download them for machines without internet."""


@encoders.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Print what is known of each: length of its vectors, input, whether it works offline now, training data, terms."""
    known = registry.specs()
    installed = plugins()
    if as_json:
        print_json([_as_json(spec) for spec in (*known, *(item.SPECS[0] for item in installed))])
        return
    rows = [("name", "dim", "input px", "offline now", "text", "trained on", "licence")]
    rows += [
        (
            spec.name,
            str(spec.dim or ""),
            spec.takes,
            _yes(registry.at_hand(spec)),
            _yes(spec.text),
            spec.trained_on,
            _terms(spec),
        )
        for spec in known
    ]
    widths = [min(max(len(row[column]) for row in rows), _WIDEST) for column in range(len(rows[0]))]
    for row in rows:
        echo("  ".join(_cell(text, width) for text, width in zip(row, widths, strict=True)).rstrip())
    for item in installed:
        built_in = (
            ", hidden by the encoder of that name above" if item.entry.name in {spec.name for spec in known} else ""
        )
        echo(f"{item.entry.name}: of the package {item.place}{built_in}")
    for loader in registry.loaders():
        if loader.PREFIX:
            echo(f"{loader.PREFIX + loader.PREFIX_FORM}: any network of this library")
    echo("offline now: the weights are on this machine. `cbmir encoders show NAME` prints all of one encoder.")


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
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for name, part in parts:
            text = ", ".join(map(str, part)) if isinstance(part, tuple | list) else part
            echo(f"{f'{key} {name}'.strip():16} {text if text not in (None, '') else '-'}")


@encoders.command()
@click.argument("name")
@click.option("--to", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new or empty directory.")
def pull(name: str, to: Path) -> None:
    """Download an encoder into a directory: --weights DIR works without internet, text tower included."""
    registry.pull(name, to)
    say(f"{name} is in {to}: use --encoder {name} --weights {to}")


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _cell(text: str, width: int) -> str:
    return (text if len(text) <= width else f"{text[: width - 3].rstrip(' ,;:')}...").ljust(width)


def _terms(spec: EncoderSpec) -> str:
    notes = [text for text, holds in (("gated", spec.gated), ("non-commercial", spec.non_commercial)) if holds]
    return f"{spec.licence} ({', '.join(notes)})" if notes else spec.licence


def _as_json(spec: EncoderSpec) -> dict[str, Any]:
    """The fields that all encoders have; preprocessing as it goes into the fingerprint, None where the weights say."""
    how = spec.preprocessing or spec.volume
    data = {name: value for name, value in asdict(spec).items() if name in _SHOWN}
    more = {"takes": spec.takes, "works_offline_now": registry.at_hand(spec)}
    return {**data, "preprocessing": how.as_json() if how else None, **more}
