"""What programs send and get, with examples; FastAPI makes the OpenAPI document of it."""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

MOST_HITS, MOST_SKIPPED = 200, 10_000
MOST_PARTS = 50

_ID = "6f0a4c1e-9a3b-5f0e-8f3b-0c2a8d1e7b55"
Conditions = list[str]


class Example(BaseModel):
    """A stored image or a text that hits shall be like, or unlike."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"id": _ID, "weight": 2}]})
    id: UUID | None = Field(default=None, description="Id of a stored image.")
    text: str | None = Field(default=None, max_length=2000, description="Words, for encoders with a text tower.")
    weight: float = Field(default=1.0, gt=0, le=1000)


class SearchRequest(BaseModel):
    """A query; with uploaded images it is the part `query` of a multipart form."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"like": [{"id": _ID}], "where": ["modality=CT"], "k": 12},
                {"text": "pleural effusion", "where": ["age_years<60"], "group_by": "patient"},
            ]
        },
    )
    collection: str | None = Field(default=None, max_length=255, description="The first that is served unless given.")
    text: str | None = Field(default=None, max_length=2000, description="Words to look for.")
    like: list[Example] = Field(default=[], max_length=MOST_PARTS)
    unlike: list[Example] = Field(default=[], max_length=MOST_PARTS)
    box: tuple[int, int, int, int] | None = Field(
        default=None, description="x, y, width, height: what is asked for of the only uploaded image, in its pixels."
    )
    mix: Literal["ranks", "vectors"] = Field(default="ranks", description="How texts and images come together.")
    where: Conditions = Field(default=[], max_length=50, description="Conditions such as `age_years<60`.")
    k: int = Field(default=24, ge=1, le=MOST_HITS, description="Hits.")
    skip: int = Field(default=0, ge=0, le=MOST_SKIPPED, description="Hits to leave out at the top.")
    group_by: str | None = Field(default=None, max_length=255, description="Only the best hit of each value.")
    diversity: float | None = Field(default=None, ge=0, le=1)
    min_score: float | None = Field(default=None, ge=-1, le=1)
    exclude_same_patient: bool = Field(default=True, description="Leave out the query's patient and study.")


class ShownHit(BaseModel):
    """A stored image as an answer."""

    id: str
    rank: int
    score: float
    possibly_same_patient: bool = Field(description="It may be of the query's patient, although nothing says so.")
    record: dict[str, Any] = Field(description="What is known of it and may be shown to you.")


class SearchAnswer(BaseModel):
    """Hits by falling score."""

    collection: str
    encoder: str
    fingerprint: str
    score: Literal["cosine", "fused ranks"]
    way: str | None = Field(description="`exact`, `graph` or `approximate`.")
    hits: list[ShownHit]
    cautions: list[str] = Field(description="What to know before you believe the answer.")
    notes: list[str] = Field(description="What was done to uploaded images in decoding.")


class FacetsRequest(BaseModel):
    """Which values to count."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"where": ["modality=CT"], "fields": ["anatomic_region"]}]}
    )
    collection: str | None = Field(default=None, max_length=255)
    where: Conditions = Field(default=[], max_length=50)
    fields: list[str] = Field(default=["dataset", "modality", "anatomic_region", "pathology", "split"], max_length=20)
    limit: int = Field(default=12, ge=1, le=1000, description="Values a field at most.")


class FacetsAnswer(BaseModel):
    """Counts by field and value, the most frequent first.

    Conditions on a field don't narrow the counts of that same field.
    """

    total: int = Field(description="Images that satisfy all conditions.")
    fields: dict[str, dict[str, int]]
    more: list[str] = Field(description="Fields with more values than are listed.")


class ShownCollection(BaseModel):
    """A collection."""

    name: str
    encoder: str
    fingerprint: str
    dim: int
    images: int = Field(description="That you may see.")
    takes: Literal["image", "volume"] | None = Field(description="What can be uploaded as a query.")
    texts: bool = Field(description="Whether it can be searched by words.")
    reason: str = Field(description="Why nothing can be uploaded; empty otherwise.")


class ShownRecord(BaseModel):
    """A stored image."""

    id: str
    collection: str
    record: dict[str, Any]
    vector: list[float] | None = Field(default=None, description="Where it was asked for; needs the role `vectors`.")


class LoginRequest(BaseModel):
    """A key, to be traded for a cookie."""

    model_config = ConfigDict(extra="forbid")
    key: str = Field(min_length=1, max_length=500)


class Whoami(BaseModel):
    """Who the service takes you for."""

    name: str
    roles: list[str]
    csrf: str | None = Field(description="Goes into the header `x-csrf-token` of requests with a cookie, but for GET.")
    keyed: bool = Field(description="Whether keys are needed at all.")


class Told(BaseModel):
    """An error, in one line."""

    error: str
