"""How a new collection lies in memory, on disk and on the nodes of a cluster."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from cbmir.errors import CollectionError
from cbmir.units import counted, size

Profile = Literal["small", "ram", "disk"]
PROFILES: tuple[Profile, ...] = get_args(Profile)

LARGE_BYTES = 4_000_000_000
"""Of float32 vectors, from which on the HNSW graph gets more edges: two million images of 512 dimensions."""

OVERSAMPLING = 2.0
"""Candidates by quantized vectors a place, before the full ones decide: recall of the first 10 is .9999."""

QUANTILE = 0.99
"""Share of the components within the range of the 8-bit copies; the rest is cut to it."""

_PAYLOAD_BYTES = 1_000
_INDEX_BYTES = 500
_OVERHEAD = 1.5


@dataclass(frozen=True, slots=True)
class Layout:
    """What is wished for a new collection.

    Attributes:
        profile: ``small``: all in memory. ``ram``: 8-bit copies of the vectors and the graph in memory, the vectors
            themselves on disk. ``disk``: all on disk, for a fast one.
        images: How many are expected; None where nobody knows.
        shards: Parts of the collection on a cluster, best a multiple of its nodes; None for the server's default.
        replicas: Nodes that hold each part.
        write_consistency: Replicas that must have a write before it is taken as done.

    Raises:
        CollectionError: a number is below 1, or more replicas must answer than there are.
    """

    profile: Profile = "small"
    images: int | None = None
    shards: int | None = None
    replicas: int | None = None
    write_consistency: int | None = None

    def __post_init__(self) -> None:
        for name in ("shards", "replicas", "write_consistency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CollectionError(f"{name} is {value}; it must be 1 or more")
        if self.write_consistency and self.write_consistency > (self.replicas or 1):
            raise CollectionError(
                f"{self.write_consistency} replicas can't have each write, the collection has {self.replicas or 1}"
            )

    @property
    def spread(self) -> bool:
        """Whether anything is said that only a cluster has."""
        return any(value is not None for value in (self.shards, self.replicas, self.write_consistency))

    def expecting(self, images: int | None) -> "Layout":
        """The same for so many images, unless their number was given."""
        return replace(self, images=self.images or images)


DEFAULT = Layout()


@dataclass(frozen=True, slots=True)
class Plan:
    """A layout for vectors of one length.

    Attributes:
        vectors_in_memory: Whether the float32 vectors are kept there.
        quantized: Whether there are 8-bit copies, which the search walks by before the full vectors decide.
        graph_in_memory: Whether the HNSW graph and the 8-bit copies are kept there.
        indexes_in_memory: Whether the payload indexes are.
        m: Edges of an image in the graph.
        ef_construct: Beam width when it is built.
        memory_bytes: What it takes in memory, estimated; None where nobody knows how many images come.
        disk_bytes: What it takes on disk.
    """

    vectors_in_memory: bool
    quantized: bool
    graph_in_memory: bool
    indexes_in_memory: bool
    m: int
    ef_construct: int
    memory_bytes: int | None
    disk_bytes: int | None


def plan(layout: Layout, dim: int) -> Plan:
    """Placement, quantization and graph of a collection.

    The memory of vectors is N x dim x 4 x 1.5 by Qdrant's own rule, where the half is for what is rewritten while it
    serves; 8-bit copies take a quarter.

    Args:
        layout: What is wished.
        dim: Length of its vectors.
    """
    profile, images = layout.profile, layout.images
    large = (images or 0) * dim * 4 >= LARGE_BYTES
    m, ef_construct = (24, 200) if large else (16, 100)
    small, disk = profile == "small", profile == "disk"
    memory = stored = None
    if images is not None:
        vectors, graph = images * dim * 4, images * m * 2 * 4
        quantized = 0 if small else vectors // 4
        kept = (vectors if small else 0) + (0 if disk else quantized + graph)
        memory = int(kept * _OVERHEAD) + (0 if disk else images * _INDEX_BYTES)
        stored = int((vectors + quantized + graph + images * (_PAYLOAD_BYTES + _INDEX_BYTES)) * _OVERHEAD)
    return Plan(small, not small, not disk, not disk, m, ef_construct, memory, stored)


def announcement(layout: Layout, dim: int) -> str:
    """A line for people: what a new collection takes."""
    planned = plan(layout, dim)
    if planned.memory_bytes is None or planned.disk_bytes is None:
        return f"profile {layout.profile}: what it takes depends on the number of images, give --images"
    memory = f"{size(planned.memory_bytes)} of memory" if planned.memory_bytes else "next to no memory"
    return (
        f"profile {layout.profile}: {counted(layout.images or 0, 'image')} of {dim} dimensions "
        f"{'takes' if layout.images == 1 else 'take'} about {memory} and {size(planned.disk_bytes)} of disk"
    )
