"""On which terms a collection is audited."""

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from cbmir.errors import ProtocolError
from cbmir.evaluate.intervals import Method
from cbmir.evaluate.protocol import NAMED, PatientsBy, RetrievalProtocol, Unlabelled
from cbmir.evaluate.ranking.trial import SCROLL_IMAGES
from cbmir.evaluate.significance import DRAWS
from cbmir.filters import Where
from cbmir.schema import FIELDS
from cbmir.store import Collection


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTerms:
    """The terms of an audit.

    Attributes:
        where: Which images are looked at.
        label: Field of the label that neighbours should follow, one of `cbmir.evaluate.protocol.LABELS`; images that
            share a value of it have the same label.
        unlabelled: See `cbmir.evaluate.protocol.RetrievalProtocol`: whether images without a label are a class of the
            confounder index.
        k: Neighbours an image in the confounder index, 1 to `cbmir.evaluate.protocol.MAX_K`.
        threshold: Cosine from which images of two splits are near copies, above -1 and at most 1.
        confounders: Payload fields or ``extra.NAME``; None for the usual ones that the images have.
        exclude: Keys of `cbmir.evaluate.protocol.EXCLUDED`: what an image doesn't find among its neighbours.
        draws: Of the bootstrap that gives the intervals; 0 for none.
        seed: Of the bootstrap.
        interval: How it gives intervals, one of `cbmir.evaluate.intervals.METHODS`.
        patients: Where a patient id means the same patient, see `cbmir.evaluate.protocol.RetrievalProtocol`.
        device: Of the exact search.
        search: How the neighbours of the confounder index are found, one of `cbmir.evaluate.protocol.searches`. Near
            copies are found by comparing all vectors, whatever it is.

    Raises:
        ProtocolError: the label field, the threshold or what to exclude by is unknown or out of range.
        CutoffError: k is out of range.
    """

    where: Where = ()
    label: str = "primary_label"
    unlabelled: Unlabelled = "exclude"
    k: int = 10
    threshold: float = 0.99
    confounders: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ("patient",)
    draws: int = DRAWS
    seed: int = 0
    interval: Method = "expanded"
    patients: PatientsBy = "dataset"
    device: str = "auto"
    search: str = "exact"

    def __post_init__(self) -> None:
        if not -1 < self.threshold <= 1:
            raise ProtocolError(f"the threshold is {self.threshold:g}; cosines of near copies lie above -1, 1 at most")
        _ = self.protocol  # checks the others

    @property
    def protocol(self) -> RetrievalProtocol:
        """Every image asks for its neighbours among all."""
        return RetrievalProtocol(
            queries=self.where,
            gallery=self.where,
            label=self.label,
            unlabelled=self.unlabelled,
            k=(self.k,),
            searches=(self.search,),
            exclude=self.exclude,
            by=(),
            draws=self.draws,
            seed=self.seed,
            interval=self.interval,
            patients=self.patients,
            device=self.device,
        )


USUAL = ("dataset", "view", "sex")
"""Payload fields that are looked at unless others are named."""

USUAL_EXTRA = ("site", "hospital", "institution", "scanner", "manufacturer", "model_name", "station", "plane")
"""The same below the field ``extra``, in upper or lower case."""

FITTING = tuple(
    name for name, field in FIELDS.items() if field.indexed and field.kind in ("keyword", "integer") and not field.many
)
"""Payload fields that can be confounders: those of one keyword or whole number."""

_EXTRA = "extra."


def find_confounders(collection: Collection, where: Where, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The fields to look at.

    Args:
        collection: Where the images are.
        where: Which of them are looked at.
        asked: Some of `FITTING`, or ``extra.NAME``; None for `USUAL` and what the images have of `USUAL_EXTRA`.

    Raises:
        ProtocolError: a field can't be a confounder or no image has it; the message names those there are.
    """
    needed = asked is None or any(name.startswith(_EXTRA) for name in asked)
    there = _extra_fields(collection, where) if needed else set()
    if asked is None:
        return (*USUAL, *sorted(name for name in there if name.removeprefix(_EXTRA).lower() in USUAL_EXTRA))
    for name in asked:
        if name.startswith(_EXTRA) and name not in there:
            listed = ", ".join(sorted(there)[:NAMED]) + (", ..." if len(there) > NAMED else "")
            raise ProtocolError(f"no image has {name}; they have {listed or 'nothing in extra'}")
        if not name.startswith(_EXTRA) and name not in FITTING:
            raise ProtocolError(f"{name!r} can't be a confounder; there are {', '.join(FITTING)} and extra.NAME")
    return tuple(dict.fromkeys(asked))


def _extra_fields(collection: Collection, where: Where) -> set[str]:
    """``extra.NAME`` of all that some image has in ``extra``."""
    there: set[str] = set()
    with tqdm(total=collection.count(where), desc="fields", unit="image", leave=False, disable=None) as bar:
        for points in collection.scroll(where, fields=["extra"], batch=SCROLL_IMAGES):
            there.update(_EXTRA + key for point in points for key in point.payload.get("extra", {}))
            bar.update(len(points))
    return there
