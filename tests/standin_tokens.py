"""Tokens (JWT) of the stand-in: what a server with JWT_RBAC lets the holder of one do.

Source: Qdrant's checks of operations (lib/storage/src/rbac), and what a real server answered. Making, changing and
dropping collections and moving aliases needs the full key. A token needs the right for the name that is asked and for
the collection behind it. Lists show what the token may see.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import grpc
from qdrant_client import grpc as proto
from standin_wire import RefusedError

Access = Mapping[str, str]
"""Names of collections to ``r`` or ``rw``."""

_READS = {
    "Get",
    "Scroll",
    "Count",
    "Facet",
    "Query",
    "QueryBatch",
    "QueryGroups",
    "CollectionExists",
    "CollectionClusterInfo",
}
_MANAGES = {"Create", "Update", "Delete", "UpdateAliases"}
"""Of the service Collections."""


def access_of(token: str | None, key: str) -> Access | None:
    """What a token allows; None if the key hasn't signed it."""
    try:
        signed, _, signature = (token or "").rpartition(".")
        wanted = hmac.new(key.encode(), signed.encode(), hashlib.sha256).digest()
        if not hmac.compare_digest(_decoded(signature), wanted):
            return None
        claims = json.loads(_decoded(signed.split(".")[1]))
    except ValueError:
        return None
    return {item["collection"]: item["access"] for item in claims["access"]}


def check(method: str, request: Any, access: Access, aliases: Mapping[str, str]) -> None:
    """Refuse a call that the token doesn't cover.

    Args:
        method: ``/qdrant.Points/Upsert``.
        request: Its message.
        access: From `access_of`.
        aliases: Of the server.
    """
    service, call = method.removeprefix("/qdrant.").split("/")
    if service == "Collections" and call in _MANAGES:
        raise RefusedError(grpc.StatusCode.PERMISSION_DENIED, "Forbidden: Global manage access is required")
    name = getattr(request, "collection_name", None)
    if name is None:
        return
    for needed in {name, aliases.get(name, name)}:
        if needed not in access or (access[needed] != "rw" and call not in _READS):
            raise RefusedError(
                grpc.StatusCode.PERMISSION_DENIED, f"Forbidden: Access to collection {needed} is required"
            )


def shown(answer: Any, access: Access) -> Any:
    """An answer without what the token may not see."""
    if isinstance(answer, proto.ListCollectionsResponse):
        return proto.ListCollectionsResponse(collections=[item for item in answer.collections if item.name in access])
    if isinstance(answer, proto.ListAliasesResponse):
        return proto.ListAliasesResponse(aliases=[item for item in answer.aliases if item.collection_name in access])
    return answer


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
