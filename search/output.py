"""Answers as a table for people, CSV for spreadsheets, JSON for programs."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cbmir.filters import own_column, own_field
from cbmir.schema import FIELDS, PAYLOAD_FIELDS
from cbmir.search.answer import Answer
from cbmir.search.cautions import MAYBE_SAME

_COLUMNS = tuple(field.name for field in PAYLOAD_FIELDS if field.kind != "object" and not field.internal)


def table(answers: Sequence[Answer], show: Sequence[str] = ()) -> str:
    """A block a query under a header: rank, cosine, label, split, patient, what is to be shown, file path."""
    if not any(answer.hits for answer in answers):
        header = []
    else:
        named = "".join(f"  {name:12}" for name in show)
        score = "fused" if any(answer.fused for answer in answers) else "cosine"
        header = [f"{'rank':>5}  {score:6}  {'label':28}  {'split':5}  {'patient':20}{named}  file"]
    lines = list(header)
    for answer in answers:
        lines.append(f"{_query(answer)}  {answer.reason or ''}".rstrip())
        for hit in answer.hits:
            label = str(hit.payload.get("primary_label", "-"))
            split, patient = (str(hit.payload.get(name, "-")) for name in ("split", "patient_id"))
            place = hit.payload.get("filepath", hit.id)
            shown = "".join(f"  {shown_value(hit.payload, name) or '-':12}" for name in show)
            mark = f"  ({MAYBE_SAME})" if hit.id in answer.suspected else ""
            lines.append(f"{hit.rank:>5}  {hit.score:.4f}  {label:28}  {split:5}  {patient:20}{shown}  {place}{mark}")
        if not answer.hits and not answer.reason:
            lines.append("       nothing stored satisfies the filter")
    return "\n".join(lines)


def csv_wide(answers: Sequence[Answer], show: Sequence[str] = ()) -> str:
    """A row a query: its path, then the file paths of its hits under the columns 1 to k."""
    depth = max((len(answer.hits) for answer in answers), default=0)
    rows = [[answer.query, *(str(hit.payload.get("filepath", hit.id)) for hit in answer.hits)] for answer in answers]
    return _csv(["query", *(str(rank) for rank in range(1, depth + 1))], rows)


def csv_long(answers: Sequence[Answer], show: Sequence[str] = ()) -> str:
    """A row a hit: query, rank, cosine, id, how the query was answered, payload and the own columns to show.

    Lists are joined by ``|``.
    """
    own = [name for name in show if name not in _COLUMNS]
    rows = [
        [answer.query, hit.rank, hit.score, hit.id, answer.way]
        + [shown_value(hit.payload, name) for name in (*_COLUMNS, *own)]
        for answer in answers
        for hit in answer.hits
    ]
    return _csv(["query", "rank", "score", "id", "way", *_COLUMNS, *own], rows)


def as_json(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """A list of queries, each with its hits and how they were found, or the reason it failed."""
    return [
        {
            "query": answer.query,
            "reason": answer.reason,
            "way": answer.way,
            "score": "fused ranks" if answer.fused else "cosine",
            "cautions": list(answer.cautions),
            "hits": [
                {"id": hit.id, "rank": hit.rank, "score": hit.score}
                | {"possibly_same_patient": hit.id in answer.suspected, "payload": dict(hit.payload)}
                for hit in answer.hits
            ],
        }
        for answer in answers
    ]


FORMATS: Mapping[str, Callable[[Sequence[Answer], Sequence[str]], str]] = {
    "table": table,
    "csv": csv_wide,
    "csv-long": csv_long,
}


def _query(answer: Answer) -> str:
    """The path of a file; of a stored image its id, with what people know it by."""
    if answer.file is not None or answer.stored is None:
        return answer.query
    payload = answer.stored.payload
    return f"{answer.query}  {payload.get('dataset', '-')}/{payload.get('filepath', '-')}"


def shown_value(payload: Mapping[str, Any], name: str) -> str:
    """A payload field or an own column as text, empty where a hit has none; lists are parted by ``|``."""
    own = None if name in FIELDS else own_column(own_field(name))
    value = payload.get(name, "") if own is None else (payload.get("extra") or {}).get(own, "")
    return "|".join(map(str, value)) if isinstance(value, list) else str(value)


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")
