"""A contact sheet: a row a query, its hits beside it with label and score, to be looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from cbmir.errors import ImageError
from cbmir.media import render
from cbmir.root import Root
from search.searcher import Answer

TILE_PX = 192
MAX_ROWS = 40
_TEXT_PX = 46
_GAP_PX = 8
_INK, _FAINT, _PAPER, _SAME, _OTHER = "#111111", "#666666", "#ffffff", "#1a7f37", "#b35900"


@dataclass(frozen=True, slots=True)
class SheetResult:
    """What was drawn.

    Attributes:
        rows: Queries drawn, `MAX_ROWS` at most.
        missing: Pictures that could not be read and are drawn as an empty frame.
    """

    rows: int
    missing: int


def draw_sheet(
    answers: Sequence[Answer], root: Path, path: Path, window_hu: tuple[float, float] | None = None
) -> SheetResult:
    """Draw queries and hits into a PNG.

    Args:
        answers: A row each.
        root: Folder that the stored file paths are relative to.
        path: The PNG.
        window_hu: Black and white of volumes, which are drawn as their middle slice; None for the range of each.

    Raises:
        ImageError: the file can't be written.
    """
    shown = [answer for answer in answers if answer.reason is None][:MAX_ROWS]
    columns = 1 + max((len(answer.hits) for answer in shown), default=0)
    size = (_GAP_PX + columns * (TILE_PX + _GAP_PX), _GAP_PX + max(len(shown), 1) * (TILE_PX + _TEXT_PX + _GAP_PX))
    sheet = _Sheet(Image.new("RGB", size, _PAPER), Root(root), window_hu)
    for row, answer in enumerate(shown):
        own = answer.stored.payload if answer.stored else {}
        there = Path(answer.query).exists()
        query = Path(answer.query) if there else str(own.get("filepath", answer.query))
        sheet.tile(row, 0, query, ["query", str(own.get("primary_label") or Path(query).name)], _INK)
        for hit in answer.hits:
            lines = [f"{hit.rank}.  cosine {hit.score:.3f}", str(hit.payload.get("primary_label", "no label"))]
            sheet.tile(row, hit.rank, str(hit.payload.get("filepath")), lines, _colour(own, hit.payload))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.image.save(path, format="PNG")
    except OSError as error:
        raise ImageError(f"the sheet {path} can't be written: {error.strerror}") from error
    return SheetResult(len(shown), sheet.missing)


class _Sheet:
    def __init__(self, image: Image.Image, root: Root, window_hu: tuple[float, float] | None) -> None:
        self.image = image
        self._root = root
        self._window_hu = window_hu
        self.missing = 0
        self._draw = ImageDraw.Draw(image)
        self._font = ImageFont.load_default(14)

    def tile(self, row: int, column: int, picture: Path | str, lines: list[str], ink: str) -> None:
        """Draw a file, or a stored image by its path as it is stored."""
        left = _GAP_PX + column * (TILE_PX + _GAP_PX)
        top = _GAP_PX + row * (TILE_PX + _TEXT_PX + _GAP_PX)
        try:
            file = self._root.file(picture) if isinstance(picture, str) else picture
            tile = ImageOps.contain(render(file, self._window_hu), (TILE_PX, TILE_PX))
            self.image.paste("black", (left, top, left + TILE_PX, top + TILE_PX))
            self.image.paste(tile, (left + (TILE_PX - tile.width) // 2, top + (TILE_PX - tile.height) // 2))
        except ImageError as error:
            self.missing += 1
            self._draw.rectangle((left, top, left + TILE_PX, top + TILE_PX), outline=_FAINT)
            self._draw.text((left + 8, top + 8), f"{Path(picture).name}\n{error}", fill=_FAINT, font=self._font)
        for number, line in enumerate(lines):
            self._draw.text(
                (left, top + TILE_PX + 4 + 18 * number), line, fill=ink if number else _INK, font=self._font
            )


def _colour(query: Mapping[str, Any], hit: Mapping[str, Any]) -> str:
    """Green where the labels agree, orange where they don't, ink where the query has none."""
    if not query.get("labels"):
        return _INK
    return _SAME if set(query["labels"]) & set(hit.get("labels", ())) else _OTHER
