"""An account of what was done with each attribute of each file: kept, shifted, hashed or dropped. It holds no value."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cbmir.errors import SourceError
from cbmir.ingest.privacy.profile import fate, profile_source
from cbmir.permissions import private

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Fate:
    """What was done with the attributes of a file.

    Attributes:
        kept: Keywords of attributes whose value is stored, in controlled terms.
        read: Of those that were read to choose a term, an age or a window.
        shifted: Of dates that are stored shifted.
        hashed: Of identifiers that are stored as a keyed hash.
        dropped: Of all others; those without a keyword by their tag.
        private: How many private attributes were dropped; their names may say something.
    """

    kept: tuple[str, ...]
    read: tuple[str, ...]
    shifted: tuple[str, ...]
    hashed: tuple[str, ...]
    dropped: tuple[str, ...]
    private: int


@dataclass(slots=True)
class Audit:
    """The fates of all files of a run."""

    _fates: dict[Fate, int] = field(default_factory=dict)
    _of: list[tuple[str, int]] = field(default_factory=list)

    def see(self, hash: str, dataset: "Dataset", *, whose_known: bool) -> None:
        """Take a file into account.

        Args:
            hash: Its keyed hash.
            dataset: Its header.
            whose_known: Whether it has a patient.
        """
        found = _fate(dataset, whose_known)
        self._of.append((hash, self._fates.setdefault(found, len(self._fates))))

    def write(self, path: Path) -> None:
        """Write it as JSON lines: first what was done, numbered, then each file with its number.

        Raises:
            SourceError: the file can't be written.
        """
        try:
            with private(), path.open("w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in self._lines())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SourceError(f"can't write the audit to {path}: {error.strerror}") from error

    def _lines(self) -> Iterable[str]:
        yield json.dumps({"profile": profile_source()})
        for found, number in self._fates.items():
            what = {name: list(getattr(found, name)) for name in _GROUPS}
            yield json.dumps({"fate": number, **what, "dropped_private": found.private, "masked": []})
        for hash, number in self._of:
            yield json.dumps({"file": f"dicom:{hash}", "fate": number})


def _fate(dataset: "Dataset", whose_known: bool) -> Fate:
    from pydicom.datadict import keyword_for_tag

    groups: dict[str, list[str]] = {name: [] for name in _GROUPS}
    own = 0
    for tag in dataset.keys():  # noqa: SIM118  a dataset iterates over elements, which may fail
        if tag.is_private:
            own += 1
            continue
        name = keyword_for_tag(tag) or f"{int(tag):08x}"
        nobody = name in ("PatientID", "IssuerOfPatientID") and not whose_known
        groups["dropped" if nobody else fate(name)].append(name)
    parts = {name: tuple(sorted(values)) for name, values in groups.items()}
    return Fate(private=own, **parts)


_GROUPS = ("kept", "read", "shifted", "hashed", "dropped")
