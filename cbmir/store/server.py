"""A URL as a store: a Qdrant server or cluster over gRPC or REST.

Collection ``name`` is an alias of ``name__vN``, so that a re-index can switch at once.
"""

import re
import uuid
from collections.abc import Collection
from typing import Any

from qdrant_client import QdrantClient, models

from cbmir.errors import CollectionError
from cbmir.fingerprint import EncoderCard
from cbmir.schema import INDEXED_FIELDS, PayloadField
from cbmir.store.connection import Connection
from cbmir.store.identity import card_from, check_name, metadata
from cbmir.store.keys import Right
from cbmir.store.layout import DEFAULT, QUANTILE, Layout, Plan, plan
from cbmir.store.points import ServerCollection
from cbmir.store.profile import SearchProfile
from cbmir.store.retry import refused, translate
from cbmir.store.roots import roots_from
from cbmir.store.store import Store


class ServerStore(Store):
    """The collections of a server or a cluster.

    Attributes:
        connection: The way there.
        streams: Writes that may be under way at once.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.streams = connection.streams
        self.location = connection.location

    @classmethod
    def over(cls, client: QdrantClient, location: str) -> "ServerStore":
        """The collections behind any qdrant-client, also one with the ``:memory:`` engine."""
        return cls(Connection([(location, client)]))

    @property
    def client(self) -> QdrantClient:
        """The client of the node that is asked."""
        return self.connection.client

    def names(self) -> list[str]:
        """Aliases and collections that have none, sorted."""
        aliases = self.aliases()
        return sorted(aliases.keys() | (self._physical() - set(aliases.values())))

    def aliases(self) -> dict[str, str]:
        """Aliases to the own names of the collections they lead to."""
        found = self.connection.call(lambda client: client.get_aliases())
        return {item.alias_name: item.collection_name for item in found.aliases}

    def versions(self, name: str) -> set[str]:
        """The own names of all versions of a collection, ``NAME__vN``."""
        return {item for item in self._physical() if re.fullmatch(re.escape(name) + r"__v\d+", item)}

    def next_version(self, name: str) -> str:
        """The own name of the version after the last."""
        taken = [int(version.rpartition("__v")[2]) for version in self.versions(name)]
        return f"{name}__v{max(taken, default=0) + 1}"

    def create(self, name: str, card: EncoderCard, layout: Layout = DEFAULT) -> ServerCollection:
        """Make ``name__v1`` with its indexes, then the alias, so that nobody sees a collection without indexes."""
        check_name(name)
        if name in self.names():
            raise CollectionError(f"collection {name} exists already on {self.location}")
        self.lead(name, self.create_version(name, card, layout))
        return ServerCollection(self.connection, name, card)

    def create_version(self, name: str, card: EncoderCard, layout: Layout = DEFAULT) -> str:
        """Make the next ``NAME__vN`` with its indexes, or take up one that a killed process has begun; no alias."""
        check_name(name)
        physical = self._unfinished(name, card) or self.next_version(name)
        planned = plan(layout, card.dim)
        settings = _settings(planned, card) | _spread(layout)

        def make(client: QdrantClient) -> None:
            try:
                client.create_collection(physical, **settings)
            except Exception:
                if not client.collection_exists(physical):
                    raise  # else: another process makes the same; all that follows can be done twice
            for field in INDEXED_FIELDS:
                client.create_payload_index(physical, field.name, _index(field, planned), wait=True)

        self.connection.call(make, doing="manage")
        return physical

    def _open(self, name: str) -> ServerCollection:
        """Open a collection by its alias or its own name."""
        if not self.connection.call(lambda client: client.collection_exists(name)):
            raise self._missing(name)
        config = self.connection.call(lambda client: client.get_collection(name)).config
        card = card_from(config.metadata, f"collection {name} on {self.location}")
        profile = SearchProfile.from_json((config.metadata or {}).get("search"))
        return ServerCollection(self.connection, name, card, profile, roots_from(config.metadata))

    def drop(self, name: str) -> None:
        """Delete the collection that an alias leads to, or one by its own name.

        The server deletes its aliases with it: whoever is killed meanwhile leaves all of it or nothing.
        """
        if name not in self.names():
            raise self._missing(name)
        own = self.aliases().get(name, name)
        self.connection.call(lambda client: client.delete_collection(own), doing="manage")

    def lead(self, alias: str, name: str) -> None:
        """Let an alias lead to a collection, wherever it has led before.

        Readers see the old one or the new one: the server does both operations at once.
        """
        made = models.CreateAlias(collection_name=name, alias_name=alias)
        operations: list[models.AliasOperations] = [_no_alias(alias)] if alias in self.aliases() else []
        operations.append(models.CreateAliasOperation(create_alias=made))
        self.connection.call(lambda client: client.update_collection_aliases(operations), doing="manage")

    def unhealthy(self, name: str) -> list[str]:
        """Replicas of a collection that are dead, and on which node."""
        return self._replicas(name, (models.ReplicaState.DEAD,))

    def recovering(self, name: str) -> list[str]:
        """Replicas of a collection that are on their way, as after a restore, and on which node."""
        steady = (models.ReplicaState.ACTIVE, models.ReplicaState.LISTENER, models.ReplicaState.DEAD)
        return self._replicas(name, [state for state in models.ReplicaState if state not in steady])

    def _replicas(self, name: str, states: Collection[models.ReplicaState]) -> list[str]:
        spread = self.connection.call(lambda client: client.collection_cluster_info(name))
        here = [(item.shard_id, spread.peer_id, item.state) for item in spread.local_shards]
        there = [(item.shard_id, item.peer_id, item.state) for item in spread.remote_shards]
        return [
            f"shard {n} on node {peer} is {state.value}" for n, peer, state in sorted(here + there) if state in states
        ]

    def rights(self, name: str | None = None) -> Right:
        """What the key may do, found by trying what changes nothing: to delete what nobody has.

        Args:
            name: A collection to ask about; None asks about making and dropping collections.
        """
        nobody = uuid.uuid4()
        try:
            if name is None:
                self.client.delete_collection(f"nobody-{nobody}")
                return "manage"
            self.client.delete(name, models.PointIdsList(points=[str(nobody)]), wait=True)
        except Exception as error:
            if refused(error):
                return "read"
            raise translate(error, self.location, self.connection.key) from error
        return "write"

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _physical(self) -> set[str]:
        return {item.name for item in self.connection.call(lambda client: client.get_collections()).collections}

    def _unfinished(self, name: str, card: EncoderCard) -> str | None:
        """An empty version for the same encoder without an alias: its maker was killed, or is at it right now."""
        candidates = sorted(self.versions(name) - set(self.aliases().values()))

        def look(client: QdrantClient) -> str | None:
            for version in candidates:
                there = client.get_collection(version)
                ours = (there.config.metadata or {}).get("fingerprint") == card.fingerprint
                if ours and not there.points_count:
                    return version
            return None

        return self.connection.call(look)


def _settings(planned: Plan, card: EncoderCard) -> dict[str, Any]:
    quantized = models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(
            type=models.ScalarType.INT8, quantile=QUANTILE, always_ram=planned.graph_in_memory
        )
    )
    return {
        "vectors_config": models.VectorParams(
            size=card.dim, distance=models.Distance.COSINE, on_disk=not planned.vectors_in_memory
        ),
        "hnsw_config": models.HnswConfigDiff(
            m=planned.m, ef_construct=planned.ef_construct, on_disk=not planned.graph_in_memory
        ),
        "quantization_config": quantized if planned.quantized else None,
        "metadata": metadata(card),
    }


def _spread(layout: Layout) -> dict[str, Any]:
    return {
        "shard_number": layout.shards,
        "replication_factor": layout.replicas,
        "write_consistency_factor": layout.write_consistency,
    }


def _no_alias(name: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))


def _index(field: PayloadField, planned: Plan) -> Any:
    on_disk = None if planned.indexes_in_memory else True
    if field.kind == "keyword":
        kind = models.KeywordIndexType.KEYWORD
        return models.KeywordIndexParams(type=kind, is_tenant=field.tenant or None, on_disk=on_disk)
    if field.kind == "integer":
        return models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, on_disk=on_disk)
    if field.kind == "float":
        return models.FloatIndexParams(type=models.FloatIndexType.FLOAT, on_disk=on_disk)
    return models.DatetimeIndexParams(type=models.DatetimeIndexType.DATETIME, on_disk=on_disk)
