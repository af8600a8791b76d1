"""Answers as a table for people, CSV for spreadsheets, JSON for programs."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cbmir.schema import PAYLOAD_FIELDS
from search.searcher import Answer

_COLUMNS = tuple(field.name for field in PAYLOAD_FIELDS if field.kind != "object" and not field.internal)


def table(answers: Sequence[Answer]) -> str:
    """A block a query: rank, cosine, label, split, patient, file path."""
    lines = []
    for answer in answers:
        lines.append(f"{_query(answer)}  {answer.reason or ''}".rstrip())
        for hit in answer.hits:
            label = str(hit.payload.get("primary_label", "-"))
            split, patient = (str(hit.payload.get(name, "-")) for name in ("split", "patient_id"))
            place = hit.payload.get("filepath", hit.id)
            lines.append(f"{hit.rank:>5}  {hit.score:.4f}  {label:28}  {split:5}  {patient:20}  {place}")
        if not answer.hits and not answer.reason:
            lines.append("       nothing stored satisfies the filter")
    return "\n".join(lines)


def csv_wide(answers: Sequence[Answer]) -> str:
    """A row a query: its path, then the file paths of its hits under the columns 1 to k."""
    depth = max((len(answer.hits) for answer in answers), default=0)
    rows = [[answer.query, *(str(hit.payload.get("filepath", hit.id)) for hit in answer.hits)] for answer in answers]
    return _csv(["query", *(str(rank) for rank in range(1, depth + 1))], rows)


def csv_long(answers: Sequence[Answer]) -> str:
    """A row a hit: query, rank, cosine, id, how the query was answered, and payload; lists are joined by ``|``."""
    rows = [
        [answer.query, hit.rank, hit.score, hit.id, answer.way, *(_cell(hit.payload, name) for name in _COLUMNS)]
        for answer in answers
        for hit in answer.hits
    ]
    return _csv(["query", "rank", "score", "id", "way", *_COLUMNS], rows)


def as_json(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """A list of queries, each with its hits and how they were found, or the reason it failed."""
    return [
        {
            "query": answer.query,
            "reason": answer.reason,
            "way": answer.way,
            "hits": [
                {"id": hit.id, "rank": hit.rank, "score": hit.score, "payload": dict(hit.payload)}
                for hit in answer.hits
            ],
        }
        for answer in answers
    ]


FORMATS: Mapping[str, Callable[[Sequence[Answer]], str]] = {"table": table, "csv": csv_wide, "csv-long": csv_long}


def _query(answer: Answer) -> str:
    """The path of a file; of a stored image its id, with what people know it by."""
    if answer.file is not None or answer.stored is None:
        return answer.query
    payload = answer.stored.payload
    return f"{answer.query}  {payload.get('dataset', '-')}/{payload.get('filepath', '-')}"


def _cell(payload: Mapping[str, Any], name: str) -> str:
    value = payload.get(name, "")
    return "|".join(value) if isinstance(value, list) else str(value)


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")
