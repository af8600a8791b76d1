"""How a table or a folder was read, for the user to check before anything is stored."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cbmir.modalities import MODALITIES
from cbmir.store.columns import IndexKind
from ingest.tables.columns import EXTRA, IGNORED, LABEL, plain
from ingest.tables.labels import UNCERTAIN, flag_of
from ingest.tables.options import TableOptions
from ingest.tables.survey import Plan, uncertain

_EXAMPLES = 3
_WIDE = 40
"""Label columns of which each has a line of its own; more are shown together."""


@dataclass(frozen=True, slots=True)
class ColumnReading:
    """One column of a table.

    Attributes:
        name: As in the header.
        became: The field it fills, ``label``, ``extra`` or ``ignored``.
        first: Its first distinct values.
        empty: Rows without a value.
        kind: Of the index that finds its values: ``float`` if all are numbers, else ``keyword``.
    """

    name: str
    became: str
    first: tuple[str, ...]
    empty: int
    kind: IndexKind = "keyword"


@dataclass(frozen=True, slots=True)
class Change:
    """Values of one field that are stored in another form, or not at all.

    Attributes:
        field: The field.
        images: Rows that it concerns.
        examples: What the table has, and what is stored instead; nothing for a value that can't be read.
    """

    field: str
    images: int
    examples: Mapping[str, str]

    def __str__(self) -> str:
        """For people."""
        shown = ", ".join(f"{old} -> {new}" if new else old for old, new in self.examples.items())
        return f"{self.field} of {self.images:,}: {shown}"


@dataclass(frozen=True, slots=True)
class Tally:
    """What the items of a source come to.

    Attributes:
        images: Items that can be tried.
        failed: Rows and folders that can't be read.
        patients: Different ones.
        studies: Different ones.
        without_patient: Images of which the patient isn't known.
        without_study: Images of which the study isn't known.
        labels: Different ones.
        without_label: Images without any.
        first_labels: The first different ones.
        bare_labels: Images whose first label names no modality and region.
        datasets: Their data sets, sorted.
    """

    images: int
    failed: int
    patients: int
    studies: int
    without_patient: int
    without_study: int
    labels: int
    without_label: int
    first_labels: tuple[str, ...]
    bare_labels: int
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """How a source was read.

    Attributes:
        source: Name of the table or folder.
        form: How it is written.
        columns: Of a table.
        label_columns: The label columns, in the table's order.
        label_rule: How labels were made from cells or folders.
        tally: Counts.
        normalised: Values that are stored in the canonical form of their field.
        lost: Values that can't be read; their images are stored without them.
        notes: What was done besides.
        warnings: What may not be as the user means it.
    """

    source: str
    form: str
    tally: Tally
    columns: tuple[ColumnReading, ...] = ()
    label_columns: tuple[str, ...] = ()
    label_rule: str = ""
    normalised: tuple[Change, ...] = ()
    lost: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        tally = self.tally
        failed = f" and {tally.failed:,} that can't be read" if tally.failed else ""
        yield f"how {self.source} is read: {tally.images:,} images{failed}; {self.form}"
        labels = [column for column in self.columns if column.became == LABEL]
        apart = labels if len(labels) > _WIDE else []
        shown = [column for column in self.columns if column not in apart]
        wide = min(max((len(column.name) for column in shown), default=0), 40)
        for column in shown:
            values = ", ".join(f"{value:.40}" for value in column.first)
            yield f"  {column.name:{wide}}  {column.became:15}  {column.empty:>9,} empty  {values}".rstrip()
        if apart:
            yield f"  and {len(apart):,} label columns, {apart[0].name} to {apart[-1].name}"
        yield f"  labels: {tally.labels:,} different, {tally.without_label:,} images without; {self.label_rule}"
        if tally.first_labels:
            yield f"  first labels: {', '.join(tally.first_labels)}"
        yield (
            f"  patients: {tally.patients:,}, {tally.without_patient:,} images without; "
            f"studies: {tally.studies:,}, {tally.without_study:,} images without"
        )
        yield from (f"  normalised: {change}" for change in self.normalised)
        yield from (f"  {note}" for note in self.notes)
        yield from (f"warning: can't be read and is left out: {change}" for change in self.lost)
        yield from (f"warning: {text}" for text in self.warnings)


def tally_warnings(tally: Tally) -> list[str]:
    """What counts say that a user should know."""
    warnings = []
    if tally.images and not tally.patients:
        warnings.append(
            "no image has a patient_id: evaluations can't leave out images of the query's own patient, "
            "and their results may be far too good. If a column holds patients, give --column NAME=patient_id"
        )
    if tally.images and not tally.labels:
        warnings.append("no image has a label: evaluations by label are not possible")
    elif tally.bare_labels:
        warnings.append(
            f"the labels of {tally.bare_labels:,} images name no modality and region: if all are of one kind, give for "
            "example --set modality=XR --set anatomic_region=chest"
        )
    return warnings


def reading_of(plan: Plan, name: str, tally: Tally, options: TableOptions) -> Reading:
    """How a table was read, from the plan and the counts of its rows."""
    names, became = plan.file.names, plan.became
    columns = tuple(
        ColumnReading(name, role, tuple(held.first), held.empty, "float" if held.numbers else "keyword")
        for name, role, held in zip(names, became, plan.held, strict=True)
    )
    changes = [_changes(plan, place, role) for place, role in enumerate(became) if role in plan.values]
    return Reading(
        source=name,
        form=plan.file.form,
        tally=tally,
        columns=columns,
        label_columns=tuple(name for name, role in zip(names, became, strict=True) if role in ("labels", LABEL)),
        label_rule=_label_rule(plan, options),
        normalised=tuple(change for change, _ in changes if change.images),
        lost=tuple(change for _, change in changes if change.images),
        notes=tuple(_notes(plan, options)),
        warnings=(*plan.warnings, *_value_warnings(plan), *_patient_names(plan), *tally_warnings(tally)),
    )


def _changes(plan: Plan, place: int, role: str) -> tuple[Change, Change]:
    """Values in another form, and values that can't be read."""
    counts = plan.held[place].counts or Counter()
    new = {old: value for old, value in plan.values[role].items() if value not in (old, None)}
    bad = [old for old, value in plan.values[role].items() if value is None]
    return (
        Change(role, sum(counts[old] for old in new), {old: new[old] or "nothing" for old in list(new)[:_EXAMPLES]}),
        Change(role, sum(counts[old] for old in bad), dict.fromkeys(bad[:_EXAMPLES], "")),
    )


def _label_rule(plan: Plan, options: TableOptions) -> str:
    one_hot, texts = plan.places(LABEL), plan.places("labels")
    parts = []
    for place in texts:
        splitter = plan.splitters[place]
        how = "as lists" if splitter.lists or plan.held[place].lists else ""
        how = how or (f"split at {' and '.join(splitter.separators)}" if splitter.separators else "one a cell")
        parts.append(f"{plan.file.names[place]} {how}")
    if one_hot:
        parts.append(f"{len(one_hot):,} columns that hold 1")
    if count := uncertain(plan):
        word = {"omit": "left out, kept under extra.uncertain", "positive": "labels", "negative": "no labels"}
        parts.append(f"{count:,} cells hold -1 (uncertain): {word[options.uncertain]}")
    return "; ".join(parts) or "no column of labels"


def _notes(plan: Plan, options: TableOptions) -> Iterator[str]:
    if plan.file.headers:
        yield f"the header comes again in {plan.file.headers:,} lines: left out"
    if plan.file.others:
        yield f"further sheets are not read: {', '.join(plan.file.others)}"
    if options.label_columns:
        yield f"--label-columns: {', '.join(plan.file.names[place] for place in plan.places(LABEL))}"


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
    for role, values in plan.values.items():
        if role == "sex" and any(text in ("0", "1", "2", "0.0", "1.0", "2.0") and not values[text] for text in values):
            yield "sex is coded in numbers, which data sets use differently: give for example --values sex:0=F,1=M"
        if role == "sex" and {"h", "m"} <= {text.casefold() for text in values} and None in values.values():
            yield "sex holds H beside M, which may mean hombre and mujer: give then --values sex:H=M,M=F"
        if role == "modality" and (
            unlisted := [text for text, code in values.items() if code and code not in MODALITIES]
        ):
            yield (
                f"no known modality: {', '.join(unlisted[:_EXAMPLES])}. If it is another spelling of one (see "
                f"cbmir ingest modalities), give for example --values 'modality:{unlisted[0]}=MR'"
            )
        if role in ("patient_id", "study_id", "series_id"):
            short = next((text for text in values if _shortened(text)), None)
            if short:
                yield (
                    f"{role} {short!r} looks like a long number that a spreadsheet shortened: different ones may have "
                    "become one; export the column as text"
                )


def _shortened(text: str) -> bool:
    mantissa, sign, exponent = text.upper().partition("E+")
    return bool(sign) and exponent.isdigit() and mantissa.replace(".", "").isdigit()


def _patient_names(plan: Plan) -> Iterator[str]:
    """Columns that speak of patients, where none is the patient."""
    if "patient_id" in plan.became:
        return
    names = [
        name
        for name, role in zip(plan.file.names, plan.became, strict=True)
        if role in (EXTRA, IGNORED) and any(word in plain(name) for word in ("patient", "subject"))
    ]
    if names:
        yield f"no column is the patient; may it be {' or '.join(names)}? --column '{names[0]}=patient_id'"
