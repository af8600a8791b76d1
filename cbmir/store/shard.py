"""The files that the engine keeps of one collection in a directory: made, opened, optimized, and its errors as ours."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import qdrant_edge as q

from cbmir.errors import CbmirError, StoreDamagedError, StoreError, StoreLockedError, one_line
from cbmir.schema import INDEXED_FIELDS, PayloadField
from cbmir.store.layout import QUANTILE, Plan

ENGINE = f"qdrant-edge {version('qdrant-edge-py')}"

_LEAVING_S = 60.0
"""Time for a killed process's helper to let go of the engine's files."""
_POLL_S = 0.05


@contextmanager
def errors_of_engine(folder: Path) -> Iterator[None]:
    """Turn what the engine raises, bare exceptions and Rust panics, into errors of ours."""
    try:
        yield
    except CbmirError:
        raise
    except Exception as error:
        if "WouldBlock" in str(error):
            raise StoreLockedError(f"{folder} is in use by another process; wait for it or stop it") from error
        if "Shard is not initialized" in str(error):
            raise StoreError(f"the collection {folder} is closed: open it again") from error
        raise StoreError(f"the engine refused {folder}: {one_line(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise StoreDamagedError(f"{folder} is damaged, the engine gave up on it: {one_line(error)}") from None


def load_shard(folder: Path) -> q.EdgeShard:
    """Open the engine on a collection whose lock this process, or the one that started it, holds.

    The engine's own lock can then be held only by what a killed process has started and what is ending: it is waited
    for, since an end takes its time while the disk is busy.
    """
    for _ in range(round(_LEAVING_S / _POLL_S)):
        try:
            return _loaded(folder)
        except StoreLockedError:
            time.sleep(_POLL_S)
    return _loaded(folder)


def _loaded(folder: Path) -> q.EdgeShard:
    with errors_of_engine(folder):
        shard = q.EdgeShard.load(str(folder / "shard"))
        if shard.info().payload_schema:
            return shard
        shard.close()
    # the engine says nothing of it
    raise StoreDamagedError(f"{folder} is damaged: it has lost its indexes, and points with them")


def optimize(folder: Path) -> None:
    """Build the HNSW graph of a closed collection, holding the GIL until it is done."""
    shard = load_shard(folder)
    with errors_of_engine(folder):
        shard.optimize()
        shard.close()


def check_shard(folder: Path) -> None:
    """Look whether the engine can open a collection that nobody has open.

    Raises:
        StoreError: it can't.
    """
    shard = load_shard(folder)
    with errors_of_engine(folder):
        shard.close()


def create_shard(path: Path, dim: int, planned: Plan) -> None:
    """Make an empty shard with its payload indexes."""
    at_hand, graph = _memory(planned.vectors_in_memory), _memory(planned.graph_in_memory)
    quantized = q.ScalarQuantizationConfig(q.ScalarType.Int8, quantile=QUANTILE, memory=graph)
    config = q.EdgeConfig(
        vectors=q.EdgeVectorParams(size=dim, distance=q.Distance.Cosine, memory=at_hand),
        hnsw_config=q.HnswIndexConfig(
            m=planned.m, ef_construct=planned.ef_construct, full_scan_threshold=10_000, memory=graph
        ),
        quantization_config=quantized if planned.quantized else None,
    )
    with errors_of_engine(path):
        path.mkdir()
        shard = q.EdgeShard.create(str(path), config)
        for field in INDEXED_FIELDS:
            shard.update(q.UpdateOperation.create_field_index(field.name, _index(field, planned)))
        shard.close()


def _memory(kept: bool) -> q.Memory:
    return q.Memory.Cached if kept else q.Memory.Cold


def _index(field: PayloadField, planned: Plan) -> Any:
    memory = _memory(planned.indexes_in_memory)
    if field.kind == "keyword":
        return q.KeywordIndexParams(is_tenant=field.tenant or None, memory=memory)
    kinds = {"integer": q.IntegerIndexParams, "float": q.FloatIndexParams, "datetime": q.DatetimeIndexParams}
    return kinds[field.kind](memory=memory)
