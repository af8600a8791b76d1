"""The region that a DICOM image shows, by three sources in turn and a table of words that users extend.

The table is ``dicom_regions.csv``: English, German and French words of the body part and of series descriptions, and
codes (SNOMED CT and the older SRT) of the anatomic region. The first row that fits counts.
"""

import csv
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cbmir.media.dicom_header import items, text
from cbmir.schema import slug
from cbmir.smalltable import read_small_table

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "StudyDescription")
_OF_CODES = "AnatomicRegionSequence"
Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RegionFound:
    """The region of an image.

    Attributes:
        region: Of the first source that names one; None where none does.
        by_source: ``body_part``, ``code`` or ``description`` to the region that it names.
    """

    region: str | None
    by_source: Mapping[str, str]

    @property
    def disagrees(self) -> bool:
        """Whether two sources name different regions."""
        return len(set(self.by_source.values())) > 1


def region_of(dataset: "Dataset", rules: Rules = ()) -> RegionFound:
    """The region of an image by its body part, else its anatomic region, else its descriptions.

    Args:
        dataset: Header of the file.
        rules: Of the user, before the table: words and their region.
    """
    found = {
        "body_part": _by_words(text(dataset, "BodyPartExamined"), rules),
        "code": _by_code(dataset),
        "description": next(filter(None, (_by_words(text(dataset, name), rules) for name in _DESCRIPTIONS)), None),
    }
    named = {source: region for source, region in found.items() if region}
    return RegionFound(next(iter(named.values()), None), named)


def read_rules(path: Path) -> Rules:
    """Rules of a user: a CSV with the columns ``words``, which are separated by | and may end in *, and ``region``.

    Raises:
        SourceError: the file can't be read, or has other columns.
    """
    rows = read_small_table(path, ("words", "region"), "words for regions")
    return tuple((row["words"], slug(row["region"])) for row in rows if row["words"])


@lru_cache(1)
def _table() -> tuple[tuple[str, str, frozenset[str]], ...]:
    with Path(__file__).with_name("dicom_regions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return tuple((region, words, frozenset(codes[0].split("|"))) for region, words, *codes in rows)


@lru_cache(512)
def _pattern(words: str) -> re.Pattern[str]:
    each = (re.escape(_plain(word.rstrip("*"))) + (r"\w*" if word.endswith("*") else "") for word in words.split("|"))
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(each)})(?![^\W_])")


@lru_cache(4096)
def _by_words(written: str, rules: Rules) -> str | None:
    plain = _plain(written)
    if not plain:
        return None
    both: Sequence[tuple[str, str]] = (*rules, *((words, region) for region, words, _ in _table()))
    return next((region for words, region in both if _pattern(words).search(plain)), None)


def _by_code(dataset: "Dataset") -> str | None:
    for item in items(dataset, _OF_CODES):
        code = text(item, "CodeValue")
        for region, _, codes in _table():
            if code and code in codes:
                return region
        if found := _by_words(text(item, "CodeMeaning"), ()):
            return found
    return None


def _plain(written: str) -> str:
    """In lower case, without accents, with one space for everything that is no letter or digit."""
    bare = unicodedata.normalize("NFKD", written.casefold().replace("ß", "ss"))
    bare = "".join(letter for letter in bare if not unicodedata.combining(letter))
    return " ".join(re.sub(r"[\W_]+", " ", bare).split())
