"""Options that the analyses by class have in common."""

from typing import Annotated

from pydantic import AfterValidator

from cbmir.evaluate.analyses.classification.report import MEASURES
from cbmir.evaluate.configuration import Conditions, Listed, OneOf, Option, Written

ClassMeasures = Annotated[
    tuple[Annotated[str, OneOf("measure", lambda: MEASURES)], ...],
    Listed,
    AfterValidator(lambda names: tuple(name for name in MEASURES if name in names)),
    Option(
        "Repeatable. For images with several labels, accuracy is reported as exact_match_accuracy.",
        name="measure",
        default="all",
    ),
]
Validation = Annotated[
    Conditions,
    Option("The validation images. Condition of the filter language. Repeatable: all must hold.", metavar="CONDITION"),
]
ConfusionFile = Annotated[Written | None, Option("Write the confusion matrix as CSV.", metavar="FILE")]
