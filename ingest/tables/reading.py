"""How a table or a folder was read, for the user to check before anything is stored."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cbmir.ingest.tables.columns import LABEL
from cbmir.ingest.tables.hints import hints, id_warnings
from cbmir.ingest.tables.options import TableOptions
from cbmir.ingest.tables.survey import Plan, uncertain
from cbmir.ingest.tables.tally import Tally, tally_warnings
from cbmir.store.columns import IndexKind
from cbmir.units import counted

_EXAMPLES = 3
_VALUE = 40
"""Characters of a value that are shown."""
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
        id_warnings: The same, naming ids; they are not kept with a collection.
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
    id_warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        tally = self.tally
        failed = f" and {tally.failed:,} that can't be read" if tally.failed else ""
        yield f"how {self.source} is read: {counted(tally.images, 'image')}{failed}; {self.form}"
        yield from (f"  can't be read, {reason}" for reason in tally.reasons)
        labels = [column for column in self.columns if column.became == LABEL]
        apart = labels if len(labels) > _WIDE else []
        shown = [column for column in self.columns if column not in apart]
        wide = min(max((len(column.name) for column in shown), default=0), 40)
        for column in shown:
            values = ", ".join(map(_short, column.first))
            yield f"  {column.name:{wide}}  {column.became:15}  {column.empty:>9,} empty  {values}".rstrip()
        if apart:
            yield f"  and {len(apart):,} label columns, {apart[0].name} to {apart[-1].name}"
        unlabelled = counted(tally.without_label, "image")
        yield f"  labels: {tally.labels:,} different, {unlabelled} without; {self.label_rule}"
        if tally.first_labels:
            yield f"  first labels: {', '.join(tally.first_labels)}"
        yield (
            f"  patients: {tally.patients:,}, {counted(tally.without_patient, 'image')} without; "
            f"studies: {tally.studies:,}, {counted(tally.without_study, 'image')} without"
        )
        if tally.splits:
            without = tally.images - sum(tally.splits.values())
            counts = ", ".join(f"{name} {count:,}" for name, count in tally.splits.items())
            yield f"  splits: {counts}, {counted(without, 'image')} without"
        yield from (f"  normalised: {change}" for change in self.normalised)
        yield from (f"  {note}" for note in self.notes)
        yield from (f"warning: can't be read and is left out: {change}" for change in self.lost)
        yield from (f"warning: {text}" for text in (*self.warnings, *self.id_warnings))


def reading_of(plan: Plan, name: str, tally: Tally, options: TableOptions, about_ids: Sequence[str] = ()) -> Reading:
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
        warnings=(*plan.warnings, *hints(plan, options.columns), *tally_warnings(tally)),
        id_warnings=(*id_warnings(plan), *about_ids),
    )


def _short(value: str) -> str:
    return value if len(value) <= _VALUE else f"{value[: _VALUE - 3]}..."


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
        parts.append(f"a 1 in {counted(len(one_hot), 'column')}")
    if count := uncertain(plan):
        word = {"omit": "left out, kept under extra.uncertain", "positive": "labels", "negative": "no labels"}
        parts.append(f"a -1 (uncertain) in {counted(count, 'cell')}: {word[options.uncertain]}")
    return "; ".join(parts) or "no column of labels"


def _notes(plan: Plan, options: TableOptions) -> Iterator[str]:
    if plan.file.headers:
        yield f"the header comes again in {counted(plan.file.headers, 'line')}: left out"
    if plan.file.others:
        yield f"further sheets are not read: {', '.join(plan.file.others)}"
    if options.label_columns:
        yield f"--label-columns: {', '.join(plan.file.names[place] for place in plan.places(LABEL))}"
