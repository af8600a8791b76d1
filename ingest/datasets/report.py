"""What a preparation kept and left out, for people and for programs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import pandas as pd

from cbmir.schema import SPLITS


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """Counts of one preparation; read = kept + left out + failed.

    Attributes:
        dataset: Name of the data set in the table.
        labels: ``single`` or ``multi``.
        sources: The lists that were read.
        read: Images the lists name.
        kept: Images in the table.
        left_out: Images that a rule leaves out, by rule.
        failed: Images without a file.
        images: Images in the table, by split.
        patients: Patients in the table, by split; None where the lists name none.
        patients_in_several_splits: Patients with images in more than one split; None where the lists name none.
        counts: Images in the table, by label and split.
        notes: What a user should know, a line each.
    """

    dataset: str
    labels: str
    sources: tuple[str, ...]
    read: int
    kept: int
    left_out: Mapping[str, int]
    failed: int
    images: Mapping[str, int]
    patients: Mapping[str, int] | None
    patients_in_several_splits: int | None
    counts: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, dataset: str, table: pd.DataFrame, *, left_out: Mapping[str, int], failed: int, **given: Any) -> Self:
        """Count a table.

        Args:
            dataset: Name of the data set in the table.
            table: As `Preparation.table`.
            left_out: Images left out, by rule.
            failed: Images without a file.
            given: The other attributes that the table doesn't tell.
        """
        labels = [name for name in table.columns if "/" in name]
        sums = {split: table.loc[table["split"] == split, labels].sum() for split in SPLITS}
        pairs = table[["patient_id", "split"]].drop_duplicates() if "patient_id" in table else None
        return cls(
            dataset=dataset,
            read=len(table) + sum(left_out.values()) + failed,
            kept=len(table),
            left_out=left_out,
            failed=failed,
            images=_by_split(table),
            patients=None if pairs is None else _by_split(pairs),
            patients_in_several_splits=None if pairs is None else _shared(pairs),
            counts={name: {split: int(sums[split][name]) for split in SPLITS} for name in labels},
            **given,
        )

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people: what became of the images."""
        left_out = sum(self.left_out.values())
        lines = [
            f"{self.dataset}, --labels {self.labels}, from {', '.join(self.sources)}",
            f"read {self.read:,} = kept {self.kept:,} + left out {left_out:,} + failed {self.failed:,}",
            *(f"left out: {count:,}, {reason}" for reason, count in self.left_out.items()),
            *self.notes,
        ]
        if self.patients_in_several_splits:
            lines.append(
                f"patients with images in more than one official split: {self.patients_in_several_splits:,}; "
                "evaluate leaves out a query's own patient"
            )
        return lines

    def rows(self) -> list[str]:
        """For people: a line a label with its images by split, then all images and patients."""
        counts = dict(self.counts) | {"images": self.images}
        if self.patients is not None:
            counts["patients"] = self.patients
        width = max(len(name) for name in counts)
        head = f"{'':{width}}" + "".join(f"{split:>10}" for split in SPLITS)
        return [
            head,
            *(f"{name:{width}}" + "".join(f"{row[split]:>10,}" for split in SPLITS) for name, row in counts.items()),
        ]


def _by_split(table: pd.DataFrame) -> dict[str, int]:
    counts = table["split"].value_counts()
    return {split: int(counts.get(split, 0)) for split in SPLITS}


def _shared(pairs: pd.DataFrame) -> int:
    return int(pairs["patient_id"].duplicated().groupby(pairs["patient_id"]).any().sum())
