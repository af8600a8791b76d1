"""``cbmir encoders``: which encoders are known by name."""

from dataclasses import asdict

import click

from cbmir.encoders.registry import specs
from cbmir.options import json_option, print_json


@click.group()
def encoders() -> None:
    """List the encoders known by name; any timm:NAME and open_clip:ARCH/TAG works besides."""


@encoders.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Print name, length of the vectors, licence, training data and source of the weights."""
    known = specs()
    if as_json:
        columns = ("name", "architecture", "weights", "licence", "trained_on", "dim")
        print_json([{key: value for key, value in asdict(spec).items() if key in columns} for spec in known])
        return
    for spec in known:
        click.echo(
            f"{spec.name:30} {spec.dim or '':>5}  {spec.licence}; trained on {spec.trained_on}; weights: {spec.weights}"
        )
    click.echo("timm:NAME, open_clip:ARCH/TAG     any network of these libraries, weights from the hub or --weights")
