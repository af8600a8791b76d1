"""The analyses as functions for notebooks: plain arguments in, a result out that prints as a table.

A collection is one of `cbmir.connect`, or one that `cbmir.store.open_store` opened. Arguments that several functions
share are those of `Shared`.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, get_type_hints

from cbmir.errors import ProtocolError
from cbmir.evaluate.analysis import Chosen
from cbmir.store import Collection, Store

if TYPE_CHECKING:
    from cbmir import api
    from cbmir.evaluate.analyses.audit.report import AuditReport
    from cbmir.evaluate.analyses.classification.probe import ProbeReport
    from cbmir.evaluate.analyses.classification.report import ClassificationReport
    from cbmir.evaluate.analyses.comparison_report import ComparisonReport
    from cbmir.evaluate.analyses.recall import RecallReport
    from cbmir.evaluate.analyses.report.report import Report
    from cbmir.evaluate.analyses.retrieval_report import RetrievalReport
    from cbmir.evaluate.analyses.sweep_report import SweepReport

    AnyCollection = Collection | api.Collection

Texts = str | Sequence[str]
"""One text or several."""


class Shared(TypedDict, total=False):
    """Arguments of most analyses; see `cbmir.evaluate.protocol.RetrievalProtocol` for what they mean.

    Attributes:
        queries: Conditions on the images that ask, such as ``split=test and sex=F``; ``all`` for everything.
        gallery: Conditions on the images that are searched.
        where: Conditions on both.
        label: Field that decides what is relevant.
        relevance: ``any``, ``exact`` or ``jaccard``.
        unlabelled: ``exclude`` or ``include``.
        relations: YAML file of graded relations, for ndcg.
        exclude: ``patient``, ``study``, ``series``, ``dataset``; an empty list for only the query itself.
        by: Fields or own columns for whose values figures are given apart.
        patients: ``dataset`` or ``global``: where a patient id means the same patient.
        draws: Of the bootstrap; 0 for no intervals.
        seed: Of the bootstrap.
        interval: ``expanded``, ``percentile``, ``bca`` or ``wilson``.
        device: Of the exact search.
    """

    queries: Texts
    gallery: Texts
    where: Texts
    label: str
    relevance: str
    unlabelled: str
    relations: str | Path
    exclude: Texts
    by: Texts
    patients: str
    draws: int
    seed: int
    interval: str
    device: str


def retrieval(
    collection: "AnyCollection",
    *,
    k: int | Sequence[int] = (1, 3, 5, 10),
    measures: Texts = ("precision_capped", "precision"),
    search: Texts = "exact",
    **shared: Unpack[Shared],
) -> "RetrievalReport":
    """How well a collection retrieves: P@k, mAP, nDCG and others of `METRICS`, with intervals over patients.

    Args:
        collection: What is measured.
        k: Cutoffs.
        measures: Names of `METRICS`.
        search: ``exact``, ``approximate``, ``qdrant-exact`` or ``qdrant``; several are compared.
        shared: See `Shared`.

    Raises:
        ProtocolError: a name or a value is unknown, or there are no queries, no gallery or no labels.
        FilterError: a condition can't be read.
    """
    result: RetrievalReport = _run("retrieval", _opened(collection), shared, k=k, measures=measures, search=search)
    return result


def classify(
    collection: "AnyCollection",
    *,
    k: int | None = None,
    max_k: int = 100,
    vote: str = "mean",
    val: Texts = "split=val",
    paper: bool = False,
    **shared: Unpack[Shared],
) -> "ClassificationReport":
    """How well the nearest gallery images tell the classes of the queries.

    Args:
        collection: What is measured.
        k: Neighbours that vote; None chooses the best of 1 to `max_k` on the validation images.
        max_k: The largest k that is tried.
        vote: ``mean`` or ``softmax``.
        val: Conditions on the validation images.
        paper: Vote as the published program does; for comparison only, its figures are too high.
        shared: See `Shared`.

    Raises:
        ProtocolError: a name or a value is unknown, or images or labels are missing.
    """
    rules = "paper" if paper else "default"
    result: ClassificationReport = _run(
        "classify", _opened(collection), shared, k=k, max_k=max_k, vote=vote, val=val, rules=rules
    )
    return result


def probe(
    collection: "AnyCollection",
    *,
    val: Texts = "split=val",
    shots: int | Sequence[int] = (),
    paper: bool = False,
    epochs: int = 100,
    learning_rate: float = 1e-3,
    **shared: Unpack[Shared],
) -> "ProbeReport":
    """How well a linear layer on the vectors of the gallery tells the classes of the queries.

    Args:
        collection: What is measured.
        val: Conditions on the validation images, on which the penalty is chosen, or training stops.
        shots: Also train on so many images a class.
        paper: Train with AdamW and fixed settings, as the published program does.
        epochs: At most, with `paper`.
        learning_rate: Of AdamW, with `paper`.
        shared: See `Shared`; `exclude` has no part.

    Raises:
        ProtocolError: a name or a value is unknown, or images or labels are missing.
    """
    if "exclude" in shared:
        raise ProtocolError("exclude has no part in a probe, which learns from all of the gallery")
    rules = "paper" if paper else "default"
    own = {"val": val, "shots": shots, "rules": rules, "epochs": epochs, "learning_rate": learning_rate}
    result: ProbeReport = _run("probe", _opened(collection), shared, **own)
    return result


def compare(
    collections: "Sequence[AnyCollection]",
    *,
    k: int | Sequence[int] = 1,
    measures: Texts = "precision_capped",
    search: str = "exact",
    **shared: Unpack[Shared],
) -> "ComparisonReport":
    """Collections against each other on the queries that all have, with paired tests over patients.

    Args:
        collections: Two or more.
        k: Cutoffs; each adds to the tests that are corrected for.
        measures: Names of `METRICS`.
        search: One of the searches of `retrieval`.
        shared: See `Shared`; `by` has no part.

    Raises:
        ProtocolError: there are fewer than two, a name or a value is unknown, or no query is in all.
    """
    if "by" in shared:
        raise ProtocolError("by has no part in a comparison; narrow it with where, such as where='modality=CT'")
    opened = [_opened(item) for item in collections]
    result: ComparisonReport = _run("compare", opened, shared, k=k, measures=measures, search=search)
    return result


def recall(
    collection: "AnyCollection", *, queries: Texts = (), k: int = 10, count: int = 200, seed: int = 0
) -> "RecallReport":
    """Recall and time of the search that users get, and of the HNSW graph alone, by filter.

    Args:
        collection: What is measured.
        queries: Conditions on the stored images that are drawn as queries.
        k: Neighbours a query.
        count: Queries.
        seed: Of the draw.

    Raises:
        ProtocolError: there are no queries.
        CutoffError: k is out of range.
    """
    result: RecallReport = _run("recall", _opened(collection), {}, queries=queries, k=k, count=count, seed=seed)
    return result


def audit(  # noqa: PLR0913  its terms are its arguments
    collection: "AnyCollection",
    *,
    where: Texts = (),
    label: str = "primary_label",
    threshold: float = 0.99,
    k: int = 10,
    confounders: Texts | None = None,
    exclude: Texts = ("patient",),
) -> "AuditReport":
    """What makes the figures of a collection look better than they are.

    Args:
        collection: What is looked through.
        where: Conditions on the images.
        label: Field that neighbours should follow.
        threshold: Cosine from which images of two splits are near copies.
        k: Neighbours of the confounder index.
        confounders: Fields; None for the usual ones.
        exclude: As in `Shared`.

    Raises:
        ProtocolError: a name or a value is unknown, or there are no images.
    """
    own = {"where": where, "label": label, "threshold": threshold, "k": k, "exclude": exclude}
    result: AuditReport = _run("audit", _opened(collection), {}, **own, confounders=confounders or ())
    return result


def sweep(
    collection: "AnyCollection",
    *,
    sizes: Texts = ("1%", "2%", "5%", "10%", "20%", "50%", "100%"),
    galleries: int = 3,
    k: int | Sequence[int] = (1, 3, 5, 10),
    measures: Texts = ("precision_capped", "precision"),
    **shared: Unpack[Shared],
) -> "SweepReport":
    """Retrieval with smaller and smaller galleries, drawn at random from the whole one.

    Args:
        collection: What is measured.
        sizes: Images, as ``1000``, or parts, as ``10%``.
        galleries: Draws of each size.
        k: Cutoffs.
        measures: Names of `METRICS`.
        shared: See `Shared`.

    Raises:
        ProtocolError: a name or a value is unknown, or no size fits.
    """
    own = {"sizes": sizes, "galleries": galleries, "k": k, "measures": measures}
    result: SweepReport = _run("sweep", _opened(collection), shared, **own)
    return result


def report(  # noqa: PLR0913  its terms are its arguments
    store: "Store | api.Store",
    collections: Texts = (),
    *,
    out: str | Path | None = None,
    k: int | Sequence[int] = (1, 5, 10),
    root: str | Path | None = None,
    pictures: int = 6,
    allow_missing: bool = False,
    **shared: Unpack[Shared],
) -> "Report":
    """One page about collections: figures, charts, comparison, and the best and worst queries as pictures.

    Args:
        store: Holds the collections.
        collections: Names; none for all.
        out: Folder that the page and its files are written to; None writes none.
        k: Cutoffs.
        root: Folder of the stored images, where they are no longer where ingest read them.
        pictures: Queries shown of each collection; 0 for none.
        allow_missing: Whether images that can't be shown are no failure.
        shared: See `Shared`.

    Raises:
        ProtocolError: a name or a value is unknown.
        SourceError: the images are not where they should be.
        CbmirError: a file can't be written.
    """
    core = store if isinstance(store, Store) else store.core
    names = (collections,) if isinstance(collections, str) else tuple(collections)
    own = {"k": k, "root": root, "pictures": pictures, "allow_missing": allow_missing}
    made: Report = _run("report", Chosen(core, names), shared, **own)
    if out is not None:
        made.write(Path(out))
    return made


def _opened(collection: "AnyCollection") -> Collection:
    found = getattr(collection, "core", collection)
    if not isinstance(found, Collection):
        raise ProtocolError(
            f"{collection!r} is no collection: give one of a store, such as cbmir.connect('data/store')['NAME']"
        )
    return found


def _run(name: str, collections: Any, shared: Mapping[str, Any], **own: Any) -> Any:
    from cbmir.evaluate.registry import ANALYSES

    analysis = ANALYSES[name]
    known = list(dict.fromkeys([*get_type_hints(Shared), *analysis.configuration.model_fields]))
    if unknown := [key for key in shared if key not in known]:
        near = difflib.get_close_matches(unknown[0], known, 2)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise ProtocolError(f"there is no argument {unknown[0]!r}; {meant}there are {', '.join(known)}")
    return analysis.run(collections, analysis.configuration(**{**shared, **own}))
