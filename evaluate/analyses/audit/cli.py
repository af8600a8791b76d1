"""``cbmir evaluate audit``: what makes the figures of a collection look better than they are."""

from pathlib import Path
from typing import Any

import click

from cbmir.evaluate.analyses.audit.confounders import USUAL, USUAL_EXTRA
from cbmir.evaluate.analyses.audit.measurement import audit_collection
from cbmir.evaluate.analyses.audit.terms import AuditTerms
from cbmir.evaluate.options import out_option, terms_options, without
from cbmir.evaluate.protocol import MAX_K
from cbmir.options import echo, filter_options, json_option, opened_collection, print_json, store_option


@without("queries", "gallery", "relevance", "by")
@click.command("audit")
@store_option
@click.option("--collection", "name", metavar="NAME", help="Needed where the store holds several.")
@click.option(
    "--threshold",
    type=float,
    default=0.99,
    show_default=True,
    metavar="COSINE",
    help="Images of two splits with at least this cosine are near copies.",
)
@click.option(
    "--confounder",
    "confounders",
    multiple=True,
    metavar="FIELD",
    help="Payload field, or extra.NAME. Repeatable. "
    f"[default: {', '.join(USUAL)}, and what extra has of {', '.join(USUAL_EXTRA)}]",
)
@click.option(
    "-k", type=click.IntRange(1, MAX_K), default=10, show_default=True, help="Neighbours of the confounder index."
)
@terms_options
@click.option(
    "--pairs",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write all pairs of near copies, .csv or .parquet, the nearest first.",
)
@out_option
@filter_options
@json_option
def audit_command(location: str, name: str | None, as_json: bool, **options: Any) -> None:
    """Look for what makes the figures of a collection look better than they are.

    Near copies across splits; patients in two splits; confounders, by which neighbours are nearer than by label; and
    data sets that the encoder has seen in training. Which cosine makes a near copy depends on the encoder: see the
    cosines of the nearest images, and look at the pairs.
    """
    terms = AuditTerms(
        where=options["where"],
        label=options["label"],
        unlabelled=options["unlabelled"],
        k=options["k"],
        threshold=options["threshold"],
        confounders=options["confounders"] or None,
        exclude=() if options["include_same_patient"] else tuple(dict.fromkeys(options["exclude"])),
        draws=options["draws"],
        seed=options["seed"],
        device=options["device"],
    )
    with opened_collection(location, name) as collection:
        report = audit_collection(collection, terms)
    if as_json:
        print_json(report.as_json())
    else:
        echo(report.table())
    if options["out"]:
        report.write_csv(options["out"])
    if options["pairs"]:
        report.pairs.write(options["pairs"])
