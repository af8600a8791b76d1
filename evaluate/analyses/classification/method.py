"""How a classifier told classes, and what its figures don't speak of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cbmir.evaluate.analyses.classification.assessment import Assessment
from cbmir.evaluate.analyses.classification.splits import Validation
from cbmir.evaluate.header import Omission
from cbmir.evaluate.protocol import NAMED
from cbmir.units import counted


@dataclass(frozen=True, slots=True)
class Voting:
    """How neighbours voted.

    Attributes:
        vote: ``mean`` or ``softmax``.
        temperature: Of the softmax, None of the mean.
        chosen_k: Neighbours that voted.
        how: ``given``, or ``val``: the k with the best micro-averaged F1 on the validation images.
        max_k: The largest k that was tried; None where it was given.
        rules: ``default``, or ``paper``: see `cbmir.evaluate.analyses.classification.classify.VoteRules`.
        several: Whether images have several classes.
        val: The validation images; None where k was given.
        val_scores: Micro-averaged F1 on them for k = 1, 2, ...; the accuracy where an image has one class.
    """

    vote: str
    temperature: float | None
    chosen_k: int
    how: str
    max_k: int | None
    rules: str
    several: bool
    val: Validation | None
    val_scores: tuple[float, ...]

    def lines(self) -> Iterator[str]:
        """The same for people."""
        softmax = f" at temperature {self.temperature}" if self.temperature else ""
        rules = ", the paper's rules, which know the true class: too high" if self.rules == "paper" else ""
        yield f"vote        {self.vote}{softmax} of {counted(self.chosen_k, 'neighbour')}{rules}"
        if self.val:
            yield f"k           the best of 1 to {self.max_k} on {validation(self.val)}"


@dataclass(frozen=True, slots=True)
class Learning:
    """How a probe was trained.

    Attributes:
        settings: Of the training, see `cbmir.evaluate.analyses.probe.descent.ProbeSettings`.
        epoch: The one whose weights are measured.
        epochs: That were done.
        several: Whether images have several classes.
        train_images: With a label.
        queries_seen: Test images of which another image of the patient, or the image itself, was learnt from.
        val: The validation images.
        val_accuracy: On them, after that epoch; of exact matches, where images have several classes.
    """

    settings: Mapping[str, Any]
    epoch: int
    epochs: int
    several: bool
    train_images: int
    queries_seen: int
    val: Validation
    val_accuracy: float

    def lines(self) -> Iterator[str]:
        """The same for people."""
        yield (
            f"probe       one linear layer, seed {self.settings['seed']}, the best of {counted(self.epochs, 'epoch')} "
            f"is {self.epoch}; {counted(self.train_images, 'training image')}"
        )
        accuracy = "exact-match accuracy" if self.several else "accuracy"
        yield f"stopped by  {validation(self.val)}, {accuracy} {self.val_accuracy:.4f}"
        yield f"leakage     {counted(self.queries_seen, 'query')} whose patient has training images"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What no figure, or not every figure, speaks of.

    Attributes:
        absent: Classes that no query has: in no macro mean and no ROC-AUC.
        universal: Classes that every query has: in no ROC-AUC.
        stray: Absent classes that were said nevertheless.
        unseen: Classes without a gallery image.
        unanswered: Queries of which no class was said.
        voteless: Queries of which no neighbour has a label.
        roc_auc_draws: Draws behind the intervals of ROC-AUC, where they are fewer than the others.
    """

    absent: tuple[str, ...]
    universal: tuple[str, ...]
    stray: tuple[str, ...]
    unseen: tuple[str, ...]
    unanswered: int
    voteless: int
    roc_auc_draws: int

    @classmethod
    def of(cls, assessment: Assessment, classes: Sequence[str], unseen: Sequence[int], voteless: int) -> "LeftOut":
        """Names for the codes of an assessment."""

        def names(codes: Sequence[int]) -> tuple[str, ...]:
            return tuple(classes[code] for code in codes)

        return cls(
            absent=names(assessment.absent),
            universal=names(assessment.universal),
            stray=names(assessment.stray),
            unseen=names(unseen),
            unanswered=assessment.unanswered,
            voteless=voteless,
            roc_auc_draws=assessment.area_draws,
        )

    def omissions(self) -> tuple[Omission, ...]:
        """The classes, for the header of a result."""
        texts = (
            (self.absent, "classes_without_query", "that no query has, in no macro mean and no roc_auc"),
            (self.universal, "classes_of_every_query", "that every query has, in no roc_auc"),
            (self.stray, "classes_said_without_query", "predicted that no query has"),
            (self.unseen, "classes_without_gallery_image", "without a gallery image"),
        )
        return tuple(
            Omission(key, len(names), "class", f"{text}: {', '.join(names[:NAMED])}{', ...' * (len(names) > NAMED)}")
            for names, key, text in texts
        )

    def lines(self, draws: int) -> Iterator[str]:
        """What there is of it, for people."""
        yield from (f"left out    {item.text}" for item in self.omissions() if item.count)
        yield from self.counts(draws)

    def counts(self, draws: int) -> Iterator[str]:
        """The same without the classes."""
        for count, text in ((self.unanswered, "were told no class"), (self.voteless, "met no labelled neighbour")):
            if count:
                yield f"wrong       {counted(count, 'query')} {text}"
        if self.roc_auc_draws < draws:
            yield f"intervals   of roc_auc are of {counted(self.roc_auc_draws, 'draw')} only"


def validation(val: Validation) -> str:
    """The validation images in words."""
    side = val.side
    text = f"{counted(side.images, 'image')} of {side.filter}"
    return text + (f", {val.in_test:,} of them test images: too high" if val.in_test else "")
