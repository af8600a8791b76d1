"""What may not be as the user means it: columns that no field takes, and values that can be read in two ways."""

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from cbmir.aliases import STRONG, is_of_patients, plain
from cbmir.ingest.tables.columns import EXTRA, IGNORED
from cbmir.ingest.tables.labels import UNCERTAIN, flag_of
from cbmir.ingest.tables.survey import Plan
from cbmir.modalities import MODALITIES, is_modality
from cbmir.spellings import is_sex, is_split
from cbmir.units import counted

_EXAMPLES = 3
_DICOM_AGE = re.compile(r"\d{3}[YMWD]")
_SHARED = re.compile(r"^(patient|subject|participant|study|series|image)")
"""Beginnings of names that say little: the rest must be near too."""


def hints(plan: Plan, said: Collection[str]) -> list[str]:
    """Warnings about the columns of a table.

    Args:
        plan: How it is read.
        said: Columns of which the user says what they are.
    """
    free = [place for place in plan.places(EXTRA) if plan.file.names[place] not in said]
    near = dict(_near_misses(plan, free))
    warnings = [
        f"column {name} is kept under extra, but its name is close to {field}: "
        f"if that is what it holds, give --column '{name}={field}'"
        for name, field in near.items()
    ]
    warnings += [
        f"column {name} is kept under extra, but holds only values such as {values}: "
        f"if it is the {field}, give --column '{name}={field}'"
        for name, field, values in _by_content(plan, free)
        if name not in near
    ]
    return [*_uncalculated(plan), *warnings, *_value_warnings(plan), *_patient_names(plan, near)]


def _uncalculated(plan: Plan) -> Iterator[str]:
    for place, cells in plan.file.uncalculated.items():
        if place < len(plan.file.names):
            yield (
                f"column {plan.file.names[place]}: {counted(cells, 'cell')} with a formula that was never calculated, "
                "read as empty: open the workbook in Excel or LibreOffice, save it, and ingest it again"
            )


def id_warnings(plan: Plan) -> list[str]:
    """Warnings that name ids: they are not kept with the collection."""
    warnings = []
    for role in ("patient_id", "study_id", "series_id"):
        short = next((text for text in plan.values.get(role, ()) if _shortened(text)), None)
        if short:
            warnings.append(
                f"{role} {short!r} looks like a long number that a spreadsheet shortened: different ones may have "
                "become one; export the column as text"
            )
    return warnings


def _near_misses(plan: Plan, places: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Columns with the field, of those that no column fills, that their name is near."""
    open_names = {key: field for key, field in STRONG.items() if field not in plan.became}
    for place in places:
        name = plan.file.names[place]
        close = [item for item in difflib.get_close_matches(plain(name), open_names, 3, 0.8) if _rest_near(name, item)]
        if close:
            yield name, open_names[close[0]]


def _rest_near(name: str, known: str) -> bool:
    """Whether names that begin with the same general word are near without it too."""
    shared, other = _SHARED.match(plain(name)), _SHARED.match(known)
    if not shared or not other or shared[1] != other[1]:
        return True
    one, two = plain(name)[shared.end() :], known[shared.end() :]
    return difflib.SequenceMatcher(None, one, two).ratio() >= 0.8


def _by_content(plan: Plan, places: Sequence[int]) -> Iterator[tuple[str, str, str]]:
    """Columns that hold what a field holds which no column fills: name, field, values."""
    tests: dict[str, tuple[Callable[[str], object], int]] = {
        "split": (is_split, 2),
        "modality": (is_modality, 1),
        "sex": (is_sex, 2),
        "age_years": (_DICOM_AGE.fullmatch, 1),
    }
    for place in places:
        values = list(plan.held[place].counts or ())
        for field, (fits, fewest) in tests.items():
            if field not in plan.became and len(values) >= fewest and all(map(fits, values)):
                yield plan.file.names[place], field, ", ".join(values[:_EXAMPLES])
                break


def _patient_names(plan: Plan, named: Collection[str]) -> Iterator[str]:
    """Columns that speak of patients, where none is the patient and no warning has named it."""
    if "patient_id" in plan.became:
        return
    names = [
        name
        for name, role in zip(plan.file.names, plan.became, strict=True)
        if role in (EXTRA, IGNORED) and is_of_patients(name) and name not in named
    ]
    if names:
        yield f"no column is the patient; may it be {' or '.join(names)}? --column '{names[0]}=patient_id'"


def _value_warnings(plan: Plan) -> Iterator[str]:
    for place, splitter in plan.splitters.items():
        if splitter.held_together:
            yield (
                f"{plan.file.names[place]} holds commas, as in {splitter.held_together!r}: taken as one label; "
                "--label-separator , splits there"
            )
        cells = plan.held[place].counts or ()
        if cells and all(flag_of(cell) in ("0", "1", UNCERTAIN) for cell in cells):
            yield (
                f"{plan.file.names[place]} holds only {', '.join(sorted(cells))}: these become the labels; "
                "name them with --values labels:0=normal,1=abnormal"
            )
    unfit = [text for text, split in plan.values.get("split", {}).items() if split and not is_split(split)]
    if unfit:
        yield (
            f"no split: {', '.join(unfit[:_EXAMPLES])}; splits are train, val and test. Such rows fail unless you say "
            f"what they are, for example --values split:{unfit[0]}=test"
        )
    if sexes := plan.values.get("sex"):
        yield from _about_sexes(sexes)
    unlisted = [text for text, code in plan.values.get("modality", {}).items() if code and code not in MODALITIES]
    if unlisted:
        yield (
            f"no known modality: {', '.join(unlisted[:_EXAMPLES])}. If it is another spelling of one (see "
            f"cbmir ingest modalities), give its code, for example --values 'modality:{_example(unlisted)}'"
        )


def _about_sexes(values: Mapping[str, str | None]) -> Iterator[str]:
    if any(text in ("0", "1", "2", "0.0", "1.0", "2.0") and not values[text] for text in values):
        yield "sex is coded in numbers, which data sets use differently: give for example --values sex:0=F,1=M"
    if {"h", "m"} <= {text.casefold() for text in values} and None in values.values():
        yield "sex holds H beside M, which may mean hombre and mujer: give then --values sex:H=M,M=F"


def _example(unlisted: Sequence[str]) -> str:
    """The value that is nearest to a code, which it may be a spelling of; else no code is proposed."""
    for text in unlisted:
        if close := difflib.get_close_matches(text.upper(), MODALITIES, 1, 0.8):
            return f"{text}={close[0]}"
    return f"{unlisted[0]}=CODE"


def _shortened(text: str) -> bool:
    mantissa, sign, exponent = text.upper().partition("E+")
    return bool(sign) and exponent.isdigit() and mantissa.replace(".", "").isdigit()
