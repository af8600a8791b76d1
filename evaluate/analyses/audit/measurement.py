"""An audit of a collection, from its images to the report."""

from dataclasses import replace

from cbmir.device import place
from cbmir.encoders.contamination import contamination
from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.audit.confounders import find_confounders
from cbmir.evaluate.analyses.audit.confounding import measure_confounding
from cbmir.evaluate.analyses.audit.copies import find_copies
from cbmir.evaluate.analyses.audit.patients import find_shared_patients, splits_of
from cbmir.evaluate.analyses.audit.report import AuditReport
from cbmir.evaluate.analyses.audit.terms import AuditTerms
from cbmir.evaluate.analyses.retrieval.measurement import patients
from cbmir.evaluate.header import PatientCounts
from cbmir.evaluate.protocol import wording
from cbmir.evaluate.ranking.trial import NONE, read_trial
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
    trial = read_trial(collection, protocol, ("split", "dataset", *fields), keep_unlabelled=True)
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
        confounding=measure_confounding(collection, trial, fields),
        datasets=datasets,
        contamination=tuple(contamination(collection.card, datasets)),
    )
