"""Who may see what: keys with roles, a file of them, and what a role shows of a record."""

import hashlib
import hmac
import re
import secrets
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cbmir.errors import CbmirError, FilterError
from cbmir.filters import Where, own_column, parse_all, wording
from cbmir.schema import PAYLOAD_FIELDS
from cbmir.search.api.asked import Scope
from cbmir.search.api.errors import ServiceError

Role = Literal["search", "images", "identify", "vectors", "admin"]

ROLES: Mapping[Role, str] = {
    "search": "hits with what is known of them, but for what can identify a patient",
    "images": "thumbnails and images",
    "identify": "file paths, ids of patients, studies and series, dates, and own columns; filters by them",
    "vectors": "vectors",
    "admin": "metrics",
}

OPEN_FIELDS = (
    *("dataset", "split", "modality", "anatomic_region", "labels", "pathology", "primary_label"),
    *("kind", "width", "height", "depth", "age_years", "sex", "view"),
)
"""Payload fields that the role `search` sees and filters by."""

_IDENTIFYING = tuple(item.name for item in PAYLOAD_FIELDS if item.name not in OPEN_FIELDS and not item.internal)
_GROUPS = ("patient", "study", "series", "region", "patient_id", "study_id", "series_id")
"""Hits may be grouped by these without their values being shown."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who asks.

    Attributes:
        name: Of the key, for the audit log; never the key.
        roles: What they may do.
        collections: Names of those they may see; None for all.
        where: Conditions that everything they see satisfies.
    """

    name: str
    roles: frozenset[Role]
    collections: frozenset[str] | None = None
    where: Where = ()

    def scope(self, collection: str) -> Scope:
        """What they may see of a collection.

        Raises:
            ServiceError: nothing.
        """
        if not self.may_open(collection):
            raise ServiceError(404, "no such collection is served")
        return Scope(collection, self.where)

    def may_open(self, collection: str) -> bool:
        """Whether they may see a collection."""
        return self.collections is None or collection in self.collections

    def require(self, role: Role) -> None:
        """Refuse what needs a role.

        Raises:
            ServiceError: they don't have it.
        """
        if role not in self.roles:
            raise ServiceError(403, f"this needs the role {role}")

    def check_filter(self, where: Where) -> None:
        """Refuse conditions on what they may not see: answers would tell it.

        Raises:
            ServiceError: there are some.
        """
        for condition in where:
            self.check_field(condition.field)

    def check_field(self, field: str) -> None:
        """Refuse a field or own column that they may not see.

        Raises:
            ServiceError: they may not.
        """
        if field not in OPEN_FIELDS and field != "id" and "identify" not in self.roles:
            name = own_column(field) or field
            raise ServiceError(403, f"{name} needs the role identify; open to all are {', '.join(OPEN_FIELDS)}")

    def check_group(self, name: str) -> None:
        """Refuse a group by what they may not see; groups by patient and study show no value.

        Raises:
            ServiceError: they may not.
        """
        if name not in _GROUPS:
            self.check_field(name)

    def shown(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """What they see of a record."""
        fields = (*OPEN_FIELDS, *_IDENTIFYING) if "identify" in self.roles else OPEN_FIELDS
        return {name: payload[name] for name in fields if name in payload}


class _KeyEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    roles: list[Role] = Field(min_length=1)
    collections: list[str] | None = Field(default=None, min_length=1)
    filter: str = ""


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keys: dict[str, _KeyEntry] = Field(min_length=1)


class Keys:
    """The keys of a file; it holds their hashes only."""

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        """Keys by the hexadecimal SHA-256 of each."""
        self._principals = dict(principals)

    @classmethod
    def read(cls, path: Path) -> "Keys":
        """Read a file in TOML with a table ``[keys.NAME]`` for each key.

        Raises:
            CbmirError: it can't be read, or others may change it, or an entry can't be used.
        """
        try:
            if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise CbmirError(f"the key file {path} can be changed by other users: chmod go-w {path}")
            entries = _KeyFile.model_validate(tomllib.loads(path.read_text("utf-8"))).keys
        except (OSError, UnicodeError) as error:
            raise CbmirError(f"can't read the key file {path}: {getattr(error, 'strerror', None) or error}") from error
        except tomllib.TOMLDecodeError as error:
            raise CbmirError(f"the key file {path} is no TOML: {error}") from error
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            raise CbmirError(f"{path}, {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        principals: dict[str, Principal] = {}
        for name, entry in entries.items():
            if entry.sha256 in principals:
                raise CbmirError(f"{path}: {name} and {principals[entry.sha256].name} are the same key")
            if not _NAME.fullmatch(name):
                raise CbmirError(f"{path}: the name {name!r} has other signs than letters, digits, _ . and -")
            collections = None if entry.collections is None else frozenset(entry.collections)
            principals[entry.sha256] = Principal(name, frozenset(entry.roles), collections, _parsed(path, name, entry))
        return cls(principals)

    @property
    def principals(self) -> list[Principal]:
        """Who has a key."""
        return list(self._principals.values())

    def of(self, key: str) -> Principal | None:
        """Whose key it is."""
        given = hashlib.sha256(key.encode()).hexdigest()
        found = None
        for stored, principal in self._principals.items():  # all of them: the time tells nothing
            if hmac.compare_digest(stored, given):
                found = principal
        return found


def _parsed(path: Path, name: str, entry: _KeyEntry) -> Where:
    try:
        return parse_all(entry.filter) if entry.filter else ()
    except FilterError as error:
        raise CbmirError(f"{path}, keys.{name}.filter: {error}") from error


def new_key(name: str, roles: tuple[Role, ...], collections: tuple[str, ...], where: Where) -> tuple[str, str]:
    """A key, and its entry for a key file.

    Raises:
        CbmirError: the name can't be used.
    """
    if not _NAME.fullmatch(name):
        raise CbmirError(f"the name {name!r} has other signs than letters, digits, _ . and -")
    key = f"cbmir-{secrets.token_urlsafe(32)}"
    lines = [f'[keys."{name}"]', f'sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"', f"roles = {_toml(roles)}"]
    lines += [f"collections = {_toml(collections)}"] if collections else []
    lines += [f"filter = {_toml((wording(where),))[1:-1]}"] if where else []
    return key, "\n".join(lines)


def add_entry(path: Path, name: str, entry: str) -> None:
    """Add an entry to a key file, which is made if it isn't there.

    Raises:
        CbmirError: the file can't be read or written, or has a key of this name.
    """
    if path.exists() and any(item.name == name for item in Keys.read(path).principals):
        raise CbmirError(f"{path} has a key {name} already; remove its entry first")
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{entry}\n\n")
    except OSError as error:
        raise CbmirError(f"can't write the key file {path}: {error.strerror}") from error


def _toml(texts: tuple[str, ...]) -> str:
    import json

    return json.dumps(list(texts), ensure_ascii=False)  # a list of basic strings is written alike
