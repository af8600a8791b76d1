"""What the containers run, as they run it, against the stand-in of a server: with tokens, twice, and badly set up."""

import os
import runpy
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Done
from pictures import write_picture
from PIL import Image
from standin import Standin

from cbmir.store import open_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
JOB = ROOT / "deploy" / "job.py"
KEY = "the-full-key"
FIRST = {"CBMIR_DATA": "/srv/clinic", "CBMIR_ENCODER": "pixels"}

Step = Callable[..., Done]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Standin]:
    with Standin(tmp_path / "server", KEY) as made:
        yield made


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """What a container sees as /, with three images and a table in /data."""
    for number in range(3):
        (tmp_path / "data").mkdir(exist_ok=True)
        write_picture(tmp_path / "data" / f"{number}.png", number)
    (tmp_path / "data" / "table.csv").write_text("filepath,modality\n0.png,CT\n1.png,MR\n2.png,XR\n")
    for name in ("token", "work", "thumbnails"):
        (tmp_path / name).mkdir()
    return tmp_path


def environment(server: Standin, machine: Path, name: str, settings: dict[str, str]) -> dict[str, str]:
    """Of the container of a step: only `prepare` and `optimize` have the full key."""
    made = {"CBMIR_JOB_ROOT": str(machine), "CBMIR_STORE": server.url} | FIRST | settings
    return made | ({"QDRANT_API_KEY": KEY} if name in ("prepare", "optimize") else {})


@pytest.fixture
def step(server: Standin, machine: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Step:
    """Runs one step in this process, where torch is imported already."""

    def run(name: str, *arguments: str, **settings: str) -> Done:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setenv("QDRANT_API_KEY", "")  # the step sets it: so it is put back afterwards
            for known in list(os.environ):
                if known.startswith(("CBMIR_", "QDRANT_")):
                    patch.delenv(known, raising=False)
            for setting, value in environment(server, machine, name, settings).items():
                patch.setenv(setting, value)
            patch.chdir(machine / "work")
            patch.setattr(sys, "argv", [str(JOB), name, *arguments])
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(JOB), run_name="__main__")
        done = Done(end.value.code, *capfd.readouterr())
        assert KEY not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def container(server: Standin, machine: Path) -> Step:
    """Runs one step as a process, as its container does."""

    def run(name: str, *arguments: str, **settings: str) -> Done:
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("CBMIR_", "QDRANT_"))}
        done = subprocess.run(
            [sys.executable, JOB, name, *arguments],
            env=outside | environment(server, machine, name, settings),
            cwd=machine / "work",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert KEY not in done.stdout + done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def records(server: Standin, name: str = "pixels") -> dict[str, str]:
    """The file paths and data sets of a collection."""
    with open_store(server.url, KEY) as store, store.open(name) as collection:
        return {point.payload["filepath"]: point.payload["dataset"] for batch in collection.scroll() for point in batch}


def test_steps__twice_with_a_token_that_cannot_create(server, machine, container, step):
    first = container("prepare")
    assert (first.returncode, server.aliases) == (0, {"pixels": "pixels__v1"}), first.stderr
    token = machine / "token" / "ingest"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    ingested = container("ingest")
    assert ingested.returncode == 0, ingested.stderr
    assert records(server) == dict.fromkeys(("0.png", "1.png", "2.png"), "table")
    assert container("optimize").returncode == 0
    with open_store(server.url, KEY) as store, store.open("pixels") as collection:
        before = [point for batch in collection.scroll(vectors=True) for point in batch]
    for name in ("prepare", "ingest", "optimize"):
        again = step(name)
        assert again.returncode == 0, again.stderr
    with open_store(server.url, KEY) as store, store.open("pixels") as collection:
        after = [point for batch in collection.scroll(vectors=True) for point in batch]
    assert repr(after) == repr(before)
    assert server.names() == ["pixels__v1"]
    refused = step("ingest", "collections", "create", "other", "--encoder", "pixels")
    assert refused.returncode == 1
    assert "PERMISSION_DENIED" in refused.stderr
    assert server.names() == ["pixels__v1"]


def test_ingest__new_and_broken_images_are_counted_and_the_step_succeeds(server, machine, step):
    (machine / "data" / "table.csv").unlink()
    step("prepare")
    step("ingest")
    write_picture(machine / "data" / "3.png", 3)
    (machine / "data" / "broken.png").write_bytes(b"no image")
    again = step("ingest")
    assert again.returncode == 0, again.stderr
    assert "read 5 = stored 1 + skipped 3 + failed 1" in again.stderr
    assert "broken.png" in (machine / "work" / "failures-pixels.csv").read_text()
    # the name of the folder outside, not that of /data: the same as without containers
    assert records(server) == dict.fromkeys(("0.png", "1.png", "2.png", "3.png"), "clinic")


@pytest.mark.parametrize("missing", [("CBMIR_DATA",), ("CBMIR_ENCODER",), ("CBMIR_DATA", "CBMIR_ENCODER")])
def test_steps__say_which_setting_is_missing_and_succeed(server, machine, step, missing):
    (machine / "token" / "ingest").write_text("of an earlier run")
    for name in ("prepare", "ingest", "optimize"):
        done = step(name, **dict.fromkeys(missing, ""))
        assert done.returncode == 0
        for setting in FIRST:
            assert (f"{setting} is not set" in done.stderr) == (setting in missing)
    assert server.names() == []
    assert not (machine / "token" / "ingest").exists()


def test_ingest__several_tables_need_a_choice(server, machine, step):
    (machine / "data" / "second.csv").write_text("filepath,modality\n0.png,CT\n")
    (machine / "data" / ".hidden.csv").write_text("filepath\n")
    step("prepare")
    done = step("ingest")
    assert done.returncode == 2
    assert "second.csv, table.csv; set CBMIR_SOURCE" in done.stderr
    assert step("ingest", CBMIR_SOURCE="second.csv").returncode == 0
    assert records(server) == {"0.png": "second"}
    wrong = step("ingest", CBMIR_SOURCE="third.csv")
    assert (wrong.returncode, "third.csv" in wrong.stderr) == (2, True)


def test_ingest__options_of_the_settings_are_used(server, machine, step):
    step("prepare", CBMIR_COLLECTION="clinic-a")
    options = "--set 'patient_id=p 1' --dataset mine"
    done = step("ingest", CBMIR_COLLECTION="clinic-a", CBMIR_INGEST_OPTIONS=options)
    assert done.returncode == 0, done.stderr
    assert records(server, "clinic-a") == dict.fromkeys(("0.png", "1.png", "2.png"), "mine")
    assert server.aliases == {"clinic-a": "clinic-a__v1"}


@pytest.mark.parametrize("words", [("images",), ("ingest", "images")], ids=["short", "long"])
def test_ingest__takes_a_command_with_and_without_the_word_ingest(server, machine, step, words):
    step("prepare")
    done = step("ingest", *words, str(machine / "data" / "table.csv"), "--encoder", "pixels")
    assert done.returncode == 0, done.stderr
    assert len(records(server)) == 3
    filled = step("ingest", *words, str(machine / "data"), CBMIR_THUMBNAIL_URL="http://127.0.0.1:8080")
    assert filled.returncode == 0, filled.stderr
    assert len(list((machine / "thumbnails").glob("*/*.jpg"))) == 3
    assert set(records(server).values()) == {"table", "clinic"}


def test_ingest__another_encoder_than_its_token_is_for(server, machine, step):
    step("prepare")
    done = step("ingest", "images", str(machine / "data"), "--encoder=efficientnet-lite0")
    assert done.returncode == 2
    assert "CBMIR_ENCODER=efficientnet-lite0 docker compose run --rm ingest images" in done.stderr


def test_ingest__runs_other_commands_and_shows_help_without_a_token(machine, step):
    done = step("ingest", "images", "--help")
    assert (done.returncode, "--dry-run" in done.stdout) == (0, True)
    listed = step("ingest", "encoders", "list")
    assert (listed.returncode, "pixels" in listed.stdout) == (0, True)


def test_prepare__token_is_for_the_version_in_use(server, machine, step):
    step("prepare")
    step("ingest")
    with open_store(server.url, KEY) as store:
        with store.open("pixels") as collection:
            store.create_version("pixels", collection.card)
        store.lead("pixels", "pixels__v2")
    assert "pixels and pixels__v2" in step("prepare").stderr
    assert step("ingest").returncode == 0
    assert len(records(server, "pixels__v2")) == 3


def test_prepare__collection_of_another_encoder(server, machine, step):
    step("prepare", CBMIR_COLLECTION="mine")
    done = step("prepare", CBMIR_COLLECTION="mine", CBMIR_ENCODER="efficientnet-lite0-untrained")
    assert done.returncode == 1
    assert done.stderr.startswith("error: collection mine")
    assert not (machine / "token" / "ingest").exists()


def test_prepare__needs_a_server(machine, step):
    done = step("prepare", CBMIR_STORE=str(machine / "folder"))
    assert done.returncode == 2
    assert "CBMIR_STORE" in done.stderr


def test_thumbnails__are_made_and_served_and_nothing_else_is(server, machine, step):
    step("prepare")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    assert step("ingest", CBMIR_THUMBNAIL_URL=url).returncode == 0
    (machine / "thumbnails" / "secret.txt").write_text("secret")
    with open_store(server.url, KEY) as store, store.open("pixels") as collection:
        urls = [point.payload["thumbnail_url"] for batch in collection.scroll() for point in batch]
    command = [sys.executable, JOB, "thumbnails", "--port", str(port)]
    settings = os.environ | {"CBMIR_JOB_ROOT": str(machine)}
    with subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True) as web:
        try:
            assert web.stderr.readline().strip() == f"thumbnails on port {port}"
            for each in urls:
                assert each.startswith(url)
                with urllib.request.urlopen(each) as answer:
                    assert answer.headers["Content-Type"] == "image/jpeg"
                    assert Image.open(answer).size == (40, 48)
            for path in (
                "/",
                "/secret.txt",
                f"/{urls[0][len(url) + 1 :][:2]}/",
                "/../data/0.png",
                "/%2e%2e/data/0.png",
            ):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    urllib.request.urlopen(url + path)
        finally:
            web.terminate()


def test_compose__starts_the_steps_as_they_are_tested_here():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    started = {name for name, service in services.items() if "profiles" not in service}
    assert started == {"qdrant", "prepare", "ingest"}
    keys = {name: service.get("environment", {}).get("QDRANT_API_KEY", "") for name, service in services.items()}
    full = {name for name, key in keys.items() if key.startswith("${QDRANT_API_KEY:")}
    reading = {name for name, key in keys.items() if key.startswith("${QDRANT_READ_ONLY_API_KEY:")}
    assert full == {"prepare", "optimize", "cbmir"}
    assert reading == {"search", "serve", "evaluate"}
    for name in ("prepare", "ingest", "optimize", "thumbnails"):
        assert services[name]["entrypoint"] == ["python", "/opt/cbmir/job.py", name]
        assert services[name].get("restart", "no") == ("unless-stopped" if name == "thumbnails" else "no")
    waits = {name: list(services[name]["depends_on"].items()) for name in ("prepare", "ingest", "optimize")}
    assert waits == {
        "prepare": [("qdrant", {"condition": "service_healthy"})],
        "ingest": [("prepare", {"condition": "service_completed_successfully"})],
        "optimize": [("prepare", {"condition": "service_completed_successfully"})],
    }
    writes = {name: volume_of(services[name], "/token") for name in ("prepare", "ingest", "optimize", "search")}
    assert writes == {
        "prepare": "token:/token",
        "ingest": "token:/token:ro",
        "optimize": "token:/token:ro",
        "search": None,
    }
    for name in ("prepare", "ingest", "search", "evaluate", "cbmir"):
        assert volume_of(services[name], "/data") == "${CBMIR_DATA:-no-data}:/data:ro"


def volume_of(service: dict, target: str) -> str | None:
    return next((volume for volume in service["volumes"] if f":{target}" in volume), None)


def test_kubernetes__runs_the_same_steps():
    text = (ROOT / "deploy" / "kubernetes" / "ingest-job.yaml").read_text()
    settings, job = yaml.safe_load_all(text)
    pod = job["spec"]["template"]["spec"]
    steps = {item["name"]: item for item in (*pod["initContainers"], *pod["containers"])}
    assert list(steps) == ["prepare", "ingest", "optimize"]
    for name, item in steps.items():
        assert item["command"] == ["python", "/opt/cbmir/job.py", name]
        assert ("env" in item) == (name != "ingest")  # the full key
    assert set(FIRST) <= set(settings["data"])
