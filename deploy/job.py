"""What the containers run: ``prepare``, ``ingest``, ``optimize``; and ``thumbnails``, a small web server.

``prepare`` and ``optimize`` have the full key. ``ingest`` has only the token that ``prepare`` writes for it: the right
to read and write one collection. The settings are environment variables; ``deploy/README.md`` describes them.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import shlex
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click

from cbmir.errors import CbmirError
from cbmir.options import EXIT_FAILURES, opened, run, say

ROOT = Path(os.environ.get("CBMIR_JOB_ROOT", "/"))
DATA, THUMBNAILS, TOKEN = ROOT / "data", ROOT / "thumbnails", ROOT / "token" / "ingest"

_NEEDED = {
    "CBMIR_DATA": "the folder of your images, or of a table and its images",
    "CBMIR_ENCODER": "the network that turns images into vectors, such as efficientnet-lite0",
}
_FILLED = {"--encoder": "CBMIR_ENCODER", "--collection": "CBMIR_COLLECTION", "--weights": "CBMIR_WEIGHTS"}
_ARGUMENTS = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


class SettingError(CbmirError):
    """A setting is missing, or has a value that can't be used."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def job() -> None:
    """Run one step of a deployment."""


@job.command()
def prepare() -> None:
    """Make the collection and its alias if they are missing, and write the token of `ingest`."""
    TOKEN.unlink(missing_ok=True)
    if not _is_set_up():
        return
    from cbmir.encoders import EncoderSettings, get

    weights = _setting("CBMIR_WEIGHTS")
    card = get(_setting("CBMIR_ENCODER"), EncoderSettings(Path(weights) if weights else None)).card
    name = _setting("CBMIR_COLLECTION") or re.sub(r"[^A-Za-z0-9._-]+", "-", card.name)
    with opened(_setting("CBMIR_STORE")) as store:
        aliases = getattr(store, "aliases", None)
        if aliases is None:
            raise SettingError(f"CBMIR_STORE is {store.location}; it must be the URL of a Qdrant server")
        made = name not in store.names()
        store.open_or_create(name, card).close()
        names = [name, *filter(None, [aliases().get(name)])]
    _write_token(names, _setting("QDRANT_API_KEY"))
    say(f"collection {name}: {'made' if made else 'is there already'}; ingest may read and write {' and '.join(names)}")


@job.command(context_settings=_ARGUMENTS)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def ingest(arguments: tuple[str, ...]) -> int:
    """Store the images in /data; with ARGUMENTS: run `cbmir ingest ARGUMENTS` instead.

    The exit code is 0 also if some images can't be read: these are counted, and listed in a file.
    """
    from cbmir.cli import cli

    if arguments and arguments[0] in cli.list_commands(click.Context(cli)):  # the long form: ingest images ...
        words = list(arguments)
    else:
        words = ["ingest", *arguments]
    automatic = not arguments
    if automatic:
        if not _is_set_up():
            return 0
        words += ["images", *_source(), *shlex.split(_setting("CBMIR_INGEST_OPTIONS"))]
    if words[:2] == ["ingest", "images"]:
        words = _filled(words)
    try:
        os.environ["QDRANT_API_KEY"] = _token()
    except SettingError as error:
        if automatic:
            raise
        say(f"warning: {error}")  # --help and --dry-run need none
    code = cli.main(words, prog_name="cbmir", standalone_mode=False)
    if automatic and code == EXIT_FAILURES:
        say("some images can't be read; the lines above name the file that lists them. All others are stored.")
        return 0
    return code if isinstance(code, int) else 0


@job.command()
def optimize() -> int:
    """Measure how the collection is best searched, and keep the result with it, which the token of `ingest` can't."""
    if not _is_set_up():
        return 0
    from cbmir.cli import cli

    with opened(_setting("CBMIR_STORE")) as store:
        name = _prepared_name()
        with store.open(name) as collection:
            if not collection.count():
                say(f"collection {name} is empty: nothing to measure")
                return 0
    code = cli.main(["collections", "optimize", name], prog_name="cbmir", standalone_mode=False)
    return code if isinstance(code, int) else 0


@job.command()
@click.option("--port", default=8080, show_default=True)
def thumbnails(port: int) -> None:
    """Serve the thumbnails, and nothing else."""
    with ThreadingHTTPServer(("", port), partial(_Thumbnails, directory=str(THUMBNAILS))) as server:
        say(f"thumbnails on port {server.server_port}")
        server.serve_forever()


class _Thumbnails(SimpleHTTPRequestHandler):
    """Answers for the JPEG files of a folder; it lists no folder and shows no other file."""

    def send_head(self) -> Any:
        if not re.fullmatch(r"/[0-9a-f]{2}/[0-9a-f-]{36}\.jpg", self.path.partition("?")[0]):
            self.send_error(404)
            return None
        return super().send_head()

    def log_message(self, *_: Any) -> None:
        """Nothing: an image is no event."""


def _setting(name: str) -> str:
    return os.environ.get(name, "").strip()


def _is_set_up() -> bool:
    missing = [name for name in _NEEDED if not _setting(name)]
    for name in missing:
        say(f"{name} is not set: write it into .env ({_NEEDED[name]}), then run `docker compose up` again")
    if missing:
        say("nothing was done; Qdrant is running")
    return not missing


def _source() -> list[str]:
    """The only table in /data, or /data itself if it holds none; ``CBMIR_SOURCE`` chooses another path below it."""
    from cbmir.ingest.sources import table

    if chosen := _setting("CBMIR_SOURCE"):
        source = DATA / chosen
        if not source.exists():
            raise SettingError(f"CBMIR_SOURCE is {chosen}: the folder CBMIR_DATA holds no such file or folder")
        return [str(source)]
    if not DATA.is_dir():
        raise SettingError("CBMIR_DATA must be a folder; to choose a table in it, set CBMIR_SOURCE")
    tables = sorted(
        path.name for path in DATA.iterdir() if not path.name.startswith((".", "~$")) and table.accepts(path)
    )
    if len(tables) > 1:
        raise SettingError(
            f"the folder CBMIR_DATA holds several tables: {', '.join(tables)}; set CBMIR_SOURCE to one of them, "
            "or to . for the images of the folder without a table"
        )
    return [str(DATA / tables[0]) if tables else str(DATA)]


def _filled(words: Sequence[str]) -> list[str]:
    """The arguments of `ingest images`, with the settings for options that are not given."""
    encoder, other = _setting("CBMIR_ENCODER"), _given(words, "--encoder")
    if encoder and other and encoder != other:
        raise SettingError(
            f"--encoder is {other}, but CBMIR_ENCODER is {encoder}, and only its collection may be written here; "
            f"run: CBMIR_ENCODER={other} docker compose run --rm ingest images ..."
        )
    options = {option: _setting(name) for option, name in _FILLED.items()}
    if any(Path(word) == DATA for word in words):  # the name of a folder is its data set's, and here it is always data
        options["--dataset"] = Path(_setting("CBMIR_DATA")).name
    url = _setting("CBMIR_THUMBNAIL_URL")
    if url and _given(words, "--thumbnails") is None and _given(words, "--thumbnail-url") is None:
        options |= {"--thumbnails": str(THUMBNAILS), "--thumbnail-url": url}
    added = [f"{option}={value}" for option, value in options.items() if value and _given(words, option) is None]
    return [*words, *added]


def _given(words: Sequence[str], option: str) -> str | None:
    """The value of an option; None if it isn't there."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _token() -> str:
    try:
        return TOKEN.read_text(encoding="ascii")
    except FileNotFoundError:
        raise SettingError("there is no token: set CBMIR_DATA and CBMIR_ENCODER in .env, then run this again") from None


def _write_token(names: Sequence[str], key: str) -> None:
    """Sign a JSON Web Token, as Qdrant takes it where JWT_RBAC is on: to read and write these collections only."""
    access = [{"collection": name, "access": "rw"} for name in names]
    parts = (_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, {"access": access}))
    text = ".".join(parts)
    signature = hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()
    TOKEN.touch(mode=0o600)
    TOKEN.write_text(f"{text}.{_base64(signature)}", encoding="ascii")


def _prepared_name() -> str:
    """The collection that the token is for."""
    claims = _token().split(".")[1]
    access = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["access"]
    return str(access[0]["collection"])


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


if __name__ == "__main__":
    run(job, "job.py")
