"""A contact sheet: each query with its hits beside it, their score and labels, to be looked at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbmir.errors import ImageError, SourceError
from cbmir.extras import require
from cbmir.search.answer import Answer
from cbmir.search.shelf import Shelf, refuse_missing

if TYPE_CHECKING:
    from PIL import Image

    from cbmir.media import Asset
    from cbmir.search.layout import Tile

FORMS = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".svg": "svg", ".pdf": "pdf"}
"""What a sheet is written as, by the ending of its name."""
CAPTIONS = {"filename": "filepath", "patient": "patient_id", "dataset": "dataset"}
"""What may stand below an image, and the payload field that it comes from."""
MAX_ROWS = 40
MAX_HITS = 60
_MAX_TILES = 700
_LABEL_LINES = 2
_RELEVANT, _OTHER, _UNKNOWN, _INK = "#005a8e", "#a84800", "#666666", "#111111"
_MEANING = {
    _RELEVANT: "✓ has a label of the query",
    _OTHER: "✗ has other labels",
    _UNKNOWN: "grey: without labels, so neither",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetTerms:
    """What a contact sheet is to be.

    Attributes:
        path: The file; its ending, one of `FORMS`, says what is written.
        captions: Of `CAPTIONS`, in the order in which they stand below each image.
        allow_missing: Whether images that can't be drawn are counted and become empty frames; otherwise they are an
            error.
        title: What the sheet shows, above all.

    Raises:
        SourceError: the ending or a caption is unknown, or the path is a folder.
        CbmirError: matplotlib is not installed.
    """

    path: Path
    captions: tuple[str, ...] = ()
    allow_missing: bool = False
    title: str = ""

    def __post_init__(self) -> None:
        require("matplotlib", "plots", "a sheet")
        if self.path.suffix.lower() not in FORMS:
            raise SourceError(f"a sheet can't be written as {self.path.name!r}: its name must end in {_or(FORMS)}")
        for caption in self.captions:
            if caption not in CAPTIONS:
                raise SourceError(f"no caption {caption!r}; there are {', '.join(CAPTIONS)}")
        if self.path.is_dir():
            raise SourceError(f"the sheet {self.path} is a folder that is there already; give the name of a file")

    @property
    def form(self) -> str:
        """One of ``png``, ``jpg``, ``svg``, ``pdf``."""
        return FORMS[self.path.suffix.lower()]


@dataclass(frozen=True, slots=True)
class SheetResult:
    """What was drawn.

    Attributes:
        rows: Queries drawn, `MAX_ROWS` at most.
        hits: Hits drawn of a query at most, `MAX_HITS` at most.
        left_out: Hits of these queries that are not drawn.
        missing: Why images could not be drawn, by file; each is an empty frame.
    """

    rows: int
    hits: int
    left_out: int
    missing: Mapping[str, str]


def draw_sheet(answers: Sequence[Answer], shelf: Shelf, terms: SheetTerms) -> SheetResult:
    """Draw queries and hits into a file.

    Args:
        answers: Failed ones are not drawn.
        shelf: Where the stored images are.
        terms: What is written, and where.

    Raises:
        ImageError: an image can't be drawn and that isn't allowed, or the file can't be written.
    """
    from cbmir.search import canvas, layout

    shown = list(_fitting([answer for answer in answers if answer.reason is None]))
    drawing = _Drawing(shelf, terms)
    with canvas.fonts(terms.form):
        rows = [drawing.row(answer) for answer in shown]
        if drawing.missing and not terms.allow_missing:
            refuse_missing(drawing.missing)
        legend = [(text, colour) for colour, text in _MEANING.items() if colour in drawing.colours]
        pages = layout.pages if terms.form == "pdf" else layout.one_page
        content = canvas.drawn(pages(rows, terms.title, legend), terms.form)
    try:
        terms.path.parent.mkdir(parents=True, exist_ok=True)
        terms.path.write_bytes(content)
    except OSError as error:
        raise ImageError(f"the sheet {terms.path} can't be written: {error.strerror}") from error
    left_out = sum(len(answer.hits) - len(answer.hits[:MAX_HITS]) for answer in shown)
    most = max((len(row) - 1 for row in rows), default=0)
    return SheetResult(len(shown), most, left_out, drawing.missing)


def _fitting(answers: Sequence[Answer]) -> Iterator[Answer]:
    tiles = 0
    for answer in answers[:MAX_ROWS]:
        tiles += 1 + len(answer.hits[:MAX_HITS])
        if tiles > _MAX_TILES:
            return
        yield answer


@dataclass(slots=True)
class _Drawing:
    """Makes tiles, and keeps what was missing and which colours were used."""

    shelf: Shelf
    terms: SheetTerms
    missing: dict[str, str] = field(default_factory=dict)
    colours: set[str] = field(default_factory=set)

    def row(self, answer: Answer) -> "list[Tile]":
        own = answer.stored.payload if answer.stored else {}
        hits = [self._hit(own, hit.rank, hit.score, hit.payload) for hit in answer.hits[:MAX_HITS]]
        return [self._query(answer, own), *hits]

    def _query(self, answer: Answer, own: Mapping[str, Any]) -> "Tile":
        from cbmir.search.layout import Tile, wrapped

        name = (answer.file.location.name if answer.file else "") or answer.query
        texts = ["query", *(wrapped(", ".join(own["labels"]), _LABEL_LINES) if own.get("labels") else ())]
        if not own:
            texts += wrapped(name, _LABEL_LINES)
        lines = tuple((text, _INK) for text in (*texts, *self._captions(own)))
        if answer.file is None and not own:
            return Tile(None, "a vector without an image", lines)
        image, reason = self._image(own, answer.file)
        return Tile(image, reason, lines)

    def _hit(self, own: Mapping[str, Any], rank: int, score: float, payload: Mapping[str, Any]) -> "Tile":
        from cbmir.search.layout import Tile, wrapped

        colour = _colour(own, payload)
        self.colours.add(colour)
        shared = set(own.get("labels") or ())
        labels = sorted(payload.get("labels") or (), key=lambda label: label not in shared)
        mark = {_RELEVANT: "✓ ", _OTHER: "✗ "}.get(colour, "")
        image, reason = self._image(payload)
        texts = [(f"{rank}.  cosine {score:.3f}", _INK)]
        texts += [(text, colour) for text in wrapped(mark + (", ".join(labels) or "no label"), _LABEL_LINES)]
        texts += [(text, _INK) for text in self._captions(payload)]
        return Tile(image, reason, tuple(texts), "" if colour == _INK else colour)

    def _captions(self, payload: Mapping[str, Any]) -> Iterator[str]:
        from cbmir.search.layout import cut

        for caption in self.terms.captions if payload else ():
            value = str(payload.get(CAPTIONS[caption]) or "")
            named = value.rpartition("/")[2] if caption == "filename" else f"{caption} {value or 'unknown'}"
            yield cut(named, keep="ends")

    def _image(self, payload: Mapping[str, Any], file: "Asset | None" = None) -> "tuple[Image.Image | None, str]":
        """An image, or why there is none."""
        try:
            return (self.shelf.render(file) if file else self.shelf.draw(payload)), ""
        except ImageError as error:
            asset = file or self.shelf.asset(payload)
            self.missing[str(asset)] = str(error)
            return None, f"{asset.location.name or asset} {error}"


def _colour(query: Mapping[str, Any], hit: Mapping[str, Any]) -> str:
    """Blue where a label is the same, orange where none is, grey where the hit has none, ink where the query has."""
    if not hit.get("labels"):
        return _UNKNOWN
    if not query.get("labels"):
        return _INK
    return _RELEVANT if set(query["labels"]) & set(hit["labels"]) else _OTHER


def _or(names: Mapping[str, str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"
