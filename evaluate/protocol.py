"""Which images ask, which are searched, and which answers count as right: the terms of a measurement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cbmir.errors import CutoffError, FilterError, ProtocolError
from cbmir.filters import Condition, Where, parse, resolve
from cbmir.store import Collection
from evaluate.metrics import METRICS

EVERYTHING = "all"
LABELS = ("primary_label", "labels", "modality", "anatomic_region", "pathology")
MAX_K = 100
NAMED = 10
"""How many existing values a message names."""

Search = Literal["exact", "approximate"]
SEARCHES: tuple[Search, ...] = ("exact", "approximate")

_TEST: Where = (Condition("split", "=", ("test",)),)
_TRAIN: Where = (Condition("split", "=", ("train",)),)


def conditions(texts: Sequence[str]) -> Where:
    """Read conditions of the filter language that must all hold; ``all`` stands for no condition.

    Raises:
        FilterError: one of them can't be read.
    """
    return tuple(parse(text) for text in texts if text.strip() != EVERYTHING)


def wording(where: Where) -> str:
    """A filter as people write it; the inverse of `conditions`."""
    parts = [f"{item.field}{item.op}{'|'.join(str(value) for value in item.values)}" for item in where]
    return " and ".join(parts) or EVERYTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalProtocol:
    """The terms of a retrieval measurement.

    The published protocol asks with validation and test images: ``queries=conditions(["split=val|test"])``.

    Attributes:
        queries: Which images ask.
        gallery: Which images are searched; may overlap with the queries, a query never finds itself.
        label: Field that decides relevance, one of `LABELS`: images that share a value of it are relevant to each
            other. Its first value is the query's class, over which macro means are taken.
        measures: Names of `METRICS`.
        k: Cutoffs, 1 to `MAX_K`.
        searches: ``exact``, a scan of all vectors, and ``approximate``, what users of the collection get.
        same_patient: Whether gallery images of the query's own patient may be found and count as relevant.

    Raises:
        ProtocolError: a label field, measure or search is unknown, or nothing is asked for.
        CutoffError: a cutoff is out of range.
    """

    queries: Where = _TEST
    gallery: Where = _TRAIN
    label: str = "primary_label"
    measures: tuple[str, ...] = ("precision_capped", "precision")
    k: tuple[int, ...] = (1, 3, 5, 10)
    searches: tuple[Search, ...] = SEARCHES
    same_patient: bool = False

    def __post_init__(self) -> None:
        _known("label field", (self.label,), LABELS)
        _known("measure", self.measures, tuple(METRICS))
        _known("search", self.searches, SEARCHES)
        if not self.k or not all(1 <= k <= MAX_K for k in self.k):
            raise CutoffError(f"k is {', '.join(map(str, self.k)) or 'missing'}; cutoffs lie in 1 to {MAX_K}")

    @property
    def depth(self) -> int:
        """Places to retrieve: the largest cutoff."""
        return max(self.k)


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
        raise ProtocolError(f"no image for the {role} ({wording(where)}): {error}") from error
    if collection.count(resolved) == 0:
        splits = _listed(collection.facet("split", limit=NAMED))
        raise ProtocolError(
            f"no image for the {role}: none of the {collection.count():,} in {collection.name} satisfies "
            f"{wording(where)}; choose others with --{role} (splits there: {splits or 'none'})"
        )
    return resolved


def unlabelled(collection: Collection, where: Where, label: str, role: str) -> ProtocolError:
    """The error for images of which none has the label field; names the fields that they have."""
    there = [field for field in LABELS if collection.facet(field, where, limit=1)]
    return ProtocolError(
        f"none of the {collection.count(where):,} images of the {role} in {collection.name} has {label}; "
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
