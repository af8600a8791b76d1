"""The root command ``cbmir``. Subcommands are imported when they are called, so that ``--help`` imports no torch."""

import importlib
from typing import Any

import click

from cbmir import __version__

_COMMANDS = {
    "ingest": ("cbmir.ingest.cli:ingest", "Embed images, or take embeddings, into a collection."),
    "search": ("cbmir.search.cli:search", "Find the stored images most similar to an image."),
    "serve": ("cbmir.search.api.cli:serve", "Serve searches over HTTP, and a page for people."),
    "key": ("cbmir.search.api.cli:key", "Make a key for `cbmir serve`."),
    "evaluate": ("cbmir.evaluate.cli:evaluate", "Measure how well a collection retrieves."),
    "collections": ("cbmir.collections.cli:collections", "List, show and drop collections."),
    "encoders": ("cbmir.encoders.cli:encoders", "List the encoders known by name."),
    "doctor": ("cbmir.doctor:doctor_command", "Check store, collections and encoder, a line each."),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands, in the order of the work."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cbmir")
def cli(**_: Any) -> None:
    """Find similar medical images.

    Exit codes: 0 all well, 1 an error, 2 wrong usage, 3 finished with failures counted, 130 interrupted.
    """
