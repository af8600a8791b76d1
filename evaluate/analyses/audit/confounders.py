"""Which fields may lead neighbours astray."""

from collections.abc import Sequence

from tqdm import tqdm

from cbmir.errors import ProtocolError
from cbmir.evaluate.protocol import NAMED
from cbmir.evaluate.ranking.trial import SCROLL_IMAGES
from cbmir.filters import Where
from cbmir.schema import FIELDS
from cbmir.store import Collection

USUAL = ("dataset", "view", "sex")
"""Payload fields that are looked at unless others are named."""

USUAL_EXTRA = ("site", "hospital", "institution", "scanner", "manufacturer", "model_name", "station", "plane")
"""The same below the field ``extra``, in upper or lower case."""

FITTING = tuple(
    name for name, field in FIELDS.items() if field.indexed and field.kind in ("keyword", "integer") and not field.many
)
"""Payload fields that can be confounders: those of one keyword or whole number."""

_EXTRA = "extra."


def find_confounders(collection: Collection, where: Where, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The fields to look at.

    Args:
        collection: Where the images are.
        where: Which of them are looked at.
        asked: Some of `FITTING`, or ``extra.NAME``; None for `USUAL` and what the images have of `USUAL_EXTRA`.

    Raises:
        ProtocolError: a field can't be a confounder or no image has it; the message names those there are.
    """
    needed = asked is None or any(name.startswith(_EXTRA) for name in asked)
    there = _extra_fields(collection, where) if needed else set()
    if asked is None:
        return (*USUAL, *sorted(name for name in there if name.removeprefix(_EXTRA).lower() in USUAL_EXTRA))
    for name in asked:
        if name.startswith(_EXTRA) and name not in there:
            listed = ", ".join(sorted(there)[:NAMED]) + (", ..." if len(there) > NAMED else "")
            raise ProtocolError(f"no image has {name}; they have {listed or 'nothing in extra'}")
        if not name.startswith(_EXTRA) and name not in FITTING:
            raise ProtocolError(f"{name!r} can't be a confounder; there are {', '.join(FITTING)} and extra.NAME")
    return tuple(dict.fromkeys(asked))


def _extra_fields(collection: Collection, where: Where) -> set[str]:
    """``extra.NAME`` of all that some image has in ``extra``."""
    there: set[str] = set()
    with tqdm(total=collection.count(where), desc="fields", unit="image", leave=False, disable=None) as bar:
        for points in collection.scroll(where, fields=["extra"], batch=SCROLL_IMAGES):
            there.update(_EXTRA + key for point in points for key in point.payload.get("extra", {}))
            bar.update(len(points))
    return there
