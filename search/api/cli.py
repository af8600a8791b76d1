"""``cbmir serve`` and ``cbmir key``."""

import ipaddress
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cbmir.encoders import EncoderSettings
from cbmir.errors import CbmirError
from cbmir.extras import require
from cbmir.filters import parse_all
from cbmir.limit_options import image_limit_options
from cbmir.limits import bytes_of
from cbmir.options import asked_option, echo, encoder_options, say, store_option


@dataclass(frozen=True, slots=True)
class _Listening:
    """Where the service listens."""

    host: str
    port: int
    root_path: str
    certificate: Path | None
    private_key: Path | None


@click.command()
@store_option
@click.option(
    "--collection", "names", multiple=True, help="Serve only this one; all there are unless given. Repeatable."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; others need --keys.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option(
    "--keys",
    "key_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Who may ask, see `cbmir key`. Without it, only this machine is answered.",
)
@click.option(
    "--audit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Log of who was shown what, with --keys; FILE.audit.jsonl beside the key file unless given.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of the stored images; where ingest read them unless given.",
)
@click.option(
    "--show-paths",
    is_flag=True,
    help="Without keys: show file paths, ids of patients, own columns and vectors as well.",
)
@click.option(
    "--engines",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Processes that search; more than one for a Qdrant server only. Each loads the encoders.",
)
@click.option(
    "--queue", "most_waiting", default=64, show_default=True, type=click.IntRange(1), help="Searches that may wait."
)
@click.option("--max-upload", default="64M", show_default=True, metavar="SIZE", help="Largest file that is taken.")
@click.option("--root-path", default="", metavar="PATH", help="Where a proxy shows the service, such as /cbmir.")
@click.option("--tls-certificate", "certificate", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--tls-key", "private_key", type=click.Path(path_type=Path), metavar="FILE")
@image_limit_options
@asked_option
@encoder_options
def serve(settings: EncoderSettings, **options: Any) -> int:
    """Serve searches over HTTP, and a page for people."""
    for module in ("fastapi", "uvicorn", "python_multipart"):
        require(module, "serve", "cbmir serve")
    from cbmir.search.api.access import Keys
    from cbmir.search.api.app import application
    from cbmir.search.api.asked import Plan
    from cbmir.search.api.audit import Audit
    from cbmir.search.api.pool import Pool
    from cbmir.search.api.service import Service

    key_file: Path | None = options["key_file"]
    keys = Keys.read(key_file) if key_file else None
    _check(options, settings)
    upload_bytes = bytes_of(options["max_upload"])
    kept = options["audit"] or (key_file and key_file.with_name(f"{key_file.name}.audit.jsonl"))
    plan = Plan(options["location"], tuple(options["names"]), options["root"], settings)
    listening = _Listening(*(options[name] for name in ("host", "port", "root_path", "certificate", "private_key")))
    stopped = signal.signal(signal.SIGTERM, _end)
    pool = Pool(plan, options["engines"], options["most_waiting"])
    audit = Audit(kept)
    try:
        with _bound(listening) as bound:
            pool.start()
            service = Service(pool, keys, audit, shows_paths=options["show_paths"], upload_bytes=upload_bytes)
            for served in pool.served:
                say(f"{served.name}: {served.encoder} {served.fingerprint}{_without(served.reason)}")
            say(f"cbmir listens at {_url(listening, bound)}")
            _run(application(service, listening.root_path), listening, bound)
    except KeyboardInterrupt:
        say("stopped")
    finally:
        pool.close()
        audit.close()
        signal.signal(signal.SIGTERM, stopped)
    return 0


@click.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, required=True, help="search, images, identify, vectors, admin.")
@click.option("--collection", "names", multiple=True, help="Only this one may be seen. Repeatable.")
@click.option("--where", "conditions", multiple=True, metavar="CONDITION", help="Only such images may be seen.")
@click.option(
    "--to",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Add the entry to this key file; else to stdout.",
)
def key(
    name: str, roles: tuple[str, ...], names: tuple[str, ...], conditions: tuple[str, ...], file: Path | None
) -> int:
    """Make a key for `cbmir serve`: its entry for a key file, and the key itself on stderr."""
    from cbmir.search.api.access import ROLES, add_entry, new_key

    if unknown := [role for role in roles if role not in ROLES]:
        raise click.UsageError(f"no role {unknown[0]!r}; there are {', '.join(ROLES)}")
    made, entry = new_key(name, roles, names, parse_all(*conditions))  # type: ignore[arg-type]  # they were checked
    if file is None:
        echo(entry, exact=True)
    else:
        add_entry(file, name, entry)
    say(f"the key, which is shown only now: {made}")
    return 0


def _check(options: dict[str, Any], settings: EncoderSettings) -> None:
    """Refuse options that don't go together, before anything is opened."""
    keyed = options["key_file"] is not None
    if not keyed and not _is_loopback(options["host"]):
        raise CbmirError(f"--host {options['host']} can be reached by others: give --keys FILE (made by `cbmir key`)")
    if keyed and options["show_paths"]:
        raise click.UsageError("--show-paths is for a service without keys; with keys the role identify shows them")
    if options["audit"] and not keyed:
        raise click.UsageError("--audit names users by their keys: give --keys FILE")
    if bool(options["certificate"]) != bool(options["private_key"]):
        raise click.UsageError("give both --tls-certificate and --tls-key")
    if options["engines"] > 1 and not options["location"].startswith(("http://", "https://")):
        raise click.UsageError("only one process can hold a directory: --engines is for a Qdrant server")
    if settings.weights and len(options["names"]) != 1:
        raise click.UsageError("--weights is for one encoder: give --collection NAME")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bound(listening: _Listening) -> socket.socket:
    family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
    # asyncio sends small answers at once only where the protocol is named; otherwise each waits some 40 ms
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((listening.host, listening.port))
        bound.listen(256)
        return bound
    except OSError as error:
        bound.close()
        raise CbmirError(
            f"can't listen at {listening.host}:{listening.port}: {error.strerror or error}; "
            "give another --port or --host"
        ) from error


def _url(listening: _Listening, bound: socket.socket) -> str:
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    scheme = "https" if listening.certificate else "http"
    return f"{scheme}://{host}:{bound.getsockname()[1]}{listening.root_path}/"


def _without(reason: str) -> str:
    return f"; without uploads and texts: {reason}" if reason else ""


def _run(application: Any, listening: _Listening, bound: socket.socket) -> None:
    """Answer requests until a signal ends it."""
    import uvicorn

    try:
        configuration = uvicorn.Config(
            application,
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=10,
            ssl_certfile=listening.certificate,
            ssl_keyfile=listening.private_key,
        )
        configuration.load()
    except OSError as error:  # also of the TLS library
        raise CbmirError(f"can't use the certificate or its key: {error.strerror or error}") from error
    uvicorn.Server(configuration).run(sockets=[bound])


def _end(*_: object) -> None:
    raise KeyboardInterrupt
