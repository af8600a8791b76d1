"""The type of ``--search``: the name of a ranker, with those that were added since the commands were built."""

from typing import Any

import click

from cbmir.evaluate.protocol import searches


class SearchName(click.ParamType["str"]):
    """One of `searches`, shown and refused as `click.Choice` does it.

    Attributes:
        more: Further words that the command takes.
    """

    name = "search"

    def __init__(self, *more: str) -> None:
        self.more = more

    @property
    def _choice(self) -> "click.Choice[str]":
        return click.Choice([*searches(), *self.more])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if there is such a ranker."""
        return self._choice.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """The names, for the help."""
        return self._choice.get_metavar(param, ctx)
