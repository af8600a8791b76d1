"""``cbmir doctor``: is everything in order that a store and an encoder need? A line a check."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import click

from cbmir import __version__
from cbmir.encoders.base import EncoderSettings
from cbmir.errors import CbmirError
from cbmir.options import echo, encoder_options, json_option, opened, print_json, store_key, transport_options
from cbmir.schema import INDEXED_FIELDS
from cbmir.store import Collection, Store
from cbmir.store.sealed import sentence
from cbmir.store.tuning import MEASURED_FROM
from cbmir.units import counted

if TYPE_CHECKING:
    from cbmir.store.server import ServerStore

State = Literal["ok", "warning", "failed"]

PACKAGES = ("qdrant-edge-py", "qdrant-client", "torch", "timm", "open_clip_torch", "transformers")
SPARE_BYTES = 5_000_000_000
"""Free space of a directory below which there is a warning."""
OPEN_FILES = 4096
"""Limit of open files below which there is a warning: the engine keeps dozens a collection."""
REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs")
"""File systems on which the engine's mapped files and locks can't be trusted."""

_MOUNTS = Path("/proc/mounts")


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at.

    Attributes:
        name: Of the check.
        state: ``failed`` keeps cbmir from working, a ``warning`` doesn't yet.
        text: What was found, and what to do.
    """

    name: str
    state: State
    text: str


def check_program() -> Iterator[Check]:
    """Versions, the kinds of files that can be read, and the limit of open files."""
    from cbmir.media import suffixes

    found = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    yield Check("program", "ok", f"cbmir {__version__}, {found}")
    yield Check("files", "ok", f"reads {' '.join(suffixes())}")
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= OPEN_FILES or soft == resource.RLIM_INFINITY
    advice = "" if enough else f"; raise it to {OPEN_FILES:,} or more: ulimit -n {min(OPEN_FILES, hard)}"
    yield Check("open files", "ok" if enough else "warning", f"at most {soft:,}{advice}")


def check_directory(path: Path, mounts: Path = _MOUNTS) -> Iterator[Check]:
    """Rights, space and file system of a directory that is a store, or becomes one."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    text = f"{there} can be written" if writable else f"{there} can't be written by this user: no ingest here"
    yield Check(
        "directory", "ok" if writable else "failed", text if path.exists() else f"{path} isn't there yet; {text}"
    )
    free = shutil.disk_usage(there).free
    yield Check("disk", "ok" if free >= SPARE_BYTES else "warning", f"{free / 1e9:,.1f} GB are free")
    kind = _file_system(there, mounts)
    if kind is not None:
        remote = kind in REMOTE
        advice = ": the engine needs a local disk, on others it loses data" if remote else ""
        yield Check("file system", "failed" if remote else "ok", f"{kind}{advice}")


def check_store(store: Store, key: bool = False, *, full: bool = False) -> Iterator[Check]:
    """Every collection of a store, and of a server its key.

    Args:
        store: Open.
        key: Whether a key was given.
        full: Whether to read all files of large collections too.
    """
    from cbmir.store.server import ServerStore

    names = store.names()
    yield Check("store", "ok", f"{store.location} answers and holds {counted(len(names), 'collection')}")
    if isinstance(store, ServerStore):
        yield check_key(store, key)
    for line in store.remains():
        yield Check("left over", "warning", line)
    for name in names:
        try:
            if flaws := store.damages(name, full=full):
                yield Check(name, "failed", sentence(flaws, name))
                continue
            with store.open(name) as collection:
                yield check_collection(store, collection)
        except CbmirError as error:
            yield Check(name, "failed", str(error))


def check_key(store: "ServerStore", given: bool) -> Check:
    """Whether the server is open to everybody, and what the key may do."""
    from cbmir.store.connection import LOOPBACK

    private = all(urlsplit(url).hostname in LOOPBACK for url in store.location.split(","))
    if not given:
        text = "no key was given and none is asked for: who reaches the server may read and delete all of it"
        return Check("key", "ok" if private else "warning", text)
    rights = store.rights()
    if rights != "manage":
        writes = [name for name in store.names() if store.rights(name) == "write"]
        text = f"may write to {', '.join(writes)}, not make or drop collections" if writes else "may read, not write"
    else:
        text = "may do everything; keep it for administration, and give dashboards the read-only key"
    if not private and any(url.startswith("http:") for url in store.location.split(",")):
        return Check("key", "warning", f"{text}; it travels unencrypted: use https")
    return Check("key", "ok", text)


def check_collection(store: Store, collection: Collection) -> Check:
    """Encoder, indexes, vectors, replicas and state of a collection."""
    info, card, name = collection.info(), collection.card, collection.name
    text = f"{counted(info.points, 'image')} of {card.name}, fingerprint {card.fingerprint}, {info.status}"
    missing = sorted({field.name for field in INDEXED_FIELDS} - info.fields)
    if missing:
        return _without_indexes(name, f"{text}; no index on {', '.join(missing)}", empty=not info.points)
    if info.status == "red":
        return Check(name, "failed", f"{text}: the server failed to index it, see its log")
    if unhealthy := store.unhealthy(name):
        return Check(name, "failed", f"{text}; {', '.join(unhealthy)}: start that node, the others go on without it")
    if recovering := store.recovering(name):
        wait = "it gets there by itself; look again in a minute, and at that node's log if it stays so"
        return Check(name, "warning", f"{text}; {', '.join(recovering)}: {wait}")
    if bare := collection.without_vector():
        return Check(
            name, "warning", f"{text}; points without a vector, which no search finds: {bare:,}; ingest them again"
        )
    if info.deferred:
        put_off = "its graph was put off by --defer-index, and searches compare all images"
        return Check(name, "warning", f"{text}; {put_off}: cbmir collections optimize {name}")
    if info.status != "green":
        waits = "the server is indexing" if info.status == "yellow" else "nothing is indexed before the next change"
        return Check(name, "warning", f"{text}: {waits}; cbmir collections optimize {name}")
    if collection.profile:
        text += f"; {collection.profile.summary()}"
    elif info.points >= MEASURED_FROM:
        text += f"; its searches were not measured, so each compares all images: cbmir collections optimize {name}"
    return Check(name, "ok", text)


def _without_indexes(name: str, text: str, *, empty: bool) -> Check:
    """What is said where indexes are missing; an empty collection was being made when cbmir was killed."""
    if empty:
        again = "it is unfinished: run the command again that was making it"
        return Check(name, "warning", f"{text}; {again}, or delete it: cbmir collections drop {name}")
    return Check(name, "failed", f"{text}: filters on them are slow or refused; make the collection anew")


def check_encoder(name: str, settings: EncoderSettings) -> Iterator[Check]:
    """Whether an encoder loads here, and what it runs on once it has seen pictures."""
    import numpy as np

    from cbmir.encoders import given
    from cbmir.media import Asset, prepare

    encoder = given(name, settings)
    card, how = encoder.card, encoder.preprocessing
    if how.kind == "image":
        noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        encoder.embed(prepare(Asset.of(noise), how).pixels[np.newaxis])
    text = f"{name} loads: {card.dim} dimensions, fingerprint {card.fingerprint}, weights {card.weights[:19]}"
    yield Check(
        "encoder", "ok", f"{text}; runs on {encoder.running_on}, {counted(encoder.batch_size, how.kind)} a step"
    )


@click.command("doctor")
@transport_options
@click.option("--store", "location", envvar="CBMIR_STORE", show_envvar=True, metavar="DIR|URL", help="Check it too.")
@click.option("--encoder", help="Load it too, and say what it runs on.")
@click.option("--full", is_flag=True, help="Read all files of directory collections over 2 GB, too.")
@encoder_options
@json_option
def doctor_command(
    location: str | None, encoder: str | None, full: bool, as_json: bool, settings: EncoderSettings
) -> int:
    """Check what a store and an encoder need, a line each; no image is changed.

    The exit code is 1 where a check failed, 0 otherwise.
    """
    checks = list(check_program())
    if location:
        if "://" not in location:
            checks += check_directory(Path(location))
        checks += _attempt("store", lambda: _stored(location, full))
    if encoder:
        checks += _attempt("encoder", lambda: list(check_encoder(encoder, settings)))
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        wide = max(len(check.name) for check in checks)
        for check in checks:
            echo(f"{check.state:7}  {check.name:{wide}}  {check.text}")
    return 1 if any(check.state == "failed" for check in checks) else 0


def _stored(location: str, full: bool) -> list[Check]:
    if "://" not in location and not Path(location).exists():
        return [Check("store", "warning", f"there is no {location} yet; ingest makes it")]
    with opened(location) as store:
        return list(check_store(store, store_key().value is not None, full=full))


def _attempt(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    try:
        return look()
    except CbmirError as error:
        return [Check(name, "failed", str(error))]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is missing"


def _file_system(path: Path, mounts: Path) -> str | None:
    """The kind of file system that holds a path; None where the system doesn't tell."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    points = {parts[1].replace("\\040", " "): parts[2] for parts in map(str.split, lines) if len(parts) > 2}
    place = path.resolve()
    return next((points[str(folder)] for folder in (place, *place.parents) if str(folder) in points), None)
