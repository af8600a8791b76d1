"""What reaches a terminal: no escape sequence of a value, no password of a URL, and sentences instead of tracebacks."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import environment, write_picture

from cbmir.schema import EmbeddedBatch, ImageRecord
from cbmir.store.edge import EdgeStore
from cbmir.terminal import in_json, on_one_line, shown, without_passwords, writable

ESCAPE = "\x1b[2J\x9b31m\x07"


def harmless(text: str) -> bool:
    """Nothing that a terminal obeys, and all of it can be written as UTF-8."""
    text.encode()
    return all(sign in "\n\t" or sign.isprintable() or sign.isspace() for sign in text) and "\r" not in text


def test_shown__escapes_what_a_terminal_obeys():
    assert shown("a\x1b[31mb\rc\x9b") == r"a\x1b[31mb\x0dc\x9b"
    assert shown("left\u202eright\u2028") == r"left\u202eright\u2028"
    assert shown("name\udcff") == r"name\xff"
    assert shown("a\tb\nc ü 日本 é") == "a\tb\nc ü 日本 é"
    assert on_one_line("a\nb\tc") == r"a\nb\tc"
    assert writable("\x1b\udcff") == "\x1b\\xff"


@given(st.text(st.characters(codec=None)))
def test_shown__of_any_text_is_harmless_and_json_stays_the_same(text):
    assert not any(ord(sign) < 32 and sign not in "\n\t" for sign in shown(text))
    shown(text).encode()
    if "@" not in text:
        assert json.loads(in_json(json.dumps([text], ensure_ascii=False))) == [text]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("http://user:secret@host:6333/a", "http://host:6333/a"),
        ("at https://u:se/cr@t@host, and", "at https://host, and"),
        ("http://:secret@host", "http://host"),
        ("https://secret@host/x", "https://host/x"),
        ("http://a:secret@one:6333,http://b:secret@two:6333", "http://one:6333,http://two:6333"),
        ("s3://key:secret@bucket/a.png", "s3://bucket/a.png"),
        ("postgresql+psycopg://u:secret@db/x", "postgresql+psycopg://db/x"),
        ("http://host:6333/a@2x.png", "http://host:6333/a@2x.png"),
        ("mail a@b.org about http://host:6333", "mail a@b.org about http://host:6333"),
    ],
)
def test_without_passwords__of_any_scheme(text, kept):
    assert without_passwords(text) == kept
    assert "secret" not in shown(text) + writable(text) + in_json(json.dumps(text))


@pytest.mark.parametrize(
    "store",
    [
        "http://u:hunter2@127.0.0.1:1",
        "ftp://u:hunter2@h",
        "http://u:hunter2/x@h:1",
        "http://u:hunter2@h:port",
        "http://u:hunter2@127.0.0.1:1,nonsense:hunter2@h",
    ],
)
@pytest.mark.parametrize(
    "command", [("collections", "list"), ("doctor", "--json"), ("collections", "drop", "a", "--yes")]
)
def test_password__in_no_error(cbmir, monkeypatch, store, command):
    monkeypatch.setattr("time.sleep", lambda _: None)
    done = cbmir(*command, "--store", store)
    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr


@pytest.fixture
def odd(tmp_path, card, make_batch) -> Path:
    """A store whose values hold escape sequences."""
    record = ImageRecord(
        filepath=f"a{ESCAPE}\nb.png", dataset=f"d{ESCAPE}", split="train", modality="CT",
        labels=(f"CT/chest/x{ESCAPE}",), patient_id=f"p{ESCAPE}",
    )  # fmt: skip
    with EdgeStore(tmp_path / "store").create("odd", card) as collection:
        collection.upsert(EmbeddedBatch((record, *make_batch(3).records), make_batch(4).vectors, card.fingerprint))
    return tmp_path / "store"


@pytest.mark.parametrize(
    "command",
    [
        ("collections", "show", "odd"),
        ("collections", "show", "odd", "--json"),
        ("collections", "prune", "odd", "--root", "."),
        ("search", "like", "00001.png"),
        ("search", "like", "00001.png", "--json"),
        ("search", "like", "00001.png", "--format", "csv"),
        ("search", "like", "00001.png", "--format", "csv-long"),
        ("search", "like", f"nothing{ESCAPE}"),
        ("search", "like", "00001.png", "--where", f"dataset=x{ESCAPE}"),
        ("collections", "show", f"none{ESCAPE}"),
        ("collections", f"none{ESCAPE}"),
        ("search", "image", f"none{ESCAPE}.png"),
        ("ingest", "images", f"none{ESCAPE}", "--encoder", "pixels"),
    ],
    ids=lambda command: repr(" ".join(command))[:40],
)
def test_program__on_a_terminal_shows_no_escape_of_a_value(odd, tmp_path, command):
    master, slave = pty.openpty()
    words = [sys.executable, "-m", "cbmir", *command]
    env = {**environment(), "CBMIR_STORE": str(odd)}
    with subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, env=env, cwd=tmp_path):
        os.close(slave)
        said = b""
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:  # how Linux tells of the end
                break
            if not part:
                break
            said += part
    os.close(master)
    text = said.decode().replace("\r\n", "\n")
    assert text
    assert "Traceback" not in text
    assert harmless(text), text


def test_search__csv_for_programs_stays_as_it_is(odd, cbmir):
    done = cbmir("search", "like", "00001.png", "--store", odd, "--format", "csv")
    assert f'"a{ESCAPE}\nb.png"' in done.stdout


def test_ingest_images__names_that_are_no_text_are_sentences(tmp_path, cbmir_process):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    write_picture(folder / "a.png", 1)
    (folder / "bad\x1b[31m.png").write_bytes(b"x")
    store = tmp_path / "store"
    first = cbmir_process(
        "ingest", "images", folder, "--encoder", "pixels", "--store", store, "--workers", 1,
        "--failures", tmp_path / "failures.csv",
    )  # fmt: skip
    assert first.returncode in (1, 3)
    assert harmless(first.stderr)
    assert cbmir_process("search", "image", folder / "a.png", "--store", store).returncode in (0, 1)
    assert cbmir_process("collections", "list", "--store", folder / "none").returncode == 0


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content", [DEEP, '{"a":' * 100_000, "\ud800", '{"format": 1e999}', "{}", "[]", "null", '{"engine": "\\u0000"}']
)
def test_collections_list__a_damaged_card_is_a_sentence(shelf, tmp_path, cbmir, content):
    (tmp_path / "store" / "eight").mkdir(parents=True)
    card = tmp_path / "store" / "eight" / "collection.json"
    card.write_bytes(content.encode(errors="surrogatepass"))
    for command in (("collections", "list"), ("doctor",), ("collections", "show", "eight")):
        done = cbmir(*command, "--store", tmp_path / "store")
        assert done.returncode in (1, 3)
        assert "damaged" in done.stdout + done.stderr or "was written by" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("-k", "9" * 30),
        ("-k", "18446744073709551616"),
        ("--where", "width=" + "9" * 40),
        ("--where", "age_years<" + "9" * 400),
        ("--where", "dataset=a\0b"),
        ("--where", "dataset=\udcff"),
        ("--modality", "\udcff"),
        ("--collection", "\udcff"),
        ("--store", "\udcff"),
        ("--store", "a" * 5000),
        ("--store", "http://\udcff:1"),
        ("--store", "http://h\0:1"),
        ("--store", "x\0y"),
        ("--sheet", "\udcff/\0.png"),
    ],
    ids=lambda arguments: repr(" ".join(arguments))[:40],
)
def test_search__values_that_nothing_can_hold_are_sentences(shelf, tmp_path, cbmir, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    store = () if "--store" in arguments else ("--store", shelf)
    name = () if "--collection" in arguments else ("--collection", "eight")
    done = cbmir("search", "like", "00001.png", *store, *name, *arguments)
    assert done.returncode in (1, 2), done.stdout
    assert "rror: " in done.stderr
    assert harmless(done.stderr)


@pytest.mark.parametrize("variable", ["CBMIR_READ_CONSISTENCY", "CBMIR_GRPC_PORT", "CBMIR_TRANSPORT", "QDRANT_API_KEY"])
@pytest.mark.parametrize("value", ["²", "\udcff", "a\nb", "ключ", "9" * 30])
def test_environment__values_that_are_none_are_sentences(cbmir, monkeypatch, variable, value):
    monkeypatch.setattr("time.sleep", lambda _: None)
    done = cbmir("collections", "list", "--store", "http://127.0.0.1:1", **{variable: value})
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert harmless(done.stderr)
    if variable == "QDRANT_API_KEY":
        assert value not in done.stderr


def test_program__a_working_directory_that_is_gone_is_no_traceback(tmp_path, monkeypatch, shelf, cbmir):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert cbmir("collections", "list", "--store", shelf).returncode == 0
    done = cbmir("ingest", "images", ".", "--encoder", "pixels", "--store", "here")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
