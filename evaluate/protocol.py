"""Which images ask, which are searched, and which answers count as right: the terms of a measurement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cbmir import filters
from cbmir.errors import CutoffError, FilterError, ProtocolError
from cbmir.evaluate.intervals import METHODS, Method
from cbmir.evaluate.metrics import METRICS
from cbmir.filters import Condition, Where, check_column, own_column, own_field, parse_all, resolve
from cbmir.schema import FIELDS, INDEXED_FIELDS
from cbmir.search.ranker import look_in, rankers
from cbmir.store import Collection
from cbmir.units import counted

EVERYTHING = "all"
LABELS = ("primary_label", "labels", "modality", "anatomic_region", "pathology")
CLASS = "class"
"""Groups by the class of the query."""

GROUPS = (*(field.name for field in INDEXED_FIELDS if field.kind == "keyword"), CLASS)
"""What results can be grouped by, besides own columns."""

MAX_GROUPS = 1000
"""Values of an own column that results are grouped by at most: each takes its own resamples."""
EXCLUDED = {"patient": "patient_id", "study": "study_id", "series": "series_id", "dataset": "dataset"}
"""What a query's own images can be kept out by, and the payload field that tells."""

GRADED = "ndcg"
"""The measure that takes graded relevance."""

MAX_K = 10_000
NAMED = 10
"""How many existing values a message names."""

BOTH = ("exact", "approximate")
"""A scan of all vectors, and the search that users get. These and others are rankers, see `searches`."""

RULES = ("any", "exact", "jaccard")

PatientsBy = Literal["dataset", "global"]
PATIENTS_BY: tuple[PatientsBy, ...] = ("dataset", "global")
"""Where a patient id means the same patient."""

Unlabelled = Literal["exclude", "include"]
UNLABELLED: tuple[Unlabelled, ...] = ("exclude", "include")
"""What becomes of images without a label: they are no queries and relevant to nobody, or they are a class."""

_TEST: Where = (Condition("split", "=", ("test",)),)
_TRAIN: Where = (Condition("split", "=", ("train",)),)


def searches() -> tuple[str, ...]:
    """The names of all rankers, sorted.

    ``exact`` is a scan of all vectors. ``approximate`` and ``qdrant`` are the search that users get, and
    ``qdrant-exact`` is a scan by the engine. Others can be added, see `cbmir.search.ranker`.
    """
    return tuple(rankers())


def conditions(texts: Sequence[str]) -> Where:
    """Read conditions of the filter language that must all hold; ``all`` stands for no condition.

    Raises:
        FilterError: one of them can't be read.
    """
    return parse_all(*(text for text in texts if text.strip() != EVERYTHING))


def wording(where: Where) -> str:
    """A filter as people write it; the inverse of `conditions`."""
    return filters.wording(where) or EVERYTHING


look_in("cbmir.evaluate.ranking")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalProtocol:
    """The terms of a retrieval measurement.

    The published protocol asks with validation and test images: ``queries=conditions(["split=val|test"])``.

    Attributes:
        queries: Which images ask.
        gallery: Which images are searched; may overlap with the queries, a query never finds itself.
        label: Field that decides relevance, one of `LABELS`. Its first value is the query's class, over which macro
            means are taken.
        relevance: Images are relevant to each other if they share ``any`` value of the label, if all values are the
            same (``exact``), or to the degree of their Jaccard index, from a half on (``jaccard``).
        unlabelled: Images without a value of the label. With ``exclude`` they are no queries, and in the gallery they
            may be found but are never relevant. With ``include`` they have one label more, "no label": relevant to each
            other under every rule of relevance, to no image with a label, and a class of their own.
        relations: File of graded relations of labels for ndcg; without one, see
            `cbmir.evaluate.ranking.rules.hierarchy`.
        measures: Names of `METRICS`.
        k: Cutoffs, 1 to `MAX_K`.
        searches: Names of rankers, see `searches`.
        exclude: Keys of `EXCLUDED`: gallery images that share the patient, the study, ... of the query are neither
            found nor relevant.
        patients: ``dataset``: a patient id means the same within its data set only, unless it is a keyed hash, see
            `cbmir.filters.scope_of`; study and series ids likewise. ``global``: it means the same everywhere.
        by: Fields of `GROUPS` and own columns for whose values figures are given apart.
        draws: Of the bootstrap that gives the intervals; 0 for none.
        seed: Of the bootstrap.
        interval: How the bootstrap gives intervals, one of `cbmir.evaluate.intervals.METHODS`.
        device: Of the exact search.

    Raises:
        ProtocolError: a label field, measure or search is unknown, or nothing is asked for.
        CutoffError: a cutoff is out of range.
    """

    queries: Where = _TEST
    gallery: Where = _TRAIN
    label: str = "primary_label"
    relevance: str = "any"
    unlabelled: Unlabelled = "exclude"
    relations: Path | None = None
    measures: tuple[str, ...] = ("precision_capped", "precision")
    k: tuple[int, ...] = (1, 3, 5, 10)
    searches: tuple[str, ...] = BOTH
    exclude: tuple[str, ...] = ("patient",)
    patients: PatientsBy = "dataset"
    by: tuple[str, ...] = ("modality",)
    draws: int = 10_000
    seed: int = 0
    interval: Method = "expanded"
    device: str = "auto"

    def __post_init__(self) -> None:
        _known("label field", (self.label,), LABELS)
        _known("measure", self.measures, tuple(METRICS))
        _known("search", self.searches, searches())
        _known("rule of relevance", (self.relevance,), RULES)
        _known("way with images without a label", (self.unlabelled,), UNLABELLED)
        _known("scope of patient ids", (self.patients,), PATIENTS_BY)
        _known("kind of interval", (self.interval,), METHODS)
        _known("thing to exclude by", self.exclude or ("patient",), tuple(EXCLUDED))
        for name in self.by:
            group_field(name)
        if not self.k or not all(1 <= k <= MAX_K for k in self.k):
            raise CutoffError(f"k is {', '.join(map(str, self.k)) or 'missing'}; cutoffs lie in 1 to {MAX_K}")

    @property
    def depth(self) -> int:
        """Places to retrieve: the largest cutoff."""
        return max(self.k)

    @property
    def graded(self) -> bool:
        """Whether a measure asks for graded relevance."""
        return GRADED in self.measures

    @property
    def excluded_fields(self) -> tuple[str, ...]:
        """Payload fields by which gallery images are excluded."""
        return tuple(EXCLUDED[name] for name in self.exclude)

    @property
    def fields(self) -> list[str]:
        """Payload fields that the measurement reads.

        The patient is always among them, as intervals are drawn over patients, and the hash, to find copies of files.
        """
        groups = (group_field(name) for name in self.by if name != CLASS)
        return list(dict.fromkeys((self.label, *groups, "patient_id", "sha256", *self.excluded_fields)))


def group_field(name: str) -> str:
    """The payload field of a group, or ``extra.`` and the name of an own column.

    Raises:
        ProtocolError: it is a payload field of another kind.
    """
    if name in FIELDS and name not in GROUPS:
        raise ProtocolError(f"results can't be grouped by {name}; there are {', '.join(GROUPS)}, and own columns")
    return name if name in GROUPS else own_field(name)


def check_groups(protocol: RetrievalProtocol, collection: Collection, found: Mapping[str, int]) -> None:
    """Refuse own columns that don't exist, and those with more values than can be told apart.

    Args:
        protocol: The terms.
        collection: Where the images are.
        found: By field, how many different values the images have.

    Raises:
        ProtocolError: the name is unknown, or there are more than `MAX_GROUPS` values.
    """
    for name in protocol.by:
        field = group_field(name)
        if own_column(field) is None:
            continue
        if not found[field]:
            try:
                check_column(name, collection)
            except FilterError as error:
                raise ProtocolError(f"--by {name}: {error}") from error
        if found[field] > MAX_GROUPS:
            raise ProtocolError(
                f"--by {name}: it has {counted(found[field], 'value')}, more than {MAX_GROUPS:,}; choose another column"
            )


def existing(where: Where, collection: Collection, role: str) -> Where:
    """A filter checked against the collection, with globs expanded.

    Args:
        where: The filter of the queries or of the gallery.
        collection: What it is checked against.
        role: ``queries`` or ``gallery``, for the message.

    Raises:
        ProtocolError: no image satisfies it; the message names values that exist.
    """
    try:
        resolved = resolve(where, collection)
    except FilterError as error:
        whom = "validation" if role == "val" else role
        raise ProtocolError(f"no image for the {whom} ({wording(where)}): {error}") from error
    if collection.count(resolved) == 0:
        splits = _listed(collection.facet("split", limit=NAMED))
        raise ProtocolError(
            f"no image for the {role}: none of the {collection.count():,} in {collection.name} satisfies "
            f"{wording(where)}; choose others with --{role} (splits there: {splits or 'none'})"
        )
    return resolved


def further_labels(collection: Collection, where: Where, label: str) -> int:
    """Labels of images beyond the first of each, which an evaluation by ``primary_label`` leaves out; else 0."""
    if label != "primary_label":
        return 0
    labels, first = (sum(collection.facet(field, where).values()) for field in ("labels", "primary_label"))
    return max(0, labels - first)


def unlabelled(collection: Collection, where: Where, label: str, role: str) -> ProtocolError:
    """The error for images of which none has the label field; names the fields that they have."""
    there = [field for field in LABELS if collection.facet(field, where, limit=1)]
    return ProtocolError(
        f"of {counted(collection.count(where), 'image')} of the {role} in {collection.name} none has {label}; "
        f"choose another --label, they have {', '.join(there) or 'none of ' + ', '.join(LABELS)}"
    )


def _known(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    if not given:
        raise ProtocolError(f"no {what} is asked for; there are {', '.join(known)}")
    for name in given:
        if name not in known:
            raise ProtocolError(f"no {what} {name!r}; there are {', '.join(known)}")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{value} {count:,}" for value, count in counts.items())
