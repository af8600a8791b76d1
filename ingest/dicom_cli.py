"""Options of DICOM for ``cbmir ingest images``, and ``cbmir ingest where``: from an image back to its file."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cbmir.errors import KeyFileError
from cbmir.ingest.privacy.labels import JOINS
from cbmir.ingest.sources.dicom import DicomSource
from cbmir.ingest.sources.dicom_kinds import OPTIONAL
from cbmir.ingest.sources.dicom_options import DicomOptions, read_aliases
from cbmir.keyfile import VARIABLE, default_place, read_key
from cbmir.media.dicom_places import Places
from cbmir.media.dicom_regions import read_rules
from cbmir.media.dicom_settings import WINDOWS
from cbmir.options import EXIT_FAILURES, echo, json_option, print_json, say

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def key_option(command: F) -> F:
    """``--dicom-key``, kept in the environment while the command runs."""

    def keep(context: click.Context, _: click.Parameter, value: Path | None) -> None:
        if value is None:
            return
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(value)
        context.call_on_close(
            lambda: os.environ.pop(VARIABLE) if before is None else os.environ.update({VARIABLE: before})
        )

    return click.option(
        "--dicom-key",
        type=click.Path(dir_okay=False, path_type=Path),
        expose_value=False,
        callback=keep,
        metavar="FILE",
        help=f"Key that identifiers of DICOM are hashed with; one in your configuration unless given (or {VARIABLE}).",
    )(command)


def dicom_options(command: F) -> F:
    """How DICOM is read, passed together as `dicom`."""

    @functools.wraps(command)
    def with_dicom(*args: Any, **options: Any) -> Any:
        rules, aliases = options.pop("region_words"), options.pop("patient_aliases")
        dicom = DicomOptions(
            window=options.pop("window"),
            frames=options.pop("frames"),
            include=frozenset(options.pop("include")),
            derived=not options.pop("no_derived"),
            rules=read_rules(rules) if rules else (),
            aliases=read_aliases(aliases) if aliases else {},
            labels=options.pop("labels_from"),
            labels_by=options.pop("labels_by"),
            take=options.pop("take"),
            dry=bool(options.get("dry_run")),
        )
        return command(*args, dicom=dicom, **options)

    wrapped: Any = with_dicom
    for option in (
        click.option(
            "--audit",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Of DICOM: JSON lines of what was kept and dropped; audit-COLLECTION.jsonl unless given.",
        ),
        click.option(
            "--patient-aliases",
            type=_FILE,
            metavar="FILE",
            help="Of DICOM: CSV of merged patient ids, columns old, new.",
        ),
        click.option(
            "--region-words",
            type=_FILE,
            metavar="FILE",
            help="Of DICOM: CSV of more words for body regions, columns words (separated by |) and region.",
        ),
        click.option(
            "--labels-by",
            type=click.Choice(JOINS),
            help="Of DICOM: the identifier that --labels-from is joined on; the narrowest that it has unless given.",
        ),
        click.option(
            "--labels-from",
            type=_FILE,
            metavar="TABLE",
            help="Of DICOM: table of labels and splits, by patient, study, series, SOP instance or accession.",
        ),
        click.option(
            "--take",
            type=click.Choice(["auto", "dicom", "pictures"]),
            default="auto",
            show_default=True,
            help="What of a folder is taken; auto: DICOM where there is any, otherwise pictures and volumes.",
        ),
        click.option("--no-derived", is_flag=True, help="Of DICOM: leave out computed slices, such as MPR, MIP, ADC."),
        click.option(
            "--include",
            multiple=True,
            type=click.Choice(list(OPTIONAL)),
            help="Of DICOM: take these, which are passed over otherwise. Repeatable.",
        ),
        click.option(
            "--frames",
            default="all",
            show_default=True,
            metavar="all|key|N",
            help="Of DICOM files with several frames: all, the key frame, or every N-th.",
        ),
        click.option(
            "--window",
            default="auto",
            show_default=True,
            metavar="|".join((*WINDOWS, "LO,HI")),
            help="Of DICOM: which values become black and white; auto is by modality and region, dicom the header's.",
        ),
        key_option,
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def write_audit(source: Any, path: Path | None, collection: str) -> None:
    """Write the account of a source of DICOM; of others there is none."""
    if isinstance(source, DicomSource):
        file = path or Path(f"audit-{collection}.jsonl")
        source.audit.write(file)
        say(f"what was kept, shifted, hashed and dropped of each DICOM file: {file}")


@click.command("where")
@click.argument("names", nargs=-1, required=True, metavar="dicom:HASH#FRAME...")
@key_option
@json_option
def where_(names: tuple[str, ...], as_json: bool) -> int:
    """Print where the DICOM files of stored images are on this machine; for whoever has the key.

    Names are stored file paths, or those in a table of failures.
    """
    place = default_place()
    key = read_key(place)
    if key is None:
        raise KeyFileError(f"there is no key file {place}: name it with --dicom-key FILE")
    known = {name: [str(found) for found in Places(key).find(_hash(name))] for name in names}
    if as_json:
        print_json(known)
    else:
        for name, found in known.items():
            for path in found:
                echo(path)
            if not found:
                say(f"{name}: not known on this machine by the key of check value {key.check}")
    return 0 if all(known.values()) else EXIT_FAILURES


def _hash(name: str) -> str:
    return name.rpartition(":")[2].partition("#")[0]
