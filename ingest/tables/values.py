"""The cells of a table as texts, as JSON, and as the values of fields."""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from cbmir.errors import RecordError
from cbmir.schema import canonical
from cbmir.spellings import sex_of, split_of

MISSING = frozenset(("", "na", "n/a", "#n/a", "nan", "null", "none", "nat", "<na>", "-", "--"))
"""How tables write that nothing is known, in any case."""

OLDEST = 120
"""Years; an age above is a mistake of the table (ChestX-ray14 has some of 414)."""

_UNITS = r"years?|yrs?|months?|mos?|weeks?|wks?|days?|[YMWD]"
_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_AGE = re.compile(r"(\d+(?:[.,]\d+)?)\s*(" + _UNITS + r")?(?:\s*old)?", re.IGNORECASE)
_IDS = ("patient_id", "study_id", "series_id")
_NOBODY = frozenset(
    ("unknown", "unk", "anonymous", "anonymized", "anonymised", "anon", "not available", "not known", "missing", "?")
)
"""Ids that many images share because nobody knows theirs."""
_DATE_LIKE = re.compile(r"\d{1,4}[./\- ]\s?\w{1,9}[./\-, ]\s?\d{1,4}(\D.*)?")


class AmbiguousDateError(ValueError):
    """A date that isn't ISO, so that day and month can't be told apart."""


def text_of(value: Any) -> str:
    """A cell as text without the space around it, and without what Excel puts before texts; empty where missing."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace").strip()
    if not isinstance(value, str):
        return "" if _empty(value) else _written(value).strip()
    text = value.strip()
    if text[:1] == "'" and text[1:2] and text[1] in "0123456789=+-@":
        text = text[1:]
    elif text[:2] == '="' and text[-1] == '"':
        text = text[2:-1]
    return "" if len(text) < 5 and text.casefold() in MISSING else text


def json_of(value: Any) -> Any:
    """A cell as JSON, None where it is missing; true and false become texts, else an engine can't find them."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", text_of(value)) or None
    if isinstance(value, bool):
        return str(value).lower()
    if _empty(value):
        return None
    if isinstance(value, dict):
        return {str(name): json_of(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_of(item) for item in value]
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)  # the engines hold 64 bits with a sign
    if isinstance(value, float) and math.isfinite(value):
        return value
    return text_of(value)


def years_of(text: str) -> float:
    """An age in years: ``58``, ``058Y``, ``18M`` (months), ``58,5``; ``>89``, ``>=90`` and ``90+`` are 90.

    Raises:
        ValueError: it is no age from 0 to `OLDEST`.
    """
    over = re.fullmatch(r"(>=|≥|>)\s*(\d+)\s*[yY]?", text)
    if over:
        return float(int(over[2]) + (over[1] == ">"))
    found = _AGE.fullmatch(text.removesuffix("+").strip())
    unit = (found[2] or "")[:1].upper() if found else ""
    years = float(found[1].replace(",", ".")) * _YEARS[unit] if found else math.inf
    if not years <= OLDEST:
        raise ValueError(f"{text!r} is no age from 0 to {OLDEST} years")
    return years if unit in ("", "Y") else round(years, 2)


def value_of(field: str, text: str, date_format: str | None = None) -> str:
    """The value of a field in canonical form, as text; empty where the text says that nothing is known.

    Raises:
        AmbiguousDateError: a date that isn't ISO, and no format is given.
        ValueError: the text is no value of the field.
    """
    text = unicodedata.normalize("NFC", text.strip())
    if field in _SPECIAL:
        return _SPECIAL[field](text)
    if field == "study_date":
        return _date(text, date_format)
    if field in _IDS:
        if text.casefold() in _NOBODY:
            return ""
        return re.sub(r"^(\d+)\.0+$", r"\1", text)
    try:
        return canonical(field, text)
    except RecordError as error:
        raise ValueError(str(error)) from error


def _sex(text: str) -> str:
    known = sex_of(text)
    if known is None:
        raise ValueError(f"{text!r} is no sex; write M, F or O")
    return known


def _date(text: str, date_format: str | None) -> str:
    text = re.sub(r"^(\d{8})\.0$", r"\1", text)
    if date_format:
        with suppress(ValueError):  # ISO beside it is read as well
            return datetime.strptime(text, date_format).isoformat()
    try:
        return datetime.fromisoformat(text).isoformat()  # the engines read fewer spellings than Python
    except ValueError as error:
        if not date_format and _DATE_LIKE.fullmatch(text):
            raise AmbiguousDateError(text) from error
        raise ValueError(f"{text!r} is no date") from error


def _age(text: str) -> str:
    years = years_of(text)
    return str(int(years)) if years.is_integer() else repr(years)


_SPECIAL: Mapping[str, Callable[[str], str]] = {"sex": _sex, "age_years": _age, "split": split_of}


def _written(value: Any) -> str:
    """A value of a workbook or of Parquet as text: dates as ISO, without the time where it is midnight."""
    if isinstance(value, datetime):
        return value.isoformat().removesuffix("T00:00:00")
    return str(value)


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
