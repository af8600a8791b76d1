"""``cbmir evaluate audit``: what makes the results of a collection look better than they are."""

from typing import Annotated

from pydantic import Field

from cbmir.evaluate.analyses.audit.confounders import USUAL, USUAL_EXTRA
from cbmir.evaluate.analysis import analysis
from cbmir.evaluate.configuration import (
    Excluding,
    Option,
    Texts,
    Written,
)
from cbmir.evaluate.protocol import MAX_K
from cbmir.evaluate.results import Result
from cbmir.store import Collection


class AuditConfiguration(Excluding):
    """What ``audit`` can be asked."""

    threshold: Annotated[
        float, Option("Images of two splits with at least this cosine are near copies.", metavar="COSINE")
    ] = 0.99
    confounders: Annotated[
        Texts,
        Option(
            "Payload field, or extra.NAME. Repeatable.",
            name="confounder",
            metavar="FIELD",
            default=f"{', '.join(USUAL)}, and what extra has of {', '.join(USUAL_EXTRA)}",
        ),
    ] = ()
    k: Annotated[int, Field(ge=1, le=MAX_K), Option("Neighbours of the confounder index.")] = 10
    pairs: Annotated[
        Written | None,
        Option("Write all pairs of near copies, .csv or .parquet, the nearest first.", metavar="FILE"),
    ] = None


@analysis("audit", AuditConfiguration)
def audit(collection: Collection, asked: AuditConfiguration) -> Result:
    """Look for what makes the results of a collection look better than they are.

    Near copies across splits; patients in two splits; confounders that neighbours follow more than the label; and data
    sets that the encoder has seen in training. Which cosine makes a near copy depends on the encoder: see the cosines
    of the nearest images, and look at the pairs.
    """
    from cbmir.evaluate.analyses.audit.measurement import audit_collection
    from cbmir.evaluate.analyses.audit.terms import AuditTerms

    terms = AuditTerms(
        where=asked.where,
        label=asked.label,
        unlabelled=asked.unlabelled,  # type: ignore[arg-type]  # checked
        k=asked.k,
        threshold=asked.threshold,
        confounders=asked.confounders or None,
        exclude=asked.exclude,
        draws=asked.draws,
        seed=asked.seed,
        device=asked.device,
    )
    report = audit_collection(collection, terms).of("audit", asked)
    if asked.pairs:
        report.pairs.write(asked.pairs, report.asked)
    return report
