"""Dates moved back by a number of whole weeks that only the key tells: intervals and days of the week stay."""

from datetime import date, timedelta

from cbmir.keyfile import Key

MAX_WEEKS = 520
"""Ten years."""


def shifted(written: str, whose: str, key: Key) -> str | None:
    """A date of DICOM (``20200115``) as ISO, moved back from 1 to `MAX_WEEKS` weeks.

    Args:
        written: As the header has it; the older ``2020.01.15`` too.
        whose: Keyed hash of the patient, or of the study where nobody knows the patient: all dates of one move alike.
        key: Which number of weeks.

    Returns:
        None where there is no such date.
    """
    real = parsed(written)
    if real is None:
        return None
    try:
        moved = real - timedelta(weeks=1 + key.number("weeks", whose, MAX_WEEKS))
    except OverflowError:
        return None
    return moved.isoformat()


def parsed(written: str) -> date | None:
    """A date of DICOM; None for anything else."""
    plain = written.replace(".", "").strip()
    if len(plain) != 8 or not (plain.isascii() and plain.isdigit()):
        return None
    try:
        return date(int(plain[:4]), int(plain[4:6]), int(plain[6:]))
    except ValueError:
        return None


def years_between(birth: str, then: str) -> float | None:
    """Whole years from one date of DICOM to another; None where one is missing or they are the wrong way round."""
    born, at = parsed(birth), parsed(then)
    if born is None or at is None or at < born:
        return None
    return float(at.year - born.year - ((at.month, at.day) < (born.month, born.day)))
