"""A running service over a store of made pictures, with keys, as browsers and programs reach it."""

import csv
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from pictures import write_picture
from PIL import Image

from cbmir import connect
from cbmir.filters import parse_all
from cbmir.schema import point_id
from cbmir.search.api.access import Keys, Principal
from cbmir.search.api.app import application
from cbmir.search.api.asked import Plan
from cbmir.search.api.audit import Audit
from cbmir.search.api.pool import Pool
from cbmir.search.api.service import Service

PLANTED = "XPLANTEDX"
"""Stands in every file path, patient id and own column, and nowhere else."""

ROWS = [
    {
        "filepath": f"{PLANTED}-{number:02}.png",
        "dataset": "ab"[number % 2],
        "modality": ("CT", "MR")[number // 2 % 2],
        "anatomic_region": "chest",
        "labels": f"{('CT', 'MR')[number // 2 % 2]}/chest/finding_{number % 3}",
        "patient_id": f"{PLANTED}-p{number // 3}",
        "site": f"{PLANTED}-s{number % 2}",
    }
    for number in range(24)
]
IDS = [point_id(row["dataset"], row["filepath"]) for row in ROWS]


def picture(folder: Path, row: int) -> Path:
    return folder / "images" / ROWS[row]["filepath"]


def made_store(folder: Path) -> Path:
    """A directory store of the collections ``pixels`` and ``other_pixels`` of these rows, the images beside it."""
    for number in range(len(ROWS)):
        write_picture(picture(folder, number), number)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0])
        writer.writeheader()
        writer.writerows(ROWS)
    store = connect(folder / "store")
    for collection in ("pixels", "other_pixels"):
        store.ingest(folder / "table.csv", root=folder / "images", encoder="pixels", collection=collection)
    return folder / "store"


def key(name: str) -> str:
    return f"key-of-{name}"


def keys(*principals: Principal) -> Keys:
    return Keys({hashlib.sha256(key(item.name).encode()).hexdigest(): item for item in principals})


def principal(name: str, *roles: str, collections: tuple[str, ...] | None = None, where: str = "") -> Principal:
    seen = None if collections is None else frozenset(collections)
    return Principal(name, frozenset(roles), seen, parse_all(where) if where else ())


@contextmanager
def pool_of(store: Path, *collections: str, **terms: object) -> Iterator[Pool]:
    pool = Pool(Plan(str(store), collections), **terms)
    pool.start()
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def serving(pool: Pool, who: Keys | None = None, audit: Path | None = None, **terms: object) -> Iterator[httpx.Client]:
    """A client of a service that listens; the service is `client.service`."""
    service = Service(pool, who, Audit(audit), **terms)
    configuration = uvicorn.Config(
        application(service), port=0, log_config=None, lifespan="off", ws="none", proxy_headers=False
    )
    server = uvicorn.Server(configuration)
    bound = configuration.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{bound.getsockname()[1]}"
    try:
        with httpx.Client(base_url=base, timeout=120, trust_env=False) as client:
            client.service = service
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        bound.close()


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key(name)}"}


def asked(client, file=None, **query):
    files = {"image": (f"{PLANTED}.png", file)} if file is not None else None
    if files:
        return client.post("/search", files=files, data={"query": json.dumps(query)})
    return client.post("/search", json=query)


def png():
    file = io.BytesIO()
    Image.linear_gradient("L").resize((30, 20)).save(file, "PNG")
    return file.getvalue()


def same(answer, hits):
    assert answer.status_code == 200, answer.text
    found = answer.json()["hits"]
    assert [hit["id"] for hit in found] == [hit.id for hit in hits]
    assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert [hit["rank"] for hit in found] == [hit.rank for hit in hits]
