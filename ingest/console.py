"""What the commands show of a run: how it goes, its report, and what failed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from tqdm import tqdm

from cbmir.ingest.deferred import Deferred
from cbmir.ingest.pipeline import Seen
from cbmir.ingest.remembering import remember_readings
from cbmir.ingest.report import SHOWN, Failure, IngestReport, write_failures
from cbmir.ingest.sources import ReadSource
from cbmir.ingest.tables.options import TableOptions
from cbmir.ingest.tables.reading import Reading
from cbmir.options import EXIT_FAILURES, EXIT_INTERRUPTED, print_json, say
from cbmir.paths import PathPrefixes
from cbmir.store import Collection

F = TypeVar("F", bound=Callable[..., Any])


class NeededToStore(click.Option):
    """A required option that may be missing with ``--dry-run``, where nothing is stored."""

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """As for any option; None for one that isn't needed."""
        try:
            return super().handle_parse_result(ctx, opts, args)
        except click.MissingParameter:
            if not opts.get("dry_run") or self.name is None:
                raise
            ctx.params[self.name] = None
            return None, args


def dry_run_option(command: F) -> F:
    """``--dry-run``, passed as `dry_run`."""
    return click.option(
        "--dry-run", is_flag=True, help="Show how SOURCE or the tables are read; load no encoder, store nothing."
    )(command)


def show_readings(sources: Sequence[ReadSource], as_json: bool, prefixes: PathPrefixes) -> tuple[Reading, ...]:
    """Say how sources are read: to people on stderr, or as JSON on stdout; the last warns of prefixes without use."""
    *others, last = [source.reading() for source in sources]
    unused = (f"--path-prefix {old}=...: no path begins so" for old in prefixes.unused)
    readings = (*others, replace(last, warnings=(*last.warnings, *unused)))
    if as_json:
        print_json({"reading": [reading.as_json() for reading in readings]})
    else:
        for reading in readings:
            say("\n".join(reading.lines()))
    return readings


def dry_run_code(readings: Sequence[Reading]) -> int:
    """The exit code of a dry run: that of an ingest in which as many rows fail."""
    return EXIT_FAILURES if any(reading.tally.failed for reading in readings) else 0


def finish(
    collection: Collection,
    report: IngestReport,
    failures: Path | None,
    as_json: bool,
    options: TableOptions | None = None,
) -> int:
    """Index and report; the report comes out even where the indexing is stopped or fails.

    The collection remembers how the sources were read, also where the run was interrupted.

    Returns:
        The exit code.
    """
    try:
        if report.stored or report.skipped:
            remember_readings(collection, report.readings, options)
        if not report.interrupted:
            with _line() as show:
                report.timed("index", lambda: collection.finish(show))
    finally:
        _conclude(report, failures, as_json)
        if isinstance(collection, Deferred) and collection.made is None:
            say(f"no image was stored: there is no collection {collection.name}")
    if report.interrupted:
        say("interrupted; run the same command again to go on")
        return EXIT_INTERRUPTED
    return EXIT_FAILURES if report.failures else 0


def seen_by(bar: "tqdm[Any]") -> Seen:
    """Shows how fast it goes, and which stage the others wait for."""

    def seen(count: int, stage: str) -> None:
        bar.set_postfix_str(f"waiting for: {stage}", refresh=False)
        bar.update(count)

    return seen


def failed(failures: list[Failure], path: Path) -> int:
    """Write down what failed; the exit code."""
    if not failures:
        return 0
    write_failures(failures, path)
    say(f"{len(failures):,} failed, {'with its' if len(failures) == 1 else 'each with its'} reason in {path}")
    for item in failures[:SHOWN]:
        say(f"  {item.filepath or item.place}: {item.reason}")
    if len(failures) > SHOWN:
        say(f"  and {len(failures) - SHOWN:,} more")
    return EXIT_FAILURES


@contextmanager
def _line() -> Iterator[Any]:
    """A line on stderr that is written over; nothing where stderr is no terminal."""
    with tqdm(bar_format="{desc}", disable=None, leave=False) as bar:
        yield bar.set_description_str


def _conclude(report: IngestReport, failures: Path | None, as_json: bool) -> None:
    for line in report.lines():
        say(line)
    if as_json:
        print_json(report.as_json())
    failed(report.failures, failures or Path(f"failures-{report.collection}.csv"))
