"""``cbmir evaluate classify``: how well the nearest images predict classes."""

from typing import Annotated

from pydantic import Field

from cbmir.evaluate.analyses.classification.options import ClassMeasures, ConfusionFile, Validation
from cbmir.evaluate.analyses.classification.report import MEASURES
from cbmir.evaluate.analyses.classification.votes import TEMPERATURE, VOTES
from cbmir.evaluate.analysis import analysis
from cbmir.evaluate.configuration import (
    Excluding,
    Grouped,
    OneOf,
    OneSearch,
    Option,
)
from cbmir.evaluate.protocol import MAX_K, SEARCHES, RetrievalProtocol, conditions
from cbmir.evaluate.results import Result
from cbmir.store import Collection


class ClassifyConfiguration(Grouped, Excluding):
    """What ``classify`` can be asked."""

    val: Validation = conditions(["split=val"])
    measures: ClassMeasures = MEASURES
    vote: Annotated[str, OneOf("vote", lambda: VOTES), Option("How neighbours count.")] = VOTES[0]
    temperature: Annotated[float, Field(gt=0), Option("Of the softmax vote.")] = TEMPERATURE
    k: Annotated[
        Annotated[int, Field(ge=1, le=MAX_K)] | None,
        Option("Neighbours that vote.", default="the best on the validation images"),
    ] = None
    max_k: Annotated[int, Field(ge=1, le=MAX_K), Option("The largest k that is tried.")] = 100
    rules: Annotated[
        str,
        OneOf("protocol", lambda: ("default", "paper")),
        Option(
            "paper: as many neighbours vote as the gallery has images of the true class, and k is one below the best, "
            "as in the published program. Only for comparison with it: its values are too high.",
            name="protocol",
        ),
    ] = "default"
    search: OneSearch = SEARCHES[0]
    confusion: ConfusionFile = None

    @property
    def protocol(self) -> RetrievalProtocol:
        """Queries, gallery and label; k has another meaning here."""
        return RetrievalProtocol(**{**self._terms(), "k": (1,), "measures": ("precision",)}, searches=(self.search,))


@analysis("classify", ClassifyConfiguration)
def classify(collection: Collection, asked: ClassifyConfiguration) -> Result:
    """Measure how well the nearest gallery images predict the classes of the queries.

    Each query gets the class that most of its k nearest gallery images have. The filter options narrow queries, gallery
    and validation images. A query never finds itself, and by default no image of its own patient. Where images have
    several values of the label, each value is predicted separately.
    """
    from cbmir.evaluate.analyses.classification.classify import VoteRules
    from cbmir.evaluate.analyses.classification.knn import KnnTerms, evaluate_classification

    rules = VoteRules(vote=asked.vote, temperature=asked.temperature, k=asked.k, paper=asked.rules == "paper")  # type: ignore[arg-type]  # checked
    terms = KnnTerms(rules=rules, max_k=asked.max_k, val=asked.val + asked.where, measures=asked.measures)
    report = evaluate_classification(collection, asked.protocol, terms).of("classify", asked)
    if asked.confusion:
        report.write_confusion(asked.confusion)
    return report
