"""The data that travels through the house: image records, embedded batches, stored points and hits."""

import re
import unicodedata
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cbmir.bounds import check_payload
from cbmir.errors import RecordError, StoreError
from cbmir.modalities import modality_code
from cbmir.spellings import sex_of, split_of

NAMESPACE = uuid.UUID("5b7a4a4e-6d0f-5e0c-9a52-0c6f3d1f2a10")
"""The UUIDv5 namespace of point ids; changing it would give every stored image another id."""

SPLITS = ("train", "val", "test")

Payload = dict[str, Any]
Vectors = NDArray[np.float32]
Kind = Literal["keyword", "integer", "float", "datetime", "text", "object"]
RecordKind = Literal["image", "volume"]


@dataclass(frozen=True, slots=True)
class PayloadField:
    """One field of a stored point.

    Attributes:
        name: Key in the payload.
        kind: Type of its values; ``text`` and ``object`` fields are stored, not indexed, and can't be filtered by.
        many: Whether the field holds a list.
        tenant: Whether the engine should group the points of equal values on disk.
        internal: Whether the field only serves later ingests: not indexed, and not shown with hits.
    """

    name: str
    kind: Kind
    many: bool = False
    tenant: bool = False
    internal: bool = False

    @property
    def indexed(self) -> bool:
        """Whether an index is made for the field, so that filters and facets can use it."""
        return self.kind not in ("text", "object") and not self.internal


PAYLOAD_FIELDS = (
    PayloadField("filepath", "text"),
    PayloadField("dataset", "keyword", tenant=True),
    PayloadField("split", "keyword"),
    PayloadField("modality", "keyword"),
    PayloadField("anatomic_region", "keyword"),
    PayloadField("labels", "keyword", many=True),
    PayloadField("pathology", "keyword", many=True),
    PayloadField("primary_label", "keyword"),
    PayloadField("patient_id", "keyword"),
    PayloadField("study_id", "keyword"),
    PayloadField("series_id", "keyword"),
    PayloadField("sha256", "keyword"),
    PayloadField("decoder", "integer", internal=True),
    PayloadField("kind", "keyword"),
    PayloadField("width", "integer"),
    PayloadField("height", "integer"),
    PayloadField("depth", "integer"),
    PayloadField("age_years", "float"),
    PayloadField("sex", "keyword"),
    PayloadField("view", "keyword"),
    PayloadField("study_date", "datetime"),
    PayloadField("thumbnail_url", "text"),
    PayloadField("extra", "object"),
)
FIELDS = {item.name: item for item in PAYLOAD_FIELDS}
INDEXED_FIELDS = tuple(item for item in PAYLOAD_FIELDS if item.indexed)


def slug(text: str) -> str:
    """Lower case with ``_`` for white space, in NFC: dashboards split their filter box at spaces."""
    return unicodedata.normalize("NFC", re.sub(r"\s+", "_", text.strip()).lower())


@lru_cache(1 << 16)
def label_slug(text: str) -> str:
    """A label as it is stored: ``XR/chest/Pleural Effusion`` becomes ``XR/chest/pleural_effusion``.

    The first of several parts is the modality, by its code (`modality_code`); a label of one part is a plain slug.

    Raises:
        RecordError: a part of the label is empty.
    """
    first, *rest = (part.strip() for part in text.split("/"))
    if not first or not all(rest):
        raise RecordError(f"label {text!r} has an empty part; a label reads modality/region/pathology")
    return "/".join([modality_code(first), *(slug(part) for part in rest)]) if rest else slug(first)


def canonical(field: str, text: str) -> str:
    """A value the way it is stored, in NFC: codes of modality, split and sex, slugs of regions and labels.

    Raises:
        RecordError: a label has an empty part.
    """
    if field == "modality":
        return modality_code(text)
    if field == "split":
        return split_of(text.strip())
    if field == "sex":
        return sex_of(text.strip()) or unicodedata.normalize("NFC", text.strip())
    if field in ("anatomic_region", "pathology"):
        return slug(text)
    if field in ("labels", "primary_label"):
        return label_slug(text)
    return unicodedata.normalize("NFC", text.strip())


def pathologies(labels: Iterable[str]) -> list[str]:
    """The last part of every label that has three or more; ``CT/chest`` names no pathology."""
    parts = (label.split("/") for label in labels)
    return list(dict.fromkeys(part[-1] for part in parts if len(part) >= 3))


_KEYED = re.compile(r"dicom:([0-9a-f]{32})#([1-9][0-9]{0,8})")


def keyed_path(instance: str, frame: int) -> str:
    """The `filepath` of a frame of DICOM.

    Args:
        instance: Keyed hash of its SOP Instance UID, 32 hexadecimal digits.
        frame: From 1.
    """
    return f"dicom:{instance}#{frame}"


def split_keyed(filepath: str) -> tuple[str, int] | None:
    """Hash and frame of a `keyed_path`; None for any other file path."""
    found = _KEYED.fullmatch(filepath)
    return (found[1], int(found[2])) if found else None


def point_id(dataset: str, key: str) -> str:
    """The id of an image, the same in every collection: UUIDv5 of data set and image key, both in NFC.

    A frame of DICOM is one image in whatever data set: its key alone makes the id.
    """
    name = key if _KEYED.fullmatch(key) else f"{dataset}/{key}"
    return str(uuid.uuid5(NAMESPACE, unicodedata.normalize("NFC", name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One image or one volume, and what is known of it.

    Attributes:
        filepath: Path relative to the data root, or a URI; with ``dataset`` it makes the id.
        dataset: Data set the image belongs to.
        split: ``train``, ``val`` or ``test``; None where the source has no split.
        labels: Slugs ``modality/region/pathology``, none, one or several.
        patient_id: Pseudonym of the patient (of the source, for volumes): never a raw DICOM identifier.
        sha256: Hash of the pixel file, hexadecimal.
        decoder: Version of the decoder that read the file, `cbmir.media.DECODER`; None before there were versions.
        kind: ``image`` or ``volume``.
        width: Columns of the image, or of a volume's axial slices.
        height: Rows of the same.
        depth: Axial slices of a volume.
        extra: Whatever else the source table had, as JSON; stored, not indexed.

    Raises:
        RecordError: a field that it needs is missing, the split is none, or an engine can't keep the payload, see
            `cbmir.bounds`.
    """

    filepath: str
    dataset: str
    split: str | None = None
    modality: str | None = None
    anatomic_region: str | None = None
    labels: tuple[str, ...] = ()
    patient_id: str | None = None
    study_id: str | None = None
    series_id: str | None = None
    sha256: str | None = None
    decoder: int | None = None
    kind: RecordKind = "image"
    width: int | None = None
    height: int | None = None
    depth: int | None = None
    age_years: float | None = None
    sex: str | None = None
    view: str | None = None
    study_date: str | None = None
    thumbnail_url: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.filepath or not self.dataset:
            raise RecordError(
                f"an image record needs a filepath and a dataset, got {self.filepath!r}, {self.dataset!r}"
            )
        if self.split is not None and self.split not in SPLITS:
            raise RecordError(f"split {self.split!r} of {self.filepath} is none of {', '.join(SPLITS)}")
        check_payload(self.payload())

    @property
    def id(self) -> str:
        """Point id, see `point_id`."""
        return point_id(self.dataset, self.filepath)

    def payload(self) -> Payload:
        """The payload of the stored point; fields that are not known are left out."""
        plain = zip(_PLAIN_FIELDS, _PLAIN_VALUES(self), strict=True)
        payload: Payload = {name: value for name, value in plain if value is not None}
        payload["labels"] = list(self.labels)
        if self.labels:
            payload["primary_label"] = self.labels[0]
            payload["pathology"] = pathologies(self.labels)
        if self.extra:
            payload["extra"] = dict(self.extra)
        return payload

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> "ImageRecord":
        """The inverse of `payload`, but for fields of a later version of cbmir.

        Raises:
            RecordError: it isn't the payload of an image.
        """
        known = {name: payload[name] for name in _PLAIN_FIELDS if name in payload}
        try:
            return cls(**known, labels=tuple(payload.get("labels", ())), extra=payload.get("extra", {}))
        except (TypeError, ValueError, AttributeError) as error:
            raise RecordError(f"a stored point is no image of ours: {error}") from error


_DERIVED = ("labels", "pathology", "primary_label", "extra")
_PLAIN_FIELDS = tuple(item.name for item in PAYLOAD_FIELDS if item.name not in _DERIVED)
_PLAIN_VALUES = attrgetter(*_PLAIN_FIELDS)


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """One encoder step on its way to the store.

    Attributes:
        records: n image records.
        vectors: (n, dim) float32, each row of unit length.
        fingerprint: Of the encoder that made the vectors.

    Raises:
        RecordError: the counts differ, or a vector is not finite or not of unit length.
    """

    records: tuple[ImageRecord, ...]
    vectors: Vectors
    fingerprint: str

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.records) != len(self.vectors):
            raise RecordError(f"{len(self.records)} records met vectors of shape {self.vectors.shape}")
        bad = np.flatnonzero(~is_unit(self.vectors))
        if bad.size:
            raise RecordError(
                f"the vector of {self.records[bad[0]].filepath} is not finite or not of unit length "
                f"({bad.size} of {len(self.records)} in this batch)"
            )


def is_unit(vectors: Vectors, tolerance: float = 1e-3) -> NDArray[np.bool_]:
    """(n,) whether each row is finite and of unit length within the tolerance."""
    squared = np.einsum("ij,ij->i", vectors, vectors)
    unit: NDArray[np.bool_] = np.abs(squared - 1.0) <= 2 * tolerance  # NaN and inf compare as False
    return unit


def normalise(vectors: Vectors) -> Vectors:
    """(n, dim) rows scaled to unit length; rows that are zero or not finite become NaN, for the caller to count."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        wide = vectors.astype(np.float64)
        scaled: Vectors = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return scaled


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """What the store holds of one image.

    Attributes:
        id: UUID in text form.
        payload: The fields that were asked for.
        vector: (dim,) float32 of unit length, None unless asked for.
    """

    id: str
    payload: Mapping[str, Any]
    vector: Vectors | None = None


def record_of(point: StoredPoint) -> ImageRecord:
    """The image record of a stored point.

    Raises:
        StoreError: its id isn't the one that its data set and file path give.
        RecordError: its payload is none of ours, or one that no engine can keep.
    """
    record = ImageRecord.from_payload(point.payload)
    if record.id != point.id:
        raise StoreError(f"point {point.id} has another id than its data set and file path give; it isn't ours")
    return record


@dataclass(frozen=True, slots=True)
class Hit:
    """A stored image as the answer to a query.

    Attributes:
        id: UUID in text form.
        rank: Place in the answer, 1 is the most similar.
        score: Cosine of query and stored vector, -1 to 1.
        payload: The fields that were asked for.
    """

    id: str
    rank: int
    score: float
    payload: Mapping[str, Any]


def rank_hits(scored: Sequence[tuple[str, float, Mapping[str, Any]]]) -> list[Hit]:
    """Hits in the defined order: by falling score, equal scores by id."""
    ordered = sorted(scored, key=lambda item: (-item[1], item[0]))
    return [Hit(id, rank, score, payload) for rank, (id, score, payload) in enumerate(ordered, start=1)]
