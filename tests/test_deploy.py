"""What brings up a server: as far as files can be checked without a container engine."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cbmir.cli import cli

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = (ROOT / "docker-compose.yml", DEPLOY / "cluster" / "docker-compose.yml")
BIN = Path(sys.executable).parent

SECRET = re.compile(r"\b[0-9a-f]{32,}\b|(?i:api_?key|password)\s*[:=]\s*[\"']?[A-Za-z0-9]{16,}")


def loaded(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def services(path: Path) -> dict[str, dict]:
    return loaded(path)["services"]


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.parent.name)
def test_compose__follows_the_schema(path):
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.parent.name)
def test_compose__is_closed_by_default(path):
    for name, service in services(path).items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network"
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        image = service["image"].partition("@")[0]  # with the digest that deploy/pin has written
        assert ":" in image, f"{name}: {image} has no version"
        assert not image.endswith(":latest"), f"{name}: {image} has no version"
        for key, value in service.get("environment", {}).items():
            if "KEY" in key:
                assert re.match(r"\$\{\w+:\?", value), f"{name}: {key} has to come from .env"


def qdrants() -> list[dict]:
    return [item for path in COMPOSE for item in services(path).values() if item["image"].startswith("qdrant/")]


def test_compose__qdrant_is_as_the_facts_want_it():
    assert len(qdrants()) == 4
    for service in qdrants():
        assert service["image"].partition("@")[0].endswith("-unprivileged")
        assert service["read_only"] is True
        assert service["ulimits"]["nofile"] == {"soft": 65535, "hard": 65535}
        targets = [volume.split(":")[1] for volume in service["volumes"]]
        assert {"/qdrant/storage", "/qdrant/snapshots", "/qdrant/config/production.yaml"} <= set(targets)
        assert not any(volume.startswith(".") for volume in service["volumes"] if ":/qdrant/storage" in volume)
        assert "/readyz" in service["healthcheck"]["test"][1]
    config = loaded(DEPLOY / "qdrant" / "config.yaml")
    assert config["telemetry_disabled"] is True
    assert config["service"]["enable_snapshot_url_recovery"] is False
    assert "api_key" not in config["service"]


def test_compose__one_version_of_qdrant_that_the_client_speaks():
    tags = {service["image"].partition("@")[0].partition(":")[2] for service in qdrants()}
    tags.add(loaded(DEPLOY / "kubernetes" / "qdrant-values.yaml")["image"]["tag"] + "-unprivileged")
    (tag,) = tags
    server, client = ([int(part) for part in re.findall(r"\d+", text)[:2]] for text in (tag, version("qdrant-client")))
    assert server[0] == client[0]
    assert abs(server[1] - client[1]) <= 1


def test_compose__healthcheck_tells_a_ready_server_from_others():
    """The check itself, run by bash against a port where nobody listens and one that answers."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    text = qdrants()[0]["healthcheck"]["test"][1].replace("$$", "$")
    answers = []

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers[-1] if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        check = text.replace("6333", str(server.server_port))
        codes = {}
        for answer in (200, 503):
            answers.append(answer)
            codes[answer] = subprocess.run(["sh", "-c", check], check=False, capture_output=True).returncode
        server.shutdown()
    assert codes[200] == 0
    assert codes[503] != 0
    assert subprocess.run(["sh", "-c", check], check=False, capture_output=True).returncode != 0


def test_dockerfile__has_no_complaint():
    done = subprocess.run([BIN / "hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_dockerfile__runs_as_nobody_and_takes_no_secret():
    text = (DEPLOY / "Dockerfile").read_text()
    stages = [line for line in text.splitlines() if line.startswith("FROM ")]
    assert len(stages) == 2
    last = text[text.rindex("FROM ") :]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert "org.opencontainers.image.licenses" in last
    assert not re.search(r"(?im)^(ARG|ENV|COPY|ADD)\b.*(key|token|password)", text)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    copied = {word for line in text.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied - {"--from=build", "/venv"} == {line[1:] for line in ignored if line.startswith("!")}


def test_grafana__board_fits_its_source():
    board = json.loads((DEPLOY / "grafana" / "boards" / "qdrant.json").read_text())
    source = loaded(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(places) == len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    provider = loaded(DEPLOY / "grafana" / "provisioning" / "dashboards" / "boards.yml")["providers"][0]
    mounted = [volume.split(":")[1] for volume in services(COMPOSE[0])["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted


KUBERNETES = ("ingest-job.yaml", "network-policy.yaml")


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes__objects_follow_the_schema(name):
    command = [BIN / "kubernetes-validate", "--strict", DEPLOY / "kubernetes" / name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def objects(name: str) -> list[dict]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text(encoding="utf-8")))


def test_kubernetes__pods_have_no_rights():
    closed = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    (pod,) = (item["spec"]["template"]["spec"] for item in objects("ingest-job.yaml") if item["kind"] == "Job")
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"] == closed, container["name"]
        assert container["resources"]["limits"]["memory"]
    qdrant = loaded(DEPLOY / "kubernetes" / "qdrant-values.yaml")
    assert closed.items() <= qdrant["containerSecurityContext"].items()
    assert qdrant["containerSecurityContext"]["runAsNonRoot"] is True
    assert qdrant["updateVolumeFsOwnership"] is False  # the chart would add a container that runs as root


def test_kubernetes__network_is_closed_but_for_what_is_needed():
    policies = {item["metadata"]["name"]: item["spec"] for item in objects("network-policy.yaml")}
    (job,) = (item for item in objects("ingest-job.yaml") if item["kind"] == "Job")
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert policies["cbmir"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert policies["cbmir"]["ingress"] == []
    for policy in policies.values():
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        for rule in policy["egress"]:
            ports = {port["port"] for port in rule["ports"]}
            assert rule.get("to") == [{"podSelector": policies["qdrant"]["podSelector"]}] or ports == {53}
    for rule in policies["qdrant"]["ingress"]:
        assert rule["from"]
        assert {port["port"] for port in rule["ports"]} <= {6333, 6334, 6335}


def documented() -> list[list[str]]:
    """The commands with `docker compose` that our texts show."""
    texts = (DEPLOY / "README.md", ROOT / "docs" / "dashboards.md", COMPOSE[0])
    lines = (line.strip("# ") for path in texts for line in path.read_text().splitlines())
    found = (re.search(r"docker compose .*", line) for line in lines if line.startswith(("docker compose", "CBMIR_")))
    # behind several blanks or a # comes what the command does
    return [shlex.split(re.split(r"\s{2,}|\s#|[|<>]", match[0])[0])[2:] for match in found if match]


def options_of(words: list[str]) -> set[str]:
    """The options of a command of cbmir."""
    command: click.Command = cli
    for word in words:
        following = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        if following is None:
            break
        command = following
    assert not isinstance(command, click.Group), f"no command {words}"
    return {option for parameter in command.params for option in parameter.opts}


def test_documentation__commands_of_compose_exist():
    known = services(COMPOSE[0])
    profiles = {profile for service in known.values() for profile in service.get("profiles", [])}
    ran = set()
    for words in documented():
        assert {words[i + 1] for i, word in enumerate(words) if word == "--profile"} <= profiles
        if "run" not in words:
            continue
        place = next(i for i, word in enumerate(words) if word in known)
        name, rest = words[place], words[place + 1 :]
        ran.add(name)
        if "tar" in words[:place] or not rest or rest == ["..."]:
            continue
        command = [] if name in ("cbmir",) else [name.removesuffix("-gpu")]
        given = {word for word in rest if word.startswith("--")}
        assert given <= options_of([*command, *rest]), words
    assert ran >= {"ingest", "search", "evaluate", "cbmir", "optimize", "ingest-gpu"}


def test_documentation__settings_are_those_of_compose():
    table = (DEPLOY / "README.md").read_text()
    used = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE[0].read_text()))
    assert {name for name in used if name not in table} == set()


def test_files__hold_no_key():
    files = [*COMPOSE, *(path for path in DEPLOY.rglob("*") if path.is_file())]
    texts = {path.name: re.sub("--hash=sha256:[0-9a-f]{64}", "", path.read_text()) for path in files}
    found = [f"{name}: {match[0]}" for name, text in texts.items() for match in SECRET.finditer(text)]
    assert found == []


def locked(name: str) -> dict[str, tuple[str, bool]]:
    """Package -> its version, and whether pyproject.toml asks for it."""
    text = (DEPLOY / f"{name}.lock").read_text()
    entries = re.findall(r"^([a-z0-9-]+)==(\S+) \\\n((?:    .*\n)+)", text, re.MULTILINE)
    assert len(entries) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE))
    assert all("--hash=sha256:" in rest for _, _, rest in entries)
    return {package: (release, "cbmir (pyproject.toml)" in rest) for package, release, rest in entries}


def test_lock__holds_what_pyproject_asks_for():
    """If it fails, deploy/lock has to be run again."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = (
        project["project"]["optional-dependencies"][name] for name in ("cpu", "dicom", "plots", "serve", "volumes")
    )
    asked = [
        Requirement(text) for text in (*project["project"]["dependencies"], *(item for one in extras for item in one))
    ]
    lock = locked("requirements") | locked("torch")
    assert {name for name, (_, direct) in lock.items() if direct} == {canonicalize_name(item.name) for item in asked}
    for item in (*asked, *map(Requirement, project["build-system"]["requires"])):
        release, _ = lock[canonicalize_name(item.name)]
        assert item.specifier.contains(release), f"{item} and {release} in the lock: run deploy/lock"


def test_lock__is_what_the_image_installs():
    text = (DEPLOY / "Dockerfile").read_text()
    assert text.count("--require-hashes") == 2
    for line in re.findall(r"pip install .*", text):
        assert "--no-deps" in line, "pip would take packages that are not in the lock"
    assert not {"torch", "torchvision", "triton"} & locked("requirements").keys()
    assert locked("torch").keys() >= {"torch", "torchvision"}


def test_workflow__uses_the_server_of_compose():
    jobs = loaded(ROOT / ".github/workflows/check.yml")["jobs"]
    assert jobs["test"]["services"]["qdrant"]["image"] in {service["image"].partition("@")[0] for service in qdrants()}
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    steps = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    called = {word for run in steps for word in re.findall(r"^make ([a-z-]+)", run)}
    assert called == {"check", "coverage", "test-server"} <= set(targets)
