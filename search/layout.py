"""Where everything stands on a contact sheet: pages of images, texts and lines, in pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from PIL import Image

HITS_A_LINE = 6
TILE_PX = 256
GAP_PX = 12
FONT_PX = 17
LINE_PX = 22
WIDTH_PX = GAP_PX + (1 + HITS_A_LINE) * (TILE_PX + GAP_PX)
PAGE_PX = round(WIDTH_PX / 2**0.5)
"""Height of a page of A4 across."""
_HEAD_PX = LINE_PX + 2 * GAP_PX
_REASON_LINES = 7
INK, FAINT, RULE = "#111111", "#666666", "#cccccc"


@dataclass(frozen=True, slots=True)
class Tile:
    """An image with the texts below it.

    Attributes:
        image: Of any size; None where there is none.
        reason: Why there is none, in its place.
        texts: Lines below it, each with its colour; long ones are cut.
        frame: Colour of its frame; empty for none.
    """

    image: Image.Image | None
    reason: str
    texts: tuple[tuple[str, str], ...]
    frame: str = ""

    @property
    def height(self) -> int:
        """With its texts, in pixels."""
        return TILE_PX + 6 + LINE_PX * len(self.texts)


@dataclass(frozen=True, slots=True)
class Words:
    """A line of text; `top` is the upper edge of its letters."""

    left: float
    top: float
    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class Box:
    """An image, or the empty place of one, with its frame."""

    left: float
    top: float
    image: Image.Image | None
    frame: str


@dataclass(slots=True)
class Page:
    """What is drawn on one page.

    Attributes:
        width: In pixels.
        height: In pixels.
        words: Texts.
        boxes: Images.
        rules: Upper edges of lines from left to right.
    """

    width: int
    height: int
    words: list[Words] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    rules: list[float] = field(default_factory=list)


def one_page(rows: Sequence[Sequence[Tile]], head: str, legend: Sequence[tuple[str, str]]) -> list[Page]:
    """All queries below each other, on one page as large as it has to be.

    Args:
        rows: A query each: its own tile, then those of its hits.
        head: A line above all.
        legend: Texts with their colours, a line below all.
    """
    columns = max((min(len(row), 1 + HITS_A_LINE) for row in rows), default=1)
    page = Page(GAP_PX + max(columns, 3) * (TILE_PX + GAP_PX), 0)
    _head(page, head)
    top = float(_HEAD_PX)
    for number, row in enumerate(rows):
        for line in _lines(row):
            top = _line(page, top, line)
        if number + 1 < len(rows):
            page.rules.append(top - GAP_PX / 2)
    page.height = round(top) + _legend(page, top, legend)
    return [page]


def pages(rows: Sequence[Sequence[Tile]], head: str, legend: Sequence[tuple[str, str]]) -> list[Page]:
    """The same on pages of A4; a query begins on a new page where its first line doesn't fit."""
    done: list[Page] = []
    top = 0.0
    for row in rows:
        for number, line in enumerate(_lines(row)):
            height = max(tile.height for tile in line if tile) + GAP_PX
            if not done or top + height > PAGE_PX - _HEAD_PX:
                done.append(Page(WIDTH_PX, PAGE_PX))
                top = float(_HEAD_PX)
            elif number == 0:
                done[-1].rules.append(top - GAP_PX / 2)
            top = _line(done[-1], top, line)
    for number, page in enumerate(done, start=1):
        _head(page, f"{head}, page {number} of {len(done)}" if len(done) > 1 else head)
        _legend(page, PAGE_PX - _HEAD_PX, legend)
    return done


def cut(text: str, width: float = TILE_PX, *, keep: str = "start") -> str:
    """A text that is no wider than so many pixels, with … for what is left out at its end, or in its middle."""
    if _width(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 1 and _width(_without(text, kept, keep)) > width:
        kept -= 1
    return _without(text, kept, keep)


def wrapped(text: str, lines: int, width: float = TILE_PX) -> list[str]:
    """A text on some lines at most, broken after a blank, slash, dash or underscore where there is one."""
    done: list[str] = []
    while len(done) < lines - 1 and _width(text) > width:
        most = next(size for size in range(len(text), 0, -1) if _width(text[:size]) <= width or size == 1)
        at = max((text.rfind(sign, most // 3, most) for sign in " /_-,"), default=-1) + 1 or most
        done.append(text[:at].rstrip())
        text = text[at:].lstrip()
    return [*done, cut(text, width)]


def _without(text: str, kept: int, keep: str) -> str:
    if keep == "start":
        return f"{text[:kept].rstrip()}…"
    front = kept // 3
    return f"{text[:front]}…{text[len(text) - kept + front :]}"


@lru_cache(maxsize=10_000)
def _width(text: str) -> float:
    """Of a text as it is drawn, in pixels."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=FONT_PX), ismath=False)
    return float(width)


def _lines(row: Sequence[Tile]) -> Iterator[list[Tile | None]]:
    """The query and its first hits; then the others, with nothing below the query."""
    query, hits = row[0], row[1:]
    yield [query, *hits[:HITS_A_LINE]]
    for start in range(HITS_A_LINE, len(hits), HITS_A_LINE):
        yield [None, *hits[start : start + HITS_A_LINE]]


def _line(page: Page, top: float, line: Sequence[Tile | None]) -> float:
    """Draw tiles side by side; the upper edge of the next line."""
    height = 0
    for column, tile in enumerate(line):
        if tile is None:
            continue
        left = float(GAP_PX + column * (TILE_PX + GAP_PX))
        page.boxes.append(Box(left, top, tile.image, tile.frame))
        if tile.image is None:
            for number, text in enumerate(wrapped(tile.reason, _REASON_LINES, TILE_PX - 16)):
                page.words.append(Words(left + 8, top + 8 + number * LINE_PX, text, FAINT))
        for number, (text, colour) in enumerate(tile.texts):
            page.words.append(Words(left, top + TILE_PX + 6 + number * LINE_PX, text, colour))
        height = max(height, tile.height)
    return top + height + GAP_PX


def _head(page: Page, text: str) -> None:
    page.words.append(Words(GAP_PX, GAP_PX, cut(text, page.width - 2 * GAP_PX), INK))


def _legend(page: Page, top: float, legend: Sequence[tuple[str, str]]) -> int:
    """Write the legend; its height."""
    left = float(GAP_PX)
    lines = 1
    for text, colour in legend:
        if left > GAP_PX and left + _width(text) > page.width - GAP_PX:
            left, lines = float(GAP_PX), lines + 1
        page.words.append(Words(left, top + (lines - 1) * LINE_PX + GAP_PX / 2, text, colour))
        left += _width(text) + 2 * FONT_PX
    return lines * LINE_PX + 2 * GAP_PX if legend else GAP_PX
