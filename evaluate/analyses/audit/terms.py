"""On which terms a collection is audited."""

from dataclasses import dataclass

from cbmir.errors import ProtocolError
from cbmir.evaluate.protocol import RetrievalProtocol, Unlabelled
from cbmir.evaluate.significance import DRAWS
from cbmir.filters import Where


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
            device=self.device,
        )
