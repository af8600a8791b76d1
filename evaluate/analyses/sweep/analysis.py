"""``cbmir evaluate sweep``: how good is the encoder with a smaller gallery?."""

from typing import Annotated

from pydantic import AfterValidator, Field

from cbmir.evaluate.analyses.sweep.galleries import UNITS, Size
from cbmir.evaluate.analysis import analysis
from cbmir.evaluate.configuration import (
    CutoffsOption,
    Excluding,
    Grouped,
    Listed,
    MeasuresOption,
    OneOf,
    Option,
    Relations,
    Unique,
)
from cbmir.evaluate.protocol import RetrievalProtocol
from cbmir.evaluate.results import Result
from cbmir.store import Collection


class SweepConfiguration(Grouped, Excluding):
    """What ``sweep`` can be asked."""

    measures: MeasuresOption = ("precision_capped", "precision")
    k: CutoffsOption = (1, 10)
    relations: Relations = None
    sizes: Annotated[
        tuple[Annotated[str, AfterValidator(lambda text: str(Size.read(text)))], ...],
        Listed,
        Unique,
        Option(
            "Images in a smaller gallery, or their share of the whole one. Repeatable.", name="size", metavar="N|P%"
        ),
    ] = ("1%", "2%", "5%", "10%", "20%", "50%", "100%")
    galleries: Annotated[
        int, Field(ge=1), Option("Random galleries of each size; --seed is the seed of these draws too.")
    ] = 3
    unit: Annotated[
        str,
        OneOf("unit to draw", lambda: UNITS),
        Option(
            "What is drawn. Whole patients come as near to a size as they can; an image without a patient id is drawn "
            "alone."
        ),
    ] = UNITS[0]

    @property
    def protocol(self) -> RetrievalProtocol:
        """The retrieval task."""
        return RetrievalProtocol(**self._terms(), searches=("exact",))


@analysis("sweep", SweepConfiguration)
def sweep(collection: Collection, asked: SweepConfiguration) -> Result:
    """Measure retrieval with smaller and smaller galleries, drawn at random from the whole one.

    Galleries of one draw are nested. Each is judged by itself: its relevant images, its coverage and its classes are
    those of a collection that holds nothing else. Read precision_capped and other measures that leave out queries
    without a relevant image together with coverage: small galleries leave out the rare classes. The search is always
    exact, as an approximate index can't be made smaller. Intervals say how much a value would change with other
    patients among the queries; lowest and highest, how much it changed between galleries of one size.
    """
    from cbmir.evaluate.analyses.sweep.measurement import SweepTerms, evaluate_sweep

    terms = SweepTerms(sizes=tuple(map(Size.read, asked.sizes)), galleries=asked.galleries, unit=asked.unit)
    return evaluate_sweep(collection, asked.protocol, terms)
