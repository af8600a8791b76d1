"""What a retrieval measurement found: rows, a table for people, and the neighbours of all queries as a file."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cbmir.evaluate.protocol import NAMED
from cbmir.evaluate.results import Asked, Row, TabularResult, figure, row_json
from cbmir.evaluate.setting import Setting, Side, setting_columns
from cbmir.fingerprint import EncoderCard
from cbmir.units import counted

_RULES = {
    "any": "who shares a value of {}",
    "exact": "who has the same values of {}",
    "jaccard": "who shares half or more of the values of {} (Jaccard index)",
}


@dataclass(frozen=True, slots=True, repr=False)
class RetrievalReport(TabularResult):
    """The result of a retrieval measurement.

    Attributes:
        setting: What was measured, and on which terms.
        encoder: What made the vectors.
        rows: The figures; ``pandas.DataFrame(report.rows)`` makes a frame of them.
        together: Those of all queries when nothing but the query itself is excluded; empty where it is the same.
        asked: What it is the answer to.
    """

    setting: Setting
    encoder: EncoderCard
    rows: tuple[Row, ...]
    together: tuple[Row, ...] = ()
    asked: Asked | None = None

    def content(self) -> dict[str, Any]:
        """The report as JSON takes it; a mean without any query is null."""
        encoder = {**self.encoder.as_json(), "fingerprint": self.encoder.fingerprint}
        data = {
            "protocol": {**asdict(self.setting), **self.setting.header.as_json()},
            "encoder": encoder,
            "rows": [row_json(row) for row in self.rows],
        }
        if self.together:
            data["rows_nothing_excluded"] = [row_json(row) for row in self.together]
        return data

    def csv_rows(self) -> tuple[Row, ...]:
        """The values of all searches and groups."""
        return self.rows

    def csv_terms(self) -> dict[str, object]:
        """Collection, encoder and header."""
        return setting_columns(self.setting, self.encoder, self.setting.header)

    def table(self) -> str:
        """The report for people: the terms, then measures and cutoffs in columns."""
        parts = [[*self._terms()], [*_figures(self.setting, self.rows)], [*self._sureness()]]
        if self.together:
            parts.append(["and when nothing but the query itself is excluded:", *_figures(self.setting, self.together)])
        return "\n\n".join("\n".join(part) for part in parts if part)

    def _terms(self) -> Iterator[str]:
        setting, encoder, exclusion = self.setting, self.encoder, self.setting.exclusion
        images = counted(setting.vectors, "image")
        yield f"collection  {setting.collection}: {images}, {setting.store}, cbmir {setting.version}"
        yield f"encoder     {encoder.name}, {encoder.dim} dimensions, fingerprint {encoder.fingerprint}"
        yield f"queries     {_side(setting.queries)}"
        yield f"gallery     {_side(setting.gallery)}"
        yield from setting.header.lines()
        rule = _RULES[setting.relevance].format(setting.label)
        yield f"relevant    {rule}; the queries have {counted(setting.classes, 'class')}"
        if missing := setting.classes_without_gallery:
            yield f"uncovered   {counted(len(missing), 'class')} without a relevant gallery image: {_few(missing)}"
        yield (
            f"excluded    {' and '.join(['the query itself', *(f'its {name}' for name in exclusion.by)])}: "
            f"{counted(exclusion.images_excluded, 'image')} for {counted(exclusion.queries_affected, 'query')}; "
            f"{counted(exclusion.queries_without_patient, 'query')} without patient_id"
        )
        if warning := setting.warning:
            yield f"WARNING     {warning}"
        yield from setting.intervals.lines()
        yield f"search      {'; '.join(_search(name, setting) for name in setting.search)}"

    def _sureness(self) -> Iterator[str]:
        """The intervals of all queries' figures at the smallest cutoff."""
        setting = self.setting
        shown = [row for row in self.rows if row.group == "all" and row.k == min(setting.k) and not math.isnan(row.low)]
        if shown:
            yield f"95% intervals, {setting.intervals.words}:"
        for row in shown:
            name = f"{row.measure}@{row.k}"
            interval = f"{figure(row.low)} to {figure(row.high)}"
            yield f"{row.average:7} {row.search:12} {name:20} {figure(row.value)}  {interval}"


def _figures(setting: Setting, rows: Sequence[Row]) -> Iterator[str]:
    """A line a group, average and search; behind the cutoffs of a measure its queries, at each where they differ."""
    cells = {(row.group, row.average, row.search, row.measure, row.k): row for row in rows}
    groups = list(dict.fromkeys(row.group for row in rows))
    lines = list(dict.fromkeys((row.group, row.average, row.search, row.coverage) for row in rows))
    lines.sort(key=lambda line: (groups.index(line[0]), line[1] == "macro"))  # the searches one below the other
    counts: dict[tuple[str, ...], str] = {}
    for group, average, search, _ in lines:
        for measure in setting.measures:
            n = [f"{cells[group, average, search, measure, k].n:,}" for k in setting.k]
            counts[group, average, search, measure] = n[0] if len(set(n)) == 1 else "/".join(n)
    wide = max(len(line[0]) for line in lines)
    room = {
        name: 2 + max(7, *(len(text) for (*_, measure), text in counts.items() if measure == name))
        for name in setting.measures
    }
    head = "".join(f"  {measure:<{7 * len(setting.k) + room[measure] - 2}}" for measure in setting.measures)
    yield f"{'':{wide}}  {'':7}  {'':12}{head}".rstrip()
    head = "".join(
        "".join(f"{f'@{k}':>7}" for k in setting.k) + f"{'n':>{room[measure]}}" for measure in setting.measures
    )
    yield f"{'group':{wide}}  {'average':7}  {'search':12}{head}  coverage  patients"
    for group, average, search, coverage in lines:
        figures, patients = "", 0
        for measure in setting.measures:
            mine = [cells[group, average, search, measure, k] for k in setting.k]
            figures += "".join(f"{figure(row.value):>7}" for row in mine)
            figures += f"{counts[group, average, search, measure]:>{room[measure]}}"
            patients = max(patients, *(row.patients for row in mine))
        yield f"{group:{wide}}  {average:7}  {search:12}{figures}  {coverage:>8.4f}  {patients:>8,}"


def _side(side: Side) -> str:
    return f"{side.filter}: {counted(side.images, 'image')} of {_few(tuple(side.datasets))}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _search(name: str, setting: Setting) -> str:
    if name == "exact":
        return "exact, a scan of all vectors"
    if name == "qdrant-exact":
        return "qdrant-exact, the engine's scan of all vectors"
    return f"{name}, ef {setting.ef}, {setting.indexed:,} of {counted(setting.vectors, 'vector')} in the HNSW graph"
