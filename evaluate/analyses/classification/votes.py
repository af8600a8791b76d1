"""Votes of neighbours for classes, and what a classifier predicted of some images."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cbmir.errors import CutoffError, ProtocolError

NONE = -1
"""Place of a missing neighbour, code of an image without a label, class of a query without a vote."""

CELLS = 1 << 20
"""Vote counts held at once, queries x classes; a block of queries is as long as that allows."""

MAX_SHARES = 1 << 29
"""Shares of votes, queries x classes, that are held together: 4 GiB."""

TEMPERATURE = 0.07

TIE = 1e-12
"""Votes that differ by at most this part of them are equal."""

Vote = Literal["mean", "softmax"]
VOTES: tuple[Vote, ...] = ("mean", "softmax")
Ties = Literal["nearest", "lowest"]

Codes = NDArray[np.int32]
Flags = NDArray[np.bool_]
Shares = NDArray[np.float64]
Pairs = tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]


@dataclass(frozen=True, slots=True)
class Labels:
    """The classes of n images, one an image, or several where sets of classes are given.

    Attributes:
        codes: (n,) class of each image, or its row of `members`; `NONE` without a label.
        classes: How many classes there are.
        members: (sets, classes) the classes of each set, one at least; None where an image has one class.

    Raises:
        ProtocolError: a code is out of range, or the sets have another number of classes.
    """

    codes: Codes
    classes: int
    members: Flags | None = None

    def __post_init__(self) -> None:
        if self.members is not None and (self.members.ndim != 2 or self.members.shape[1] != self.classes):
            raise ProtocolError(f"sets of shape {self.members.shape} met {self.classes} classes")
        codes = self.classes if self.members is None else len(self.members)
        if self.codes.ndim != 1 or (self.codes.size and not (self.codes.min() >= NONE and self.codes.max() < codes)):
            raise ProtocolError(f"labels of shape {self.codes.shape} have codes outside {NONE} to {codes - 1}")

    @classmethod
    def of_sets(cls, sets: Codes, members: Flags) -> "Labels":
        """Labels from the row of `members` of each image; a row without any class is no label."""
        labelled = np.logical_or.reduce(members, axis=1)
        codes = np.where(labelled[sets], sets, NONE).astype(np.int32)
        return cls(codes, members.shape[1], members)

    @classmethod
    def of_matrix(cls, matrix: Flags) -> "Labels":
        """Labels from (n, classes) flags; a row without any is an image without a label."""
        members, sets = np.unique(matrix, axis=0, return_inverse=True)
        return cls.of_sets(sets.reshape(-1).astype(np.int32), members)

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: Any) -> "Labels":
        """The labels of some images, by number, mask or slice."""
        return Labels(self.codes[rows], self.classes, self.members)

    def flags(self) -> Flags:
        """(n, classes) which classes each image has."""
        members = np.eye(self.classes, dtype=np.bool_) if self.members is None else self.members
        return np.vstack([members, np.zeros(self.classes, np.bool_)])[self.codes]  # NONE is the last row

    def pairs(self) -> Pairs:
        """Image number and class of every label."""
        if self.members is None:
            rows = np.flatnonzero(self.codes != NONE)
            return rows, self.codes[rows]
        rows, classes = np.nonzero(self.flags())
        return rows, classes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassVotes:
    """What the neighbours of n queries have to say.

    A neighbour without a label has no vote, as if it weren't there.

    Attributes:
        places: (n, depth) gallery places in rank order, `NONE` where a hit is missing.
        cosines: (n, depth) their scores; NaN at missing places.
        labels: The classes of the gallery.
        vote: ``mean``: all neighbours count the same; ``softmax``: a neighbour counts exp(cosine / temperature), the
            weighted vote of Wu et al., "Unsupervised feature learning via non-parametric instance discrimination",
            2018, as DINOv2 is measured with.
        temperature: Of the softmax.
        ties: Of classes with as many votes, ``nearest`` takes the one that was met first; ``lowest`` the lowest code,
            as scikit-learn and argmax do.
        reach: (n,) neighbours that vote at most, query by query; None for no limit.

    Raises:
        ProtocolError: the shapes don't fit.
    """

    places: NDArray[np.int64]
    cosines: NDArray[np.floating[Any]]
    labels: Labels
    vote: Vote = "mean"
    temperature: float = TEMPERATURE
    ties: Ties = "nearest"
    reach: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.places.ndim != 2 or self.places.shape != self.cosines.shape:
            raise ProtocolError(f"places of shape {self.places.shape} met cosines of shape {self.cosines.shape}")
        if self.reach is not None and self.reach.shape != self.places.shape[:1]:
            raise ProtocolError(f"{len(self.places)} queries met reaches of shape {self.reach.shape}")

    @property
    def depth(self) -> int:
        """Neighbours a query."""
        return int(self.places.shape[1])

    def blocks(self) -> Iterator[slice]:
        """The queries in blocks for which the votes on all classes fit into `CELLS`."""
        step = max(1, CELLS // (self.labels.classes + 1))
        return (slice(start, start + step) for start in range(0, len(self.places), step))

    def voters(self, block: slice) -> tuple[Codes, NDArray[np.float64]]:
        """(b, depth) codes of the neighbours of some queries, `NONE` for no vote, and the weights of their votes."""
        places = self.places[block]
        codes = np.where(places == NONE, NONE, self.labels.codes[places])
        if self.reach is not None:
            codes[np.arange(self.depth) >= self.reach[block, np.newaxis]] = NONE
        if self.vote == "mean":
            return codes, (codes != NONE).astype(np.float64)
        cosines = np.where(codes == NONE, -np.inf, self.cosines[block]).astype(np.float64)
        nearest = np.maximum(cosines.max(axis=1, keepdims=True), -1.0)  # a finite one also where nobody votes
        return codes, np.exp((cosines - nearest) / self.temperature)


def predictions(class_votes: ClassVotes, block: slice) -> Iterator[NDArray[Any]]:
    """What the first neighbour of each query of a block predicts, then the first two, and so on.

    Yields:
        (b,) the class with most votes, `NONE` without a vote; where images have several classes, (b, classes) flags of
        those with half of the votes or more. The arrays are used again: copy what is kept.
    """
    codes, weights = class_votes.voters(block)
    ranks, votes = np.ascontiguousarray(codes.T), np.ascontiguousarray(weights.T)
    if class_votes.labels.members is None:
        return _leaders(ranks, votes, class_votes.labels.classes, class_votes.ties)
    return _halves(ranks, votes, class_votes.labels.members)


def predict(class_votes: ClassVotes, k: int) -> NDArray[Any]:
    """(n,) classes or (n, classes) flags predicted by the first k neighbours, see `predictions`.

    Raises:
        CutoffError: k lies outside 1 to depth.
    """
    _check(class_votes, k)
    parts = [next(itertools.islice(predictions(class_votes, block), k - 1, k)) for block in class_votes.blocks()]
    empty = (0,) if class_votes.labels.members is None else (0, class_votes.labels.classes)
    return np.concatenate(parts) if parts else np.zeros(empty, np.int32)


def micro_f1(class_votes: ClassVotes, truth: Labels) -> Shares:
    """(depth,) micro-averaged F1 of the predictions for every k; the accuracy, where each query has one class.

    A query without a vote is a miss.

    Args:
        class_votes: The neighbours of n queries.
        truth: The classes of the queries.
    """
    hits = np.zeros(class_votes.depth, np.int64)
    said = np.zeros(class_votes.depth, np.int64)
    for block in class_votes.blocks():
        right = truth.codes[block] if truth.members is None else truth.take(block).flags()
        for number, predicted in enumerate(predictions(class_votes, block)):
            if truth.members is None:
                hits[number] += np.count_nonzero(predicted == right)
                said[number] += len(predicted)  # no vote is a wrong answer
            else:
                hits[number] += np.count_nonzero(predicted & right)
                said[number] += np.count_nonzero(predicted)
    return 2 * hits / np.maximum(said + len(truth.pairs()[0]), 1)


def shares(class_votes: ClassVotes, k: int) -> Shares:
    """(n, classes) the share of the votes of the first k neighbours that each class has; 0 without a vote.

    Raises:
        CutoffError: k lies outside 1 to depth.
        ProtocolError: they are more than `MAX_SHARES`.
    """
    _check(class_votes, k)
    n, classes = len(class_votes.places), class_votes.labels.classes
    if n * classes > MAX_SHARES:
        raise ProtocolError(
            f"the votes of {n:,} queries on {classes:,} classes don't fit into {MAX_SHARES >> 27} GiB; "
            "choose a label with fewer values, or fewer queries"
        )
    result = np.zeros((n, classes))
    for block in class_votes.blocks():
        codes, weights = class_votes.voters(block)
        result[block] = _sums(codes[:, :k], weights[:, :k], class_votes.labels)
        totals = weights[:, :k].sum(axis=1, keepdims=True)
        np.divide(result[block], totals, out=result[block], where=totals > 0)
    return result


def _sums(codes: Codes, weights: NDArray[np.float64], labels: Labels) -> Any:
    """(b, classes) summed weights of the voters of each class."""
    queries, ranks = np.nonzero(codes != NONE)
    columns = labels.classes if labels.members is None else len(labels.members)
    table = csr_array((weights[queries, ranks], (queries, codes[queries, ranks])), shape=(len(codes), columns))
    return table.toarray() if labels.members is None else table @ labels.members.astype(np.float64)


def _leaders(codes: Codes, weights: NDArray[np.float64], classes: int, ties: Ties) -> Iterator[Codes]:
    """The class that leads after each rank; one rank changes one count a query, so only that class can take the lead.

    Args:
        codes: (depth, b) classes of the voters.
        weights: (depth, b) of their votes, 0 where there is none.
        classes: How many classes there are.
        ties: Which class wins a tie.
    """
    queries = codes.shape[1]
    starts = np.arange(1, queries + 1) * (classes + 1) - 1  # NONE counts in a column of its own, the last
    sums = np.zeros(queries * (classes + 1))
    first = np.full(queries * (classes + 1), len(codes), np.int32)
    leader = np.full(queries, NONE, np.int32)
    most = np.zeros(queries)
    priority = np.zeros(queries, np.int32)
    for rank, (code, weight) in enumerate(zip(codes, weights, strict=True)):
        cells = np.where(code == NONE, starts, starts - classes + code)
        total = sums[cells] + weight
        total = np.where(np.abs(total - most) <= TIE * most, most, total)  # equal but for the order of summation
        sums[cells] = total
        ours = code
        if ties == "nearest":
            ours = np.minimum(first[cells], rank)
            first[cells] = ours
        ahead = (total > most) | ((total == most) & (ours < priority) & (code != NONE))
        np.copyto(leader, code, where=ahead)
        np.copyto(most, total, where=ahead)
        np.copyto(priority, ours, where=ahead)
        yield leader


def _halves(codes: Codes, weights: NDArray[np.float64], members: Flags) -> Iterator[Flags]:
    """The classes with half of the votes or more after each rank, see `_leaders`; members is (sets, classes)."""
    votes = np.vstack([members, np.zeros(members.shape[1], np.bool_)])  # NONE is the last row
    sums = np.zeros((codes.shape[1], members.shape[1]))
    totals = np.zeros((codes.shape[1], 1))
    for code, weight in zip(codes, weights, strict=True):
        sums += votes[code] * weight[:, np.newaxis]
        totals += weight[:, np.newaxis]
        yield (2 * sums >= totals) & (totals > 0)


def _check(class_votes: ClassVotes, k: int) -> None:
    if not 1 <= k <= class_votes.depth:
        raise CutoffError(
            f"a vote of {k} neighbours needs a k in 1 to {class_votes.depth}, the places that were retrieved"
        )


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
