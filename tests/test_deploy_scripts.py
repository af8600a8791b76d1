"""What people run on the machine: deploy/first-run writes .env, deploy/pin writes the digests of images."""

import hashlib
import os
import pty
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = (ROOT / "docker-compose.yml", DEPLOY / "cluster" / "docker-compose.yml")


@pytest.fixture
def first_run(tmp_path: Path) -> Path:
    """The script in a folder of its own, beside a folder of images with a blank in its name."""
    (tmp_path / "cbmir" / "deploy").mkdir(parents=True)
    (tmp_path / "my images").mkdir()
    return Path(shutil.copy(DEPLOY / "first-run", tmp_path / "cbmir" / "deploy"))


def ran(script: Path, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CBMIR_")} | settings
    return subprocess.run(
        [script], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def settings_of(env: Path) -> dict[str, str]:
    """What a shell reads from the file."""
    command = f"env -i sh -c 'set -a; . {shlex.quote(str(env))}; env -0'"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    return dict(item.split("=", 1) for item in done.stdout.split("\0") if item)


def test_first_run__makes_keys_once(first_run, tmp_path):
    done = ran(first_run, tmp_path)
    env = tmp_path / "cbmir" / ".env"
    assert done.returncode == 0
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    values = settings_of(env)
    keys = [values[name] for name in ("QDRANT_API_KEY", "QDRANT_READ_ONLY_API_KEY", "GRAFANA_PASSWORD")]
    assert len(set(keys)) == 3
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)
    assert not any(key in done.stdout + done.stderr for key in keys)
    again = ran(first_run, tmp_path)
    assert again.returncode == 1
    assert ".env is there already" in again.stderr
    assert settings_of(env) == values
    wanted = set(re.findall(r"\$\{([A-Z_]+)", "".join(path.read_text() for path in COMPOSE)))
    named = set(re.findall(r"^(?:# )?([A-Z_]+)=", env.read_text(), re.MULTILINE))
    assert wanted - {"CBMIR_GPUS"} <= named  # which has a default
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_first_run__takes_data_and_encoder(first_run, tmp_path):
    done = ran(first_run, tmp_path, CBMIR_DATA="my images", CBMIR_ENCODER="hf:ORG/REPO")
    assert (done.returncode, "docker compose up -d" in done.stdout) == (0, True)
    values = settings_of(tmp_path / "cbmir" / ".env")
    assert (values["CBMIR_DATA"], values["CBMIR_ENCODER"]) == (str(tmp_path / "my images"), "hf:ORG/REPO")


def test_first_run__says_what_is_not_set(first_run, tmp_path):
    done = ran(first_run, tmp_path)
    assert "CBMIR_DATA is not set" in done.stdout
    assert "CBMIR_ENCODER is not set" in done.stdout
    values = settings_of(tmp_path / "cbmir" / ".env")
    assert (values["CBMIR_DATA"], values["CBMIR_ENCODER"]) == ("", "")


@pytest.mark.parametrize(
    ("folder", "remedy"),
    [("nowhere", "there is no folder"), ("it's", "quote"), ("a:b", "colon"), ("a\nb", "line break")],
)
def test_first_run__folder_that_cannot_be_used(first_run, tmp_path, folder, remedy):
    if folder != "nowhere":
        (tmp_path / folder).mkdir()
    done = ran(first_run, tmp_path, CBMIR_DATA=str(tmp_path / folder), CBMIR_ENCODER="pixels")
    assert (done.returncode, remedy in done.stderr) == (1, True), done.stderr
    assert list((tmp_path / "cbmir").glob(".env*")) == []


def test_first_run__asks_on_a_terminal(first_run, tmp_path):
    us, them = pty.openpty()
    with subprocess.Popen([first_run], cwd=tmp_path, stdin=them, stdout=subprocess.PIPE, text=True) as process:
        os.write(us, b"my images\n\n")
        assert process.wait(timeout=60) == 0
        asked = process.stdout.read()
    os.close(us), os.close(them)
    assert "Folder with your images" in asked
    assert "Encoder" in asked
    values = settings_of(tmp_path / "cbmir" / ".env")
    assert (values["CBMIR_DATA"], values["CBMIR_ENCODER"]) == (str(tmp_path / "my images"), "efficientnet-lite0")


def pinned(tmp_path: Path, answer: str) -> subprocess.CompletedProcess[str]:
    """Runs deploy/pin in a copy; no registry is at hand, so `docker` is a script that prints this about each image."""
    if not (tmp_path / "deploy").exists():
        shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(COMPOSE[0], tmp_path)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir(exist_ok=True)
    docker.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "buildx imagetools inspect" ] || exit 9\n{answer}\n')
    docker.chmod(0o700)
    environment = os.environ | {"PATH": f"{docker.parent}:{os.environ['PATH']}"}
    command = [tmp_path / "deploy" / "pin"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def images(root: Path) -> list[str]:
    """The images of other people that the files in a folder name."""
    files = (root / path.relative_to(ROOT) for path in COMPOSE)
    named = {service["image"] for path in files for service in yaml.safe_load(path.read_text())["services"].values()}
    python = re.search(r"^ARG PYTHON=(.*)$", (root / "deploy" / "Dockerfile").read_text(), re.MULTILINE)[1]
    return sorted({image for image in named if not image.startswith("cbmir:")} | {f"python:{python}"})


def test_pin__writes_the_digest_behind_each_tag(tmp_path):
    tags = [image.partition("@")[0] for image in images(ROOT)]
    for salt in ("old", "new"):  # a second run replaces the digests
        hashed = f'sum=$(printf "%s{salt}" "$4" | sha256sum | cut -c1-64)'
        done = pinned(tmp_path, f'{hashed}\nprintf "Name: %s\\nDigest:    sha256:%s\\n\\nManifests:\\n" "$4" "$sum"')
        assert done.returncode == 0, done.stderr
        wanted = [f"{tag}@sha256:{hashlib.sha256(f'{tag}{salt}'.encode()).hexdigest()}" for tag in tags]
        assert images(tmp_path) == sorted(wanted)
        assert done.stdout.splitlines() == sorted(wanted, key=lambda image: (image.startswith("python"), image))
    for path in COMPOSE:  # and nothing else is changed
        text = (tmp_path / path.relative_to(ROOT)).read_text()
        assert re.sub("@sha256:[0-9a-f]{64}", "", text) == re.sub("@sha256:[0-9a-f]{64}", "", path.read_text())


@pytest.mark.parametrize("answer", ["exit 1", 'printf "Digest: sha256:12\\n"', ":"])
def test_pin__changes_nothing_without_internet(tmp_path, answer):
    done = pinned(tmp_path, answer)
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert images(tmp_path) == images(ROOT)


@pytest.mark.parametrize("script", ["first-run", "pin"])
def test_scripts__are_executable_and_have_no_complaint(script):
    assert os.access(DEPLOY / script, os.X_OK)
    subprocess.run(["sh", "-n", DEPLOY / script], check=True)
