"""``cbmir evaluate audit``: what makes the results of a collection look better than they are."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from cbmir.device import place
from cbmir.encoders.contamination import contamination
from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.audit.confounding import measure_confounding
from cbmir.evaluate.analyses.audit.copies import find_copies
from cbmir.evaluate.analyses.audit.patients import find_shared_patients, splits_of
from cbmir.evaluate.analyses.audit.report import AuditReport
from cbmir.evaluate.analyses.audit.terms import USUAL, USUAL_EXTRA, AuditTerms, find_confounders
from cbmir.evaluate.analysis import analysis
from cbmir.evaluate.configuration import Option, Texts, Written
from cbmir.evaluate.header import PatientCounts
from cbmir.evaluate.options import Excluding, OneSearch
from cbmir.evaluate.protocol import BOTH, MAX_K, wording
from cbmir.evaluate.ranking.description import in_several_datasets, patients
from cbmir.evaluate.ranking.session import Session
from cbmir.evaluate.ranking.trial import NONE
from cbmir.evaluate.results import Result
from cbmir.filters import resolve
from cbmir.schema import SPLITS
from cbmir.store import Collection


def audit_collection(collection: Collection, terms: AuditTerms | None = None) -> AuditReport:
    """Look for what makes figures of a collection look better than they are.

    Holds all vectors that are looked at in memory.

    Args:
        collection: What is audited.
        terms: What is looked at and how; the default looks at all images.

    Raises:
        ProtocolError: there are no such images, a confounder doesn't exist, or the collection lost images meanwhile.
        FilterError: the filter names a value that doesn't exist.
    """
    terms = terms or AuditTerms()
    where = resolve(terms.where, collection)
    if not collection.count(where):
        raise ProtocolError(
            f"no image to audit: none of the {collection.count():,} in {collection.name} satisfies {wording(where)}"
        )
    fields = find_confounders(collection, where, terms.confounders)
    protocol = replace(terms.protocol, queries=where, gallery=where)
    session = Session(collection)
    trial = session.trial(protocol, ("split", "dataset", *fields), keep_unlabelled=True)
    copies, pairs = find_copies(collection, trial, terms.threshold, place(terms.device, "fp32").device)
    splits = splits_of(trial)
    datasets = collection.facet("dataset", where)
    info = collection.info()
    return AuditReport(
        collection=collection.name,
        store=info.engine,
        vectors=info.points,
        encoder=collection.card,
        terms=terms,
        images=len(trial.gallery),
        splits={name: int((splits == code).sum()) for code, name in enumerate(SPLITS) if (splits == code).any()},
        unlabelled=trial.without_label(trial.gallery),
        people=PatientCounts.of(patients(trial)),
        queried=PatientCounts.of(patients(trial)[trial.classes != NONE]),
        copies=copies,
        pairs=pairs,
        patients=find_shared_patients(trial),
        confounding=measure_confounding(session, trial, fields),
        datasets=datasets,
        ids_in_several_datasets=in_several_datasets(trial),
        contamination=tuple(contamination(collection.card, datasets)),
    )


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
    search: OneSearch = BOTH[0]
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
    from cbmir.evaluate.analyses.audit.terms import AuditTerms

    terms = AuditTerms(
        where=asked.where,
        label=asked.label,
        unlabelled=asked.unlabelled,  # type: ignore[arg-type]  # checked
        k=asked.k,
        threshold=asked.threshold,
        confounders=asked.confounders or None,
        exclude=asked.exclude,
        search=asked.search,
        draws=asked.draws,
        seed=asked.seed,
        interval=asked.interval,  # type: ignore[arg-type]  # checked
        patients=asked.patients,  # type: ignore[arg-type]  # checked
        device=asked.device,
    )
    report = audit_collection(collection, terms).of("audit", asked)
    if asked.pairs:
        report.pairs.write(asked.pairs, report.asked)
    return report
