"""``cbmir evaluate run``: all analyses of some collections from one file."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import click

from cbmir.evaluate.analyses.experiment.plan import read_plan
from cbmir.evaluate.analyses.experiment.reference import read_reference
from cbmir.evaluate.analyses.experiment.run import run
from cbmir.options import EXIT_FAILURES, json_option, keyed, opened, print_json, say, store_key
from cbmir.store import Key


def run_command(commands: Mapping[str, click.Command]) -> click.Command:
    """The command that runs others.

    Args:
        commands: What an experiment may ask for, by name.
    """

    @click.command("run")
    @click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
    @click.option(
        "--store", "location", envvar="CBMIR_STORE", show_envvar=True, metavar="DIR|URL", help="Instead of the file's."
    )
    @click.option(
        "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Instead of the file's."
    )
    @click.option("--collection", "names", multiple=True, metavar="NAME", help="Instead of the file's. Repeatable.")
    @click.option("--again", is_flag=True, help="Do everything again.")
    @json_option
    def command(
        file: Path, location: str | None, out: Path | None, names: tuple[str, ...], again: bool, as_json: bool
    ) -> int:
        """Do all analyses that FILE asks for.

        FILE is TOML: a table for each command of cbmir evaluate, its keys the options; or a config.json of the paper's
        programs. A result whose collections, options and programs are the same as before is kept, not made again.
        """
        read = read_reference if file.suffix.lower() == ".json" else read_plan
        plan = read(file, commands)
        key = Key.of_host(plan.store) if plan.store and not location else store_key()
        location, out = location or plan.store, out or plan.out
        if not location or not out:
            raise click.UsageError(
                f"{file} doesn't say {'the store' if not location else 'where results go'}: give "
                f"--{'store' if not location else 'out'}"
            )
        plan = dataclasses.replace(plan, collections=names or plan.collections)
        outcomes = []
        with keyed(key), opened(location) as store:
            for outcome in run(plan, store, out, again=again):
                outcomes.append(outcome)
                say(str(outcome))
        if as_json:
            print_json([{**dataclasses.asdict(item), "file": str(item.file)} for item in outcomes])
        return EXIT_FAILURES if any(item.state == "failed" for item in outcomes) else 0

    return command
