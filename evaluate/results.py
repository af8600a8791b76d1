"""What every result of an analysis can do besides its own, and how results are written: JSON, CSV, a data frame.

One writer for all: each file carries the whole configuration and the versions of the programs.
"""

import csv
import html
import json
import math
import platform
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import cbmir
from cbmir.errors import CbmirError
from cbmir.formulas import harmless
from cbmir.wholefile import atomic_write

if TYPE_CHECKING:
    import pandas as pd
    from _typeshed import DataclassInstance

    from cbmir.evaluate.configuration import Configuration

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "qdrant-edge-py", "qdrant-client")
"""Packages whose version can change a result."""


Average = Literal["micro", "macro", "label"]
"""``label``: of one class by itself, in a classification."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        measure: Name of a measure.
        k: Its cutoff.
        average: ``micro``, the mean over queries, or ``macro``, the mean over classes of the class means.
        group: ``all`` queries, or those of a ``modality=...``.
        value: The mean; NaN where no query has a value.
        n: Queries in the mean.
        coverage: Share of the group's queries with a relevant image in the gallery.
        search: How the neighbours were found.
        low: Lower end of the 95% interval, drawn over patients; NaN where there is none.
        high: Upper end.
        patients: Patients of the queries in the mean; queries without a patient id aren't counted.
    """

    measure: str
    k: int
    average: Average
    group: str
    value: float
    n: int
    coverage: float
    search: str
    low: float = math.nan
    high: float = math.nan
    patients: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a result is the answer to.

    Attributes:
        analysis: Name of the analysis.
        configuration: With all its values.
    """

    analysis: str
    configuration: "Configuration"

    def as_json(self) -> dict[str, Any]:
        """The keys of a JSON result."""
        return {
            "analysis": self.analysis,
            "configuration": self.configuration.as_json(),
            "versions": versions(),
        }

    def columns(self) -> dict[str, object]:
        """The columns of a CSV, the same in all rows: ``configuration.k`` and so on."""
        values = {f"configuration.{name}": _cell(value) for name, value in self.configuration.as_json().items()}
        return {
            "analysis": self.analysis,
            **values,
            "versions": "; ".join(f"{name} {number}" for name, number in versions().items()),
        }


class Result(ABC):
    """A result of an analysis: printed it is its table for people, in a notebook too.

    Results are frozen dataclasses with a field `asked`, which `cbmir.evaluate.analysis.Analysis.run` fills.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        asked: Asked | None

    @abstractmethod
    def table(self) -> str:
        """The result for people."""

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """The result as JSON takes it, without what it is the answer to; a value that doesn't exist is null."""

    def of(self, analysis: str, configuration: "Configuration") -> Self:
        """The same result, with what it is the answer to."""
        return replace(self, asked=Asked(analysis, configuration))  # type: ignore[type-var]  # results are dataclasses

    def as_json(self) -> dict[str, Any]:
        """The result as JSON takes it, with the whole configuration and the versions of the programs."""
        return {**self.content(), **(self.asked.as_json() if self.asked else {})}

    @abstractmethod
    def write(self, out: Path) -> list[Path]:
        """Write the result where ``--out`` says.

        Returns:
            The files.

        Raises:
            CbmirError: a file can't be written.
        """

    def shortcomings(self) -> list[str]:
        """What the result lacks that was asked for, a line each; the exit code tells that there is something."""
        return []

    def frame_rows(self) -> list[dict[str, Any]]:
        """The rows of `to_pandas`, with the collection and the encoder where all are of one."""
        card, setting = getattr(self, "encoder", None), getattr(self, "setting", None)
        subject = {"collection": setting.collection, "encoder": card.name} if card and setting else {}
        return [subject | asdict(row) for row in getattr(self, "rows", ())]

    def to_pandas(self) -> "pd.DataFrame":
        """The rows as a data frame."""
        import pandas as pd

        return pd.DataFrame(self.frame_rows())

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>"


class TabularResult(Result):
    """A result whose rows are one CSV file."""

    __slots__ = ()

    @abstractmethod
    def csv_rows(self) -> "Sequence[DataclassInstance]":
        """The rows of the CSV: one or more of one kind."""

    @abstractmethod
    def csv_terms(self) -> Mapping[str, object]:
        """Columns of the CSV that are the same in all rows."""

    def write_csv(self, path: str | Path) -> None:
        """Write the rows, each with what it is a result of, so that files of several encoders can be joined.

        Args:
            path: The file, which is replaced.

        Raises:
            CbmirError: the file can't be written.
        """
        write_rows(Path(path), self.csv_rows(), self.csv_terms(), self.asked)

    def write(self, out: Path) -> list[Path]:
        """Write the rows as CSV."""
        self.write_csv(out)
        return [out]


def figure(value: float, sign: str = "", digits: int = 4) -> str:
    """A figure in a table; - for none, and no sign before a zero.

    Args:
        value: NaN for none.
        sign: ``+`` to have a sign before positive figures too.
        digits: Behind the point.
    """
    if math.isnan(value):
        return "-"
    text = f"{value:{sign}.{digits}f}"
    return text.replace("-", sign) if float(text) == 0 else text


@cache
def versions() -> dict[str, str]:
    """Versions of cbmir, Python and `PACKAGES`."""
    packages = {name: version(name) for name in PACKAGES}
    return {"cbmir": cbmir.__version__, "python": platform.python_version(), **packages}


def row_json(row: "DataclassInstance") -> dict[str, Any]:
    """One row as JSON takes it: null for NaN."""
    return {name: None if _missing(value) else value for name, value in asdict(row).items()}


def write_rows(
    path: Path, rows: "Sequence[DataclassInstance]", terms: Mapping[str, object], asked: Asked | None = None
) -> None:
    """Write rows of one kind as CSV, each with what it is a result of.

    Args:
        path: The file, which is replaced.
        rows: One or more; their fields are the first columns.
        terms: The columns that are the same in all rows.
        asked: What they are the answer to; gives columns too.

    Raises:
        CbmirError: the file can't be written.
    """
    same = {**terms, **(asked.columns() if asked else {})}
    values = (["" if _missing(value) else value for value in asdict(row).values()] for row in rows)
    write_table(path, [*(item.name for item in fields(rows[0])), *same], ([*row, *same.values()] for row in values))


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file.

    Raises:
        CbmirError: the file can't be written.
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(harmless(header))
            writer.writerows(map(harmless, rows))
    except OSError as error:
        raise CbmirError(f"can't write {path}: {error.strerror}") from error


def write_asked(path: Path, asked: Asked | None) -> None:
    """Write what a file is the answer to beside it, as ``NAME.json``, where the file itself has no place for it.

    Args:
        path: A matrix or a table of a fixed layout.
        asked: Configuration and versions; nothing is written without them.

    Raises:
        CbmirError: the file can't be written.
    """
    if asked is not None:
        text = json.dumps(asked.as_json(), indent=1, ensure_ascii=False)
        write_whole(path.with_name(f"{path.name}.json"), text.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, and its folder, so that a crash leaves the old one or the new one.

    Raises:
        CbmirError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content)
    except OSError as error:
        raise CbmirError(f"can't write {path}: {error.strerror}") from error


def _missing(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _cell(value: object) -> object:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else value
