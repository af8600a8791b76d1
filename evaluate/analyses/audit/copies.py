"""Near copies across splits: images that are asked for have all but been seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from cbmir.errors import ProtocolError
from cbmir.evaluate.analyses.audit.patients import split_pairs, splits_of
from cbmir.evaluate.analyses.retrieval import write_parts
from cbmir.evaluate.ranking.keys import cosines_of, places_of
from cbmir.evaluate.ranking.scan import CHUNK_IMAGES, ExclusionMask, Scan
from cbmir.evaluate.ranking.trial import SCROLL_IMAGES, Images, Places, Trial, packed, text_ids
from cbmir.evaluate.results import Asked
from cbmir.schema import SPLITS
from cbmir.store import Collection
from cbmir.units import counted

COPIES = 16
"""Near copies looked for in another split, an image."""

QUANTILES = (0.5, 0.95, 0.99, 1.0)
PATIENTS = ("unknown", "same", "other")
FILES = ("unknown", "identical", "other")

_ROUNDING = 1e-6
"""By how much the cosine of an image with itself may miss 1."""

_WRITTEN = 50_000
"""Pairs written at once."""


@dataclass(frozen=True, slots=True)
class Side:
    """The images of one split against those of another.

    Attributes:
        split: Of these images.
        other: The split in which their nearest image is sought.
        images: How many.
        copied: Those with a near copy in the other split.
        capped: Those with `COPIES` of them or more: they may have others, that were not looked for.
        median: Half the images have a nearest image of the other split with at most this cosine.
        p95: The same of 95% of the images.
        p99: The same of 99%.
        highest: The largest cosine.
    """

    split: str
    other: str
    images: int
    copied: int
    capped: int
    median: float
    p95: float
    p99: float
    highest: float


@dataclass(frozen=True, slots=True)
class SplitCopies:
    """The near copies between two splits.

    Attributes:
        sides: The images of either against the other.
        pairs: Pairs of near copies found; where a side has `Side.capped` images, there are at least so many.
        same_patient: Pairs of one patient.
        other_patient: Pairs of two patients.
        unknown_patient: Pairs of which the patient of one image isn't known.
        identical_files: Pairs whose files are the same, byte by byte.
        unknown_files: Pairs of which the hash of one file isn't known.
    """

    sides: tuple[Side, Side]
    pairs: int
    same_patient: int
    other_patient: int
    unknown_patient: int
    identical_files: int
    unknown_files: int


@dataclass(frozen=True, slots=True, eq=False)
class CopyPairs:
    """The m pairs of near copies of all splits, by falling cosine, equal ones by rising id.

    Attributes:
        images: All images that were looked at.
        splits: (images,) place of each one's split in `SPLITS`.
        first: (m,) which images, of the split that comes first in `SPLITS`.
        second: (m,) their copies.
        cosines: (m,) how near these are.
        patients: (m,) place in `PATIENTS`.
        files: (m,) place in `FILES`.
        paths: (images,) their files; empty for those without a copy.
    """

    images: Images
    splits: NDArray[np.int8]
    first: Places
    second: Places
    cosines: NDArray[np.float64]
    patients: NDArray[np.int8]
    files: NDArray[np.int8]
    paths: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.first)

    def write(self, path: Path, asked: Asked | None = None) -> None:
        """Write them as .csv or .parquet, a row a pair.

        Raises:
            ProtocolError: the name of the file ends otherwise.
            CbmirError: the file can't be written.
        """
        write_parts((self._table(start) for start in range(0, max(1, len(self)), _WRITTEN)), path, asked)

    def _table(self, start: int) -> pa.Table:
        part = slice(start, start + _WRITTEN)
        columns: dict[str, Any] = {}
        for name, places in (("", self.first[part]), ("copy_", self.second[part])):
            columns[f"{name}id"] = pa.array(text_ids(self.images.ids[places]), pa.string())
            columns[f"{name}filepath"] = pa.array(self.paths[places], pa.string())
            columns[f"{name}split"] = pa.array(np.array(SPLITS, object)[self.splits[places]], pa.string())
        columns["cosine"] = self.cosines[part]
        columns["patient"] = pa.array(np.array(PATIENTS, object)[self.patients[part]], pa.string())
        columns["file"] = pa.array(np.array(FILES, object)[self.files[part]], pa.string())
        return pa.table(columns)


@dataclass(frozen=True, slots=True)
class _Near:
    """What was found of the images of one side.

    Attributes:
        side: Their counts.
        places: (m,) images with a copy.
        copies: (m,) a copy of each.
        cosines: (m,) how near it is.
    """

    side: Side
    places: Places
    copies: Places
    cosines: NDArray[np.float64]


def find_copies(
    collection: Collection, trial: Trial, threshold: float, device: str
) -> tuple[tuple[SplitCopies, ...], CopyPairs]:
    """Find the near copies across the splits of a trial whose gallery is held in memory.

    Every image is scored against every image of the other splits. Besides the vectors that the trial holds, it takes
    the memory of two chunks of them, of their scores, and of the pairs found: up to `COPIES` an image and other split.

    Args:
        collection: Where the hashes and paths of the files are.
        trial: Its gallery is looked at, on all its terms but the exclusion.
        threshold: Least cosine of a near copy.
        device: Of the products.

    Returns:
        The counts of each pair of splits that has images, and all pairs of near copies.

    Raises:
        ProtocolError: the collection lost images meanwhile.
    """
    splits = splits_of(trial)
    sides = {place: np.flatnonzero(splits == place) for place in range(len(SPLITS))}
    pairs = split_pairs(splits)
    found: list[tuple[_Near, _Near]] = []
    total = 2 * sum(len(sides[one]) * len(sides[other]) for one, other in pairs)
    with tqdm(total=total, desc="near copies", unit="pair", unit_scale=True, leave=False, disable=None) as bar:
        for one, other in pairs:
            found.append(
                (
                    _near(trial, sides, (one, other), threshold, device, bar),
                    _near(trial, sides, (other, one), threshold, device, bar),
                )
            )
    together = _pairs(collection, trial, splits, found)
    counts = tuple(
        _counts((there.side, back.side), together, (splits[together.first] == one) & (splits[together.second] == other))
        for (one, other), (there, back) in zip(pairs, found, strict=True)
    )
    return counts, together


def _near(
    trial: Trial,
    sides: Mapping[int, Places],
    pair: tuple[int, int],
    threshold: float,
    device: str,
    bar: "tqdm[Any]",
) -> _Near:
    """The nearest images of one split to each of another, a chunk of both at a time."""
    vectors = trial.query_vectors
    asked, there = sides[pair[0]], sides[pair[1]]
    nearest = np.empty(len(asked))
    parts: list[tuple[Places, Places, NDArray[np.float64]]] = []
    capped = copied = 0
    for start in range(0, len(asked), CHUNK_IMAGES):
        block = asked[start : start + CHUNK_IMAGES]
        best = Scan(vectors[block], COPIES, device=device)
        for first in range(0, len(there), CHUNK_IMAGES):
            chunk = there[first : first + CHUNK_IMAGES]
            best.add(chunk, vectors[chunk], [_nothing_excluded])
            bar.update(len(block) * len(chunk))
        keys = best.keys[0]
        cosines = cosines_of(keys)
        nearest[start : start + len(block)] = cosines[:, 0]
        close = cosines >= threshold - _ROUNDING
        rows, ranks = np.nonzero(close)
        parts.append((block[rows], places_of(keys[rows, ranks]), cosines[rows, ranks]))
        copied += int(close[:, 0].sum())
        capped += int(close[:, -1].sum())
    quantiles = map(float, np.quantile(nearest, QUANTILES))
    side = Side(SPLITS[pair[0]], SPLITS[pair[1]], len(asked), copied, capped, *quantiles)
    places, copies, near = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Near(side, places, copies, near)


def _nothing_excluded(block: slice) -> ExclusionMask:
    none = np.zeros(0, np.int64)
    return ExclusionMask((none, none))


def _pairs(
    collection: Collection, trial: Trial, splits: NDArray[np.int8], found: Sequence[tuple[_Near, _Near]]
) -> CopyPairs:
    """All pairs, each once though both sides may have found it."""
    first = [part for there, back in found for part in (there.places, back.copies)]
    second = [part for there, back in found for part in (there.copies, back.places)]
    near = [part for there, back in found for part in (there.cosines, back.cosines)]
    none = np.zeros(0, np.int64)
    ones, others, cosines = np.concatenate([none, *first]), np.concatenate([none, *second]), np.concatenate([[], *near])
    _, kept = np.unique(ones << 32 | others, return_index=True)
    kept = kept[np.lexsort((others[kept], ones[kept], -cosines[kept]))]
    ones, others = ones[kept], others[kept]
    patients = trial.gallery.codes["patient_id"]
    paths, hashes = _files(collection, trial.gallery, np.union1d(ones, others))
    return CopyPairs(
        images=trial.gallery,
        splits=splits,
        first=ones,
        second=others,
        cosines=cosines[kept],
        patients=_compared(patients[ones], patients[others]),
        files=_compared(hashes[ones], hashes[others]),
        paths=paths,
    )


def _compared(ones: NDArray[np.integer], others: NDArray[np.integer]) -> NDArray[np.int8]:
    """0 where one of two codes is 0, 1 where they are the same, else 2."""
    compared: NDArray[np.int8] = np.where((ones == 0) | (others == 0), 0, np.where(ones == others, 1, 2)).astype(
        np.int8
    )
    return compared


def _files(collection: Collection, images: Images, places: Places) -> tuple[NDArray[np.object_], Places]:
    """(images,) paths and codes of the hashes of some images, empty and 0 for the others and where there is none."""
    paths = np.full(len(images), "", object)
    hashes = np.zeros(len(images), np.int64)
    codes: dict[str, int] = {}
    for start in range(0, len(places), SCROLL_IMAGES):
        wanted = text_ids(images.ids[places[start : start + SCROLL_IMAGES]])
        points = collection.get(wanted, fields=["filepath", "sha256"])
        if lost := len(wanted) - len(points):
            raise ProtocolError(f"{collection.name} lost {counted(lost, 'image')} while it was audited; start again")
        at = images.places(packed(points))
        for place, point in zip(at.tolist(), points, strict=True):
            paths[place] = point.payload.get("filepath", "")
            if value := point.payload.get("sha256"):
                hashes[place] = codes.setdefault(value, len(codes) + 1)
    return paths, hashes


def _counts(sides: tuple[Side, Side], pairs: CopyPairs, rows: NDArray[np.bool_]) -> SplitCopies:
    """The counts of some of the pairs."""
    patients = np.bincount(pairs.patients[rows], minlength=len(PATIENTS)).tolist()
    files = np.bincount(pairs.files[rows], minlength=len(FILES)).tolist()
    return SplitCopies(
        sides=sides,
        pairs=int(rows.sum()),
        same_patient=patients[PATIENTS.index("same")],
        other_patient=patients[PATIENTS.index("other")],
        unknown_patient=patients[PATIENTS.index("unknown")],
        identical_files=files[FILES.index("identical")],
        unknown_files=files[FILES.index("unknown")],
    )
