"""What a classifier said, beside the truth."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.classification.votes import NONE, Flags, Labels, Pairs, Shares


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a classifier said of n queries, beside the truth.

    Attributes:
        truth: The classes of the queries, one at least each.
        said: (n,) class of each query, `NONE` for no answer; (n, classes) flags where images have several classes.
        scores: (n, classes) how sure it was of each class: shares of votes, or probabilities.

    Raises:
        ProtocolError: the shapes don't fit, or a query has no label.
    """

    truth: Labels
    said: NDArray[Any]
    scores: Shares

    def __post_init__(self) -> None:
        shape = (len(self.truth), self.truth.classes)
        expected = shape[:1] if self.truth.members is None else shape
        if self.scores.shape != shape or self.said.shape != expected:
            raise ProtocolError(
                f"{shape[0]} queries of {shape[1]} classes met answers of shape {self.said.shape} "
                f"and scores of shape {self.scores.shape}"
            )
        if (self.truth.codes == NONE).any():
            raise ProtocolError(
                f"queries without a label: {np.count_nonzero(self.truth.codes == NONE)}; leave them out"
            )

    def take(self, rows: Flags) -> "Verdicts":
        """Those of some queries."""
        return Verdicts(self.truth.take(rows), self.said[rows], self.scores[rows])

    def answers(self) -> Pairs:
        """Query and class of everything that was said; no answer counts as a class beyond the others, never right."""
        if self.truth.members is not None:
            rows, classes = np.nonzero(self.said)
            return rows, classes
        return np.arange(len(self.said)), np.where(self.said == NONE, self.truth.classes, self.said)

    def hits(self) -> Pairs:
        """Query and class of every right answer."""
        if self.truth.members is not None:
            rows, classes = np.nonzero(self.said & self.truth.flags())
            return rows, classes
        rows = np.flatnonzero(self.said == self.truth.codes)
        return rows, self.truth.codes[rows]

    def right(self) -> Flags:
        """(n,) whether the truth was said, all of it and nothing else."""
        if self.truth.members is not None:
            return np.asarray((self.said == self.truth.flags()).all(axis=1))
        return np.asarray(self.said == self.truth.codes)
