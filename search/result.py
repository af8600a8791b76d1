"""The answers of a search, as a notebook shows them."""

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbmir.schema import Hit
from cbmir.search.answer import Answer

if TYPE_CHECKING:
    import pandas as pd

    from cbmir.api import Collection


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """The hits of one or several queries. It iterates over the hits; `answers` has them by query.

    Attributes:
        collection: Where they were found.
        answers: One a query, in their order.
    """

    collection: "Collection"
    answers: tuple[Answer, ...]

    @property
    def hits(self) -> tuple[Hit, ...]:
        """All hits, query by query."""
        return tuple(hit for answer in self.answers for hit in answer.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, number: int) -> Hit:
        return self.hits[number]

    def to_pandas(self) -> "pd.DataFrame":
        """A row a hit: query, rank, score, id, how it was found, and the payload; own columns by their names."""
        import pandas as pd

        rows = [
            {"query": answer.query, "rank": hit.rank, "score": hit.score, "id": hit.id, "way": answer.way}
            | _columns(hit.payload)
            for answer in self.answers
            for hit in answer.hits
        ]
        return pd.DataFrame(rows, columns=None if rows else ["query", "rank", "score", "id", "way"])

    def labels(self) -> "pd.DataFrame":
        """A row for each label of each query's hits: its hits and patients, and its images in the whole collection.

        See `cbmir.search.summary.LabelCount`.
        """
        import pandas as pd

        from cbmir.search.summary import label_counts

        rows = [
            {"query": answer.query, **count.as_json()}
            for answer in self.answers
            for count in label_counts(answer.hits, self.collection.core)
        ]
        columns = ["query", "label", "hits", "of", "patients", "stored", "stored_of"]
        return pd.DataFrame(rows, columns=columns)

    def sheet(self, path: str | Path, *, root: str | Path | None = None, allow_missing: bool = False) -> Path:
        """Draw queries and hits into a file.

        Args:
            path: The file: ``.png``, ``.jpg``, ``.svg`` or ``.pdf``.
            root: Folder of the stored images, where they are no longer where ingest read them.
            allow_missing: Draw empty frames for images that aren't there.

        Raises:
            ImageError: an image can't be drawn, or the file can't be written.
        """
        from cbmir.search.sheet import SheetTerms, draw_sheet
        from cbmir.search.shelf import Shelf

        core = self.collection.core
        title = f"{core.name}: nearest by cosine of {core.card.name} {core.card.fingerprint}"
        shelf = Shelf(core, Path(root) if root is not None else None)
        draw_sheet(self.answers, shelf, SheetTerms(path=Path(path), allow_missing=allow_missing, title=title))
        return Path(path)

    def __repr__(self) -> str:
        from cbmir.search.cautions import cautions
        from cbmir.search.output import table

        return "\n".join((table(self.answers), *cautions(self.answers)))

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def _columns(payload: Mapping[str, Any]) -> dict[str, Any]:
    extra = payload.get("extra") or {}
    return {name: value for name, value in payload.items() if name != "extra"} | {
        f"extra.{name}" if name in payload else name: value for name, value in extra.items()
    }
