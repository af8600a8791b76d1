"""cbmir in a notebook: what `cbmir.connect` and `cbmir.load_encoder` return. No logic of its own.

For example:

    import cbmir

    encoder = cbmir.load_encoder("biomedclip")
    store = cbmir.connect("data/store")
    store.ingest("images/", encoder=encoder)
    hits = store["biomedclip"].search("query.png", where="modality=CT and age_years<60", k=5)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from cbmir.filters import check_countable, parse_all, resolve
from cbmir.schema import Vectors
from cbmir.store import Key, open_store
from cbmir.store.ways import BUDGET_MS, Wanted
from cbmir.units import counted

if TYPE_CHECKING:
    import pandas as pd

    from cbmir import encoders, store
    from cbmir.ingest.report import IngestReport
    from cbmir.media import HoldsPixels
    from cbmir.search.query import Query, Single
    from cbmir.search.result import Result

Texts = str | Sequence[str]
"""One text or several; several conditions must all hold."""


def load_encoder(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
) -> "Encoder":
    """Load a frozen encoder.

    Args:
        name: One of `cbmir encoders list`, ``timm:NAME``, ``open_clip:ARCH/TAG``, ``ORG/REPO`` of the model hub, or
            ``FILE.py:FUNCTION`` of your own, which is run.
        weights: A file or directory instead of the encoder's own source of weights.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16``.
        batch_size: Images a step; None lets the encoder choose for its device.

    Raises:
        EncoderError: the name is unknown, or the encoder can't be built here.
        WeightsError: its weights are missing or of another network.
    """
    from cbmir.encoders import EncoderSettings, given

    file = Path(weights) if weights is not None else None
    return Encoder(given(name, EncoderSettings(file, device, precision, batch_size)))


def connect(location: str | Path, api_key: str | Key | None = None) -> "Store":
    """Open a store: a directory, which is made with the first collection, or the URL of a Qdrant server.

    Raises:
        StoreError: the place is neither, can't be reached, or refuses the key.
    """
    return Store(open_store(location, api_key))


class Encoder:
    """A frozen network with its own preprocessing.

    Attributes:
        core: The encoder as the rest of cbmir takes it.
    """

    def __init__(self, core: "encoders.Encoder") -> None:
        self.core = core

    @property
    def name(self) -> str:
        """What it is called."""
        return self.core.card.name

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        return self.core.card.dim

    def encode(
        self, images: "Sequence[HoldsPixels] | HoldsPixels", *, batch_size: int | None = None, progress: bool = False
    ) -> Vectors:
        """Vectors of images: paths, Pillow images, arrays or assets; see `cbmir.encoders.encode.encode`.

        Returns:
            (n, dim) float32 rows of unit length; of one image that is not in a list, (dim,).

        Raises:
            ImageError: one of them can't be used; the message says which.
        """
        from cbmir.encoders.encode import encode

        if isinstance(images, Sequence) and not isinstance(images, str | bytes):
            return encode(self.core, images, batch_size, progress=progress)
        return np.squeeze(encode(self.core, [images], batch_size), 0)

    def encode_text(self, texts: Texts) -> Vectors:
        """Vectors of texts in the space of the images.

        Returns:
            (n, dim) float32 rows of unit length; of one text that is not in a list, (dim,).

        Raises:
            EncoderError: the encoder has no text tower.
        """
        vectors: Vectors = self.core.embed_text(_texts(texts))
        return np.squeeze(vectors, 0) if isinstance(texts, str) else vectors

    def __repr__(self) -> str:
        return f"<encoder {self.name}, {self.dim} dimensions, on {self.core.running_on}>"


class Store:
    """Collections by name: ``store["biomedclip"]``. A collection is open from its first use until `close`.

    Attributes:
        core: The store as the rest of cbmir takes it.
    """

    def __init__(self, core: "store.Store") -> None:
        self.core = core
        self._opened: dict[str, Collection] = {}

    def __getitem__(self, name: str) -> "Collection":
        if name not in self._opened:
            self._opened[name] = Collection(self.core.open(name))
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.core.names())

    def __len__(self) -> int:
        return len(self.core.names())

    def __contains__(self, name: object) -> bool:
        return name in self.core.names()

    def ingest(  # noqa: PLR0913  its terms are its arguments
        self,
        source: "str | Path | pd.DataFrame",
        encoder: "Encoder | str",
        *,
        collection: str | None = None,
        root: str | Path | None = None,
        dataset: str | None = None,
        window: str = "auto",
        workers: int | None = None,
        progress: bool = True,
    ) -> "IngestReport":
        """Embed the images of a folder, a table or DICOM into a collection; what is stored is not embedded again.

        How the source is read is printed first, as by `cbmir ingest images`.

        Args:
            source: A folder, a table (CSV, Excel, Parquet), a data frame as such a table, or DICOM: a folder, a zip
                file, a DICOMDIR or one file.
            encoder: One that was loaded, or its name.
            collection: Name; the encoder's unless given.
            root: Folder that file paths are relative to; the table's own, of a frame the working directory.
            dataset: Data set of images for which the source names none.
            window: Of DICOM: ``auto``, ``dicom`` (the header's), ``lung``, ``bone``, ``brain``, ``soft``, or
                ``LO,HI``.
            workers: Decoding processes; one a core unless given.
            progress: Print how the source is read, and how far it is.

        Raises:
            SourceError: the source can't be read, or none of its images could be stored.
            FingerprintError: the collection belongs to another encoder.
            StoreError: the store refused.
        """
        from cbmir.ingest.whole import ingest

        loaded = load_encoder(encoder) if isinstance(encoder, str) else encoder
        return ingest(
            self.core,
            source,
            loaded.core,
            collection,
            root=root,
            dataset=dataset,
            window=window,
            workers=workers,
            progress=progress,
        )

    def close(self) -> None:
        """Close all collections and let other processes in."""
        for collection in self._opened.values():
            collection.core.close()
        self._opened.clear()
        self.core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<store {self.core.location}: {', '.join(self) or 'no collection'}>"


class Collection:
    """All images embedded by one encoder.

    Attributes:
        core: The collection as the rest of cbmir takes it.
    """

    def __init__(self, core: "store.Collection") -> None:
        self.core = core
        self._encoder: encoders.Encoder | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.core.name

    def __len__(self) -> int:
        return self.core.count()

    def count(self, where: Texts = ()) -> int:
        """How many images satisfy a filter.

        Raises:
            FilterError: a condition can't be read, or names what doesn't exist.
        """
        return self.core.count(resolve(parse_all(*_texts(where)), self.core))

    def values(self, field: str, where: Texts = ()) -> dict[str, int]:
        """The values of a field with the number of images that have each, the most frequent first.

        Raises:
            FilterError: there is no such field or column, or its values can't be counted.
        """
        check_countable(field, self.core)
        return self.core.facet(field, resolve(parse_all(*_texts(where)), self.core))

    def search(  # noqa: PLR0913  its terms are its arguments
        self,
        query: "HoldsPixels | Sequence[HoldsPixels] | Query | None" = None,
        *,
        text: str | None = None,
        unlike: "Sequence[HoldsPixels | Single]" = (),
        region: tuple[int, int, int, int] | None = None,
        where: Texts = (),
        k: int = 10,
        skip: int = 0,
        min_score: float | None = None,
        diversity: float | None = None,
        group_by: str | None = None,
        exclude_same_patient: bool = True,
        exclude_self: bool = False,
        way: Wanted = "auto",
        encoder: Encoder | None = None,
        budget_ms: float = BUDGET_MS,
    ) -> "Result":
        """The stored images most similar to a query.

        Args:
            query: An image (the path of a file that is there, bytes, a Pillow image, an array of 2 or 3 dimensions), a
                stored image (its id, ``dataset/filepath`` or file path), a vector of the encoder's length, a list
                of images, each a query of its own, or one of `cbmir.search`, such as a `WeightedQuery` of examples.
            text: What is looked for, alone or beside an image, for encoders with a text tower. Ranks by text and by
                image are fused.
            unlike: Images, stored images or `TextQuery` that hits are to be unlike.
            region: x, y, width and height of what is asked for of an image, in pixels.
            where: Conditions that hits satisfy, such as ``modality=CT and age_years<60``.
            k: Hits a query.
            skip: Hits to leave out at the top, as for a second page.
            min_score: Leave out hits below this cosine.
            diversity: 0 to 1, how much hits shall differ from each other.
            group_by: Only the best hit of each ``patient``, ``study``, ``series``, or value of another field or column.
            exclude_same_patient: Leave out the images of the query's patient and study, where they are known.
            exclude_self: Leave out stored images with the same content as the query's file.
            way: ``auto``, ``exact`` or ``approximate``.
            encoder: The one that made the collection, if it is loaded already; it is loaded by its name otherwise.
            budget_ms: A scan that is estimated to take longer is not made by itself.

        Raises:
            FilterError, ImageError, QueryError: a condition, an image, or parts and options together can't be used.
            CollectionError: a query names neither a file nor a stored image.
            EncoderError: a text is given and the encoder has no text tower.
        """
        from cbmir.search.parts import composed
        from cbmir.search.query import Options
        from cbmir.search.result import Result
        from cbmir.search.searcher import Searcher

        how = Options(k, _texts(where), exclude_same_patient, exclude_self, way, skip, min_score, diversity, group_by)
        asked = composed(query, text, unlike, region)
        loaded = encoder.core if encoder is not None else self._encoder
        searcher = Searcher(self.core, encoder=loaded, budget_ms=budget_ms)
        answers = searcher.ask(asked, how)
        self._encoder = searcher.loaded
        return Result(self, answers)

    def __repr__(self) -> str:
        card = self.core.card
        return f"<collection {self.name}: {counted(len(self), 'image')}, encoder {card.name}, {card.dim} dimensions>"


def _texts(texts: Texts) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)
