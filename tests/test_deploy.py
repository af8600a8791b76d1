"""What brings up a server: as far as files can be checked without a container engine."""

import json
import re
import shutil
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = (ROOT / "docker-compose.yml", DEPLOY / "cluster" / "docker-compose.yml")
BIN = Path(sys.executable).parent

METRICS = {
    "app_status_recovery_mode", "collection_points", "collection_dead_replicas", "collection_running_optimizations",
    "collection_indexed_only_excluded_points", "snapshot_creation_running", "snapshot_recovery_running",
    "rest_responses_total", "grpc_responses_total", "grpc_responses_fail_total",
    "grpc_responses_duration_seconds_bucket", "memory_resident_bytes", "memory_allocated_bytes", "process_open_fds",
    "process_max_fds", "cluster_peers_total", "cluster_pending_operations_total", "up",
}  # fmt: skip
"""Those of a Qdrant node, https://qdrant.tech/documentation/ops-monitoring/monitoring/, that we use."""

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
        image = service["image"]
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
        assert service["image"].endswith("-unprivileged")
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
    tags = {service["image"].partition(":")[2] for service in qdrants()}
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
    assert not re.search(r"(?i)key|token|password", text)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    copied = {
        word.split("/")[0] for line in text.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]
    }
    assert copied - {"--from=build", ""} == {line[1:] for line in ignored if line.startswith("!")}


def test_first_run__makes_keys_once(tmp_path):
    (tmp_path / "deploy").mkdir()
    script = shutil.copy(DEPLOY / "first-run", tmp_path / "deploy")
    done = subprocess.run([script], capture_output=True, text=True, check=True)
    env = tmp_path / ".env"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    values = dict(line.split("=", 1) for line in env.read_text().splitlines() if not line.startswith("#"))
    keys = [values[name] for name in ("QDRANT_API_KEY", "QDRANT_READ_ONLY_API_KEY", "GRAFANA_PASSWORD")]
    assert len(set(keys)) == 3
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)
    assert not any(key in done.stdout + done.stderr for key in keys)
    again = subprocess.run([script], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert ".env is there already" in again.stderr
    assert [values[name] for name in values] == [
        line.split("=", 1)[1] for line in env.read_text().splitlines() if "=" in line
    ]
    wanted = set(re.findall(r"\$\{([A-Z_]+)", "".join(path.read_text() for path in COMPOSE)))
    assert wanted - {"CBMIR_GPUS"} <= set(values)  # which has a default
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


def expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "boards" / "qdrant.json").read_text())
    rules = loaded(DEPLOY / "prometheus" / "alerts.yml")["groups"]
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]] + [
        rule["expr"] for group in rules for rule in group["rules"]
    ]


def test_monitoring__asks_for_metrics_that_qdrant_has():
    words = set()
    for expression in expressions():
        plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", "", expression)
        words |= set(re.findall(r"[a-z_]{2,}", plain)) - {"sum", "max", "rate", "deriv", "histogram_quantile"}
    assert words == METRICS


def test_monitoring__rules_and_queries_are_promql(tmp_path):
    if not shutil.which("promtool"):
        pytest.skip("promtool isn't installed (Debian: prometheus)")
    subprocess.run(["promtool", "check", "rules", DEPLOY / "prometheus" / "alerts.yml"], check=True)
    config = DEPLOY / "prometheus" / "prometheus.yml"
    subprocess.run(["promtool", "check", "config", "--syntax-only", config], check=True)
    rules = [{"record": f"board:{number}", "expr": text} for number, text in enumerate(expressions())]
    made = tmp_path / "board.yml"
    made.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    subprocess.run(["promtool", "check", "rules", made], check=True)


def test_grafana__board_fits_its_source():
    board = json.loads((DEPLOY / "grafana" / "boards" / "qdrant.json").read_text())
    source = loaded(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(places) == len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    provider = loaded(DEPLOY / "grafana" / "provisioning" / "dashboards" / "boards.yml")["providers"][0]
    mounted = [volume.split(":")[1] for volume in services(COMPOSE[0])["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted


def test_kubernetes__job_follows_the_schema():
    command = [BIN / "kubernetes-validate", "--strict", DEPLOY / "kubernetes" / "ingest-job.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files__hold_no_key():
    files = [*COMPOSE, *(path for path in DEPLOY.rglob("*") if path.is_file())]
    found = [f"{path.name}: {match[0]}" for path in files for match in SECRET.finditer(path.read_text())]
    assert found == []
