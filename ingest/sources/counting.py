"""One pass over the items of a source, to tell users what will come of them."""

import os
from collections import Counter
from collections.abc import Collection, Iterable

from cbmir.ingest.report import Failure
from cbmir.ingest.sources.base import SourceImage
from cbmir.ingest.tables.tally import NAMED, Tally, alike, ordered_reasons, similar_ids, splits_of
from cbmir.modalities import MODALITIES

LOOKED_FOR = 1000
"""Files of a table that are looked for, evenly over its rows: enough to see that a root is wrong."""


class Counting:
    """Counts items as they go by.

    Args:
        codes: Codes of modalities that the user has given, besides the known ones.
        every: Of so many images, the file of one is looked for; 0 for none.
    """

    def __init__(self, codes: Collection[str] = (), every: int = 0) -> None:
        self._codes = {*MODALITIES, *codes}
        self._every = every
        self._count: Counter[str] = Counter()
        self._seen: set[tuple[str, str]] = set()
        self._patients: dict[tuple[str, str], str | None] = {}
        self._shared: set[tuple[str, str]] = set()
        self._studies: set[tuple[str, str]] = set()
        self._labels: dict[str, None] = {}
        self._datasets: set[str] = set()
        self._splits: Counter[str] = Counter()
        self._reasons: dict[str, tuple[int, str]] = {}
        self._first_missing = ""

    def of(self, items: Iterable[SourceImage | Failure]) -> Tally:
        """Count all items."""
        for item in items:
            if isinstance(item, Failure):
                self._fail(item)
            elif (key := (item.record.dataset, item.record.filepath)) in self._seen:
                self._count["failed"] += 1
                self._count["repeated"] += 1
            else:
                self._seen.add(key)
                self._add(item)
        labels = tuple(self._labels)
        return Tally(
            images=self._count["images"],
            failed=self._count["failed"],
            patients=len(self._patients),
            studies=len(self._studies),
            without_patient=self._count["without_patient"],
            without_study=self._count["without_study"],
            labels=len(labels),
            without_label=self._count["without_label"],
            first_labels=labels[:NAMED],
            bare_labels=self._count["bare"],
            datasets=tuple(sorted(self._datasets)),
            splits=splits_of(self._splits),
            shared_patients=len(self._shared),
            repeated=self._count["repeated"],
            reasons=ordered_reasons(self._reasons),
            similar_labels=alike(labels),
            odd_labels=tuple(label for label in labels if self._is_odd(label)),
            looked_for=self._count["looked_for"],
            missing=self._count["missing"],
            first_missing=self._first_missing,
        )

    def about_ids(self) -> tuple[str, ...]:
        """Warnings that name ids of patients: they are not kept with the collection."""
        by_dataset: dict[str, list[str]] = {}
        for dataset, patient in self._patients:
            by_dataset.setdefault(dataset, []).append(patient)
        return tuple(filter(None, map(similar_ids, by_dataset.values())))

    def _fail(self, item: Failure) -> None:
        self._count["failed"] += 1
        count, place = self._reasons.get(item.reason, (0, item.place))
        self._reasons[item.reason] = (count + 1, place)

    def _add(self, item: SourceImage) -> None:
        record, count = item.record, self._count
        count["images"] += 1
        self._datasets.add(record.dataset)
        if record.split:
            self._splits[record.split] += 1
        if record.patient_id:
            patient = (record.dataset, record.patient_id)
            if self._patients.setdefault(patient, record.split) != record.split:
                self._shared.add(patient)
        if record.study_id:
            self._studies.add((record.dataset, record.study_id))
        self._labels.update(dict.fromkeys(record.labels))
        count["without_patient"] += not record.patient_id
        count["without_study"] += not record.study_id
        count["without_label"] += not record.labels
        count["bare"] += bool(record.labels) and "/" not in record.labels[0]
        if self._every and count["images"] % self._every == 0:
            self._look_for(item)

    def _look_for(self, item: SourceImage) -> None:
        path = item.asset.path
        if path is None:  # to look for it may need the network
            return
        self._count["looked_for"] += 1
        if not os.path.exists(path):  # noqa: PTH110  a path that is too long is missing, and no error
            self._count["missing"] += 1
            self._first_missing = self._first_missing or str(path)

    def _is_odd(self, label: str) -> bool:
        first, slash, _ = label.partition("/")
        return bool(slash) and first not in self._codes
