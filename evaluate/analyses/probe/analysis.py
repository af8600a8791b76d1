"""``cbmir evaluate probe``: how well a linear layer predicts classes."""

from typing import Annotated

from pydantic import Field

from cbmir.evaluate.analyses.classification.options import ClassMeasures, ConfusionFile, Validation
from cbmir.evaluate.analyses.classification.report import MEASURES
from cbmir.evaluate.analysis import analysis
from cbmir.evaluate.configuration import (
    Grouped,
    Listed,
    Option,
    Written,
)
from cbmir.evaluate.protocol import RetrievalProtocol, conditions
from cbmir.evaluate.results import Result
from cbmir.store import Collection


class ProbeConfiguration(Grouped):
    """What ``probe`` can be asked. Nothing is excluded from training."""

    val: Validation = conditions(["split=val"])
    measures: ClassMeasures = MEASURES
    epochs: Annotated[int, Field(ge=1), Option("Epochs of training, at most.")] = 100
    patience: Annotated[
        int, Field(ge=1), Option("Training stops after this many epochs without a better validation accuracy.")
    ] = 20
    learning_rate: Annotated[float, Field(gt=0), Option("Of AdamW.")] = 1e-3
    batch_size: Annotated[int, Field(ge=1), Option("Images a step.")] = 512
    shots: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Listed,
        Option("Also train on N images a class. Repeatable.", metavar="N"),
    ] = ()
    draws_shots: Annotated[int, Field(ge=1), Option("Random draws of such images.")] = 5
    confusion: ConfusionFile = None
    curve: Annotated[Written | None, Option("Write the learning curve as CSV.", metavar="FILE")] = None

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
    from cbmir.evaluate.analyses.probe.descent import ProbeSettings
    from cbmir.evaluate.analyses.probe.measurement import ProbeTerms, evaluate_probe

    settings = ProbeSettings(
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
