"""``cbmir evaluate classify`` and ``cbmir evaluate probe``: what they can be asked."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.report import MEASURES
from cbmir.evaluate.analyses.classification.votes import TEMPERATURE, VOTES
from cbmir.evaluate.analysis import analysis
from cbmir.evaluate.configuration import Conditions, Listed, OneOf, Option, Texts, Written
from cbmir.evaluate.options import Excluding, Grouped, OneSearch
from cbmir.evaluate.protocol import BOTH, MAX_K, RetrievalProtocol, conditions
from cbmir.evaluate.results import Result
from cbmir.store import Collection

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
    label_columns: Annotated[
        Texts,
        Option(
            "With --protocol paper: label columns of the table in their order, by which equal votes are decided. "
            "Repeatable.",
            metavar="COLUMN",
            default="as the collection's table has them",
        ),
    ] = ()
    search: OneSearch = BOTH[0]
    confusion: ConfusionFile = None

    @model_validator(mode="after")
    def _only_of_the_paper(self) -> Self:
        if self.label_columns and self.rules != "paper":
            raise ProtocolError("label-columns decides equal votes with --protocol paper only")
        return self

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
    from cbmir.evaluate.analyses.classification.knn import KnnTerms, VoteRules, evaluate_classification

    rules = VoteRules(
        vote=asked.vote,  # type: ignore[arg-type]  # checked
        temperature=asked.temperature,
        k=asked.k,
        paper=asked.rules == "paper",
        columns=asked.label_columns,
    )
    terms = KnnTerms(rules=rules, max_k=asked.max_k, val=asked.val + asked.where, measures=asked.measures)
    report = evaluate_classification(collection, asked.protocol, terms).of("classify", asked)
    if asked.confusion:
        report.write_confusion(asked.confusion)
    return report


class ProbeConfiguration(Grouped):
    """What ``probe`` can be asked. Nothing is excluded from training."""

    val: Validation = conditions(["split=val"])
    measures: ClassMeasures = MEASURES
    rules: Annotated[
        str,
        OneOf("protocol", lambda: ("default", "paper")),
        Option(
            "default: logistic regression, trained to its optimum, with the penalty that does best on the validation "
            "images. paper: AdamW with fixed settings, as in the published program; it may stop before the optimum.",
            name="protocol",
        ),
    ] = "default"
    epochs: Annotated[int, Field(ge=1), Option("With --protocol paper: epochs of training, at most.")] = 100
    patience: Annotated[
        int,
        Field(ge=1),
        Option("With --protocol paper: training stops after this many epochs without a better validation accuracy."),
    ] = 20
    learning_rate: Annotated[float, Field(gt=0), Option("With --protocol paper: of AdamW.")] = 1e-3
    batch_size: Annotated[int, Field(ge=1), Option("With --protocol paper: images a step.")] = 512
    shots: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Listed,
        Option("Also train on N images a class. Repeatable.", metavar="N"),
    ] = ()
    draws_shots: Annotated[int, Field(ge=1), Option("Random draws of such images.")] = 5
    confusion: ConfusionFile = None
    curve: Annotated[
        Written | None,
        Option(
            "Write the learning curve as CSV: a row an epoch; without --protocol paper a row a penalty.", metavar="FILE"
        ),
    ] = None

    @model_validator(mode="after")
    def _only_of_the_paper(self) -> Self:
        for name in ("epochs", "patience", "learning_rate", "batch_size"):
            if self.rules != "paper" and getattr(self, name) != self.__class__.model_fields[name].default:
                raise ProtocolError(
                    f"{name.replace('_', '-')} is of the training by epochs; ask for it with --protocol paper"
                )
        return self

    @property
    def protocol(self) -> RetrievalProtocol:
        """Queries, gallery and label."""
        return RetrievalProtocol(**{**self._terms(), "measures": ("precision",)}, exclude=())


@analysis("probe", ProbeConfiguration)
def probe(collection: Collection, asked: ProbeConfiguration) -> Result:
    """Train a linear layer on the vectors of the gallery, and measure how well it predicts the classes of the queries.

    Training sees the whole gallery: queries whose patient is in it are counted, not left out. The seed is also that of
    the training, and the device its device.
    """
    from cbmir.evaluate.analyses.classification.linear import ProbeSettings
    from cbmir.evaluate.analyses.classification.probe import ProbeTerms, evaluate_probe

    settings = ProbeSettings(
        solver="adamw" if asked.rules == "paper" else "lbfgs",
        epochs=asked.epochs,
        patience=asked.patience,
        batch=asked.batch_size,
        learning_rate=asked.learning_rate,
        seed=asked.seed,
        device=asked.device,
    )
    terms = ProbeTerms(
        settings=settings,
        val=asked.val + asked.where,
        measures=asked.measures,
        shots=asked.shots,
        draws=asked.draws_shots,
    )
    result = evaluate_probe(collection, asked.protocol, terms).of("probe", asked)
    if asked.confusion:
        result.report.of("probe", asked).write_confusion(asked.confusion)
    if asked.curve:
        result.write_curve(asked.curve)
    return result
