"""Points of a collection that can't be taken along: counted, named, and told at the end of a command."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cbmir.errors import RecordError, StoreError
from cbmir.options import EXIT_FAILURES, echo, print_json, say
from cbmir.schema import ImageRecord, StoredPoint, record_of

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Refusal:
    """A point that was not taken along.

    Attributes:
        id: Of the point.
        filepath: Of its image; empty where the payload doesn't say.
        reason: Why.
    """

    id: str
    filepath: str
    reason: str


class Report(Protocol):
    """What a command did."""

    @property
    def refused(self) -> Sequence[Refusal]:
        """What was not taken along."""


def whole(
    points: Sequence[StoredPoint], refused: list[Refusal], *, foreign: bool = False
) -> tuple[list[StoredPoint], list[ImageRecord]]:
    """The points that can be taken along, and their records; the others are added to `refused`.

    Args:
        points: With vectors.
        refused: Grows.
        foreign: Whether a point whose id isn't ours is refused like others.

    Raises:
        StoreError: see `cbmir.schema.record_of`, unless such points are refused.
    """
    kept, records = [], []
    for point in points:
        try:
            record = record_of(point)
            if point.vector is None:
                raise RecordError("it has no vector")
        except (RecordError, StoreError) as error:
            if isinstance(error, StoreError) and not foreign:
                raise
            refused.append(Refusal(point.id, str(point.payload.get("filepath", "")), str(error)))
            continue
        kept.append(point)
        records.append(record)
    return kept, records


def told(report: Report, as_json: bool) -> int:
    """Print a report, a dataclass with a line as text; the exit code says whether all was taken along."""
    data: Any = report
    if as_json:
        print_json(asdict(data))
    else:
        echo(str(report))
    for item in report.refused[:_SHOWN]:
        say(f"refused: {item.filepath or item.id}: {item.reason}")
    if len(report.refused) > _SHOWN:
        say(f"and {len(report.refused) - _SHOWN:,} more; --json names all")
    return EXIT_FAILURES if report.refused else 0
