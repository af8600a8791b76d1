"""From the lists of a published data set to a table: rules, then files, then counts."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from cbmir.errors import SourceError
from cbmir.ingest.datasets.base import DATASETS, Listing, Mode
from cbmir.ingest.datasets.report import PrepareReport
from cbmir.ingest.datasets.tree import Tree, read_lines
from cbmir.ingest.report import Failure
from cbmir.ingest.tables.writing import ONLY_WHERE_NEEDED, written
from cbmir.units import counted

_FIRST = ("filepath", "dataset", "split", "modality", "anatomic_region")
_THEN = ("patient_id", "study_id", "view", "sex", "age_years")


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """What may be asked of a preparation.

    Attributes:
        labels: ``single``, the published rule, or ``multi``, every label.
        ignore: A text file of images to leave out, a line each, as the lists or the table name them.
    """

    labels: Mode = "single"
    ignore: Path | None = None


@dataclass(frozen=True)
class Preparation:
    """A table, and how it came about.

    Attributes:
        table: A row an image: the columns of the published tables, then what is known of the patient, then a column a
            label, 1 or 0.
        report: Counts.
        failures: Images without a file.
        folder: Where the data set lies.
    """

    table: pd.DataFrame
    report: PrepareReport
    failures: tuple[Failure, ...]
    folder: Path

    def write(self, path: Path) -> None:
        """Write the table, whole or not at all.

        Args:
            path: A CSV, gzipped if its name ends so; replaced if it exists.

        Raises:
            SourceError: it can't be written, a file name is no text, or the path is that of an official list.
        """
        if path.exists() and any(path.samefile(self.folder / source) for source in self.report.sources):
            raise SourceError(f"{path} is an official list of {self.report.dataset}; give the table another name")
        with written(path) as stream:
            pa_csv.write_csv(pa.Table.from_pandas(self.table, preserve_index=False), stream, ONLY_WHERE_NEEDED)


def prepare(name: str, folder: Path, options: PrepareOptions | None = None) -> Preparation:
    """Apply the published rules of a data set to its lists and check that its files are there.

    File paths in the table are relative to the folder.

    Args:
        name: One of `DATASETS`.
        folder: Where the data set lies, or a folder above it.
        options: The published rule unless given.

    Raises:
        SourceError: no such data set; a list is missing or damaged; or none of the images is there.
    """
    options = options or PrepareOptions()
    if name not in DATASETS:
        raise SourceError(f"no data set {name!r}; there are {', '.join(sorted(DATASETS))}")
    tree = Tree.walk(folder)
    listing = DATASETS[name](tree, options.labels)
    rows = listing.rows
    notes = listing.notes
    if options.ignore:
        notes += _leave_out(rows, options.ignore)
    _leave_out_repeated(rows)
    due = rows["left_out"] == ""
    kept = due & rows["filepath"].notna()
    missing = rows["listed"][due & ~kept]
    if not kept.any():
        raise SourceError(_nothing(listing, folder, missing))
    table = _table(rows[kept], listing)
    left_out = Counter({reason: count for reason, count in listing.no_row.items() if count})
    left_out.update(rows["left_out"][~due].tolist())
    report = PrepareReport.of(
        listing.dataset,
        table,
        labels=options.labels,
        sources=listing.sources,
        left_out=dict(left_out.most_common()),
        failed=len(missing),
        notes=notes,
    )
    reason = f"no such file below {folder}"
    return Preparation(table, report, tuple(Failure(path, listing.dataset, reason) for path in missing), folder)


def _leave_out(rows: pd.DataFrame, ignore: Path) -> tuple[str, ...]:
    """Mark the images of an ignore list; says how many of its names are no image."""
    names = set(read_lines(ignore))
    meant = rows["listed"].isin(names) | rows["filepath"].isin(names)
    rows["left_out"] = rows["left_out"].mask(meant & (rows["left_out"] == ""), "in the ignore list")
    unknown = names - set(rows["listed"][meant]) - set(rows["filepath"][meant])
    return (f"names in {ignore} that are no image of the lists: {len(unknown):,} of {len(names):,}",) if unknown else ()


def _leave_out_repeated(rows: pd.DataFrame) -> None:
    """Mark images that come again: one image has one row, and one split."""
    due = rows[rows["left_out"] == ""]
    first = due.drop_duplicates("listed").set_index("listed")["split"]
    again = due[due["listed"].duplicated()]
    same = again["split"].to_numpy() == again["listed"].map(first).to_numpy()
    rows.loc[again.index, "left_out"] = np.where(same, "listed again", "listed again, in another split")


def _table(rows: pd.DataFrame, listing: Listing) -> pd.DataFrame:
    rows = rows.assign(dataset=listing.dataset)
    columns = [*_FIRST, *(name for name in _THEN if name in rows)]
    return pd.concat([rows[columns], listing.labels.loc[rows.index].astype(np.int8)], axis=1).reset_index(drop=True)


def _nothing(listing: Listing, folder: Path, missing: "pd.Series[str]") -> str:
    if missing.empty:
        return f"the rules leave no image of the {len(listing.rows):,} that the lists of {listing.dataset} name"
    return (
        f"of {counted(len(missing), 'image')} of {listing.dataset} none is below {folder}; "
        f"the lists name {missing.iloc[0]}, for one"
    )
