"""``python -m cbmir.store.rescue SHARD OUT SKIPPED DIM BATCH PARENT_PID``: what the engine can still read of a shard.

It runs in a process of its own: where a file is too short, the engine doesn't fail but ends the process. Each line
written to OUT is JSON: ``{"try": ids}`` before these are read, ``{"id", "payload", "vector"}`` of each point, and
``{"id", "lost": reason}``.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import qdrant_edge as q

from cbmir.errors import one_line
from cbmir.store.optimize import die_with

_IDS = 4096


def read(shard: q.EdgeShard, out: IO[str], skipped: frozenset[str], batch: int) -> None:
    """Write all points but those that are skipped; one that can't be read costs no other."""
    ids = [id for id in _ids(shard) if id not in skipped]
    for start in range(0, len(ids), batch):
        part = ids[start : start + batch]
        _say(out, {"try": part})
        for item in _records(shard, part):
            _say(out, item)


def _ids(shard: q.EdgeShard) -> list[str]:
    found, offset = [], None
    while True:
        request = q.ScrollRequest(offset=offset, limit=_IDS, with_payload=False, with_vector=False)
        records, offset = shard.scroll(request)
        found += [str(record.id) for record in records]
        if offset is None:
            return found


def _records(shard: q.EdgeShard, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        records = shard.retrieve(list(ids), with_payload=True, with_vector=True)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if len(ids) == 1:
            yield {"id": ids[0], "lost": one_line(error)}
            return
        half = len(ids) // 2
        yield from _records(shard, ids[:half])
        yield from _records(shard, ids[half:])
        return
    for record in records:
        yield {"id": str(record.id), "payload": record.payload or {}, "vector": record.vector}


def _say(out: IO[str], item: dict[str, Any]) -> None:
    out.write(json.dumps(item) + "\n")
    if "try" in item:
        out.flush()


def _load(folder: Path, dim: int) -> q.EdgeShard:
    """Open a shard; one that has lost its configuration, by the least that a configuration needs."""
    try:
        return q.EdgeShard.load(str(folder))
    except Exception:
        config = q.EdgeConfig(vectors=q.EdgeVectorParams(size=dim, distance=q.Distance.Cosine))
        return q.EdgeShard.load(str(folder), config)


def main(arguments: Sequence[str]) -> None:
    """Read a shard.

    Args:
        arguments: See the head of this file.
    """
    folder, out, skipped, dim, batch, parent = arguments
    die_with(int(parent))
    try:
        shard = _load(Path(folder), int(dim))
        with Path(out).open("w", encoding="utf-8") as file:
            read(shard, file, frozenset(Path(skipped).read_text(encoding="utf-8").split()), int(batch))
    except BaseException as error:
        sys.exit(one_line(error))


if __name__ == "__main__":
    main(sys.argv[1:])
