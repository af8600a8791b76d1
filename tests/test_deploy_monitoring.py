"""The board and the alerts ask for metrics that a Qdrant server has, and the alerts fire when they should.

`qdrant_metrics.txt` is what a server answers. promtool is Prometheus' own checker.
"""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
ANSWER = Path(__file__).with_name("qdrant_metrics.txt")
SCRAPED = {"job": "qdrant", "instance": "a:6333"}
"""Labels that Prometheus adds."""

_WORDS = {"sum", "max", "rate", "deriv", "histogram_quantile", "or"}
"""Of the query language, as far as it is used."""
_LABELS = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def needs_promtool() -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool isn't installed (Debian: prometheus; .ci/run fetches it)")


def server() -> dict[str, list[dict[str, str]]]:
    """The metrics of a server, each with the labels of its series, as Prometheus stores them."""
    found = defaultdict(list)
    for line in ANSWER.read_text().splitlines():
        if line and not line.startswith("#"):
            name = line.partition(" ")[0].partition("{")[0]
            found[name].append(SCRAPED | dict(_LABELS.findall(line)))
    return found | {"up": [SCRAPED]}


def alerts() -> list[dict]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def board() -> list[str]:
    panels = json.loads((DEPLOY / "grafana" / "boards" / "qdrant.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def unknown(expression: str) -> list[str]:
    """Metrics and labels of an expression that no server has."""
    has = server()
    labels = {label for series in has.values() for each in series for label in each}
    wrong = [
        f"by {label}"
        for group in re.findall(r"by \(([^)]*)\)", expression)
        for label in re.split(r",\s*", group)
        if label not in labels
    ]
    plain = re.sub(r'by \([^)]*\)|\[[^\]]*\]|"(?:[^"\\]|\\.)*"', "", expression)
    for name, selector in re.findall(r"([a-z_]{2,})(\{[^}]*\})?", plain):
        if name in has:
            asked = re.findall(r"(\w+)\s*[=!]", selector)
            wrong += [f"{name}{{{label}}}" for label in asked if not any(label in series for series in has[name])]
        elif name not in _WORDS:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("expression", [*board(), *(rule["expr"] for rule in alerts())])
def test_monitoring__asks_for_metrics_and_labels_that_qdrant_has(expression):
    assert unknown(expression) == []


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("sum by (instance) (rate(grpc_responses_fail_total[5m]))", ["grpc_responses_fail_total"]),
        ('rate(grpc_responses_total{code!="0"}[5m]) > 0', ["grpc_responses_total{code}"]),
        ("sum by (node) (collection_points)", ["by node"]),
        ("up == 0 or collection_point > 5", ["collection_point"]),
    ],
)
def test_monitoring__what_qdrant_does_not_have_is_found(expression, wrong):
    assert unknown(expression) == wrong


def test_monitoring__failures_of_both_protocols_are_on_the_board():
    text = "\n".join(board())
    assert 'grpc_responses_total{status!="0"}' in text
    assert 'rest_responses_total{status=~"4..|5.."}' in text


def test_monitoring__rules_and_configuration_are_valid():
    needs_promtool()
    subprocess.run(["promtool", "check", "rules", DEPLOY / "prometheus" / "alerts.yml"], check=True)
    config = DEPLOY / "prometheus" / "prometheus.yml"
    subprocess.run(["promtool", "check", "config", "--syntax-only", config], check=True)


def test_monitoring__every_panel_shows_something_of_a_server(tmp_path):
    """Evaluates the queries of the board over the metrics of a server, counters growing by one a minute."""
    needs_promtool()
    text = ANSWER.read_text()
    series = []
    for name, found in server().items():
        counts = bool(re.search(rf"# TYPE {re.sub('_(bucket|count|sum)$', '', name)} (counter|histogram)", text))
        for labels in found:
            inner = ",".join(f'{label}="{value}"' for label, value in labels.items())
            series.append(
                {"series": f"{name}{{{inner}}}", "values": f"1{'+1' if counts or 'points' in name else ''}x30"}
            )
    tests = [
        {"expr": f"count({expr}) > bool 0", "eval_time": "20m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for expr in board()
    ]
    made = tmp_path / "board.yml"
    case = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    made.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "1m", "tests": [case]}))
    done = subprocess.run(["promtool", "test", "rules", made], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def alert_tests() -> list[dict]:
    return yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]


def test_alerts__fire_when_they_should_and_not_before():
    needs_promtool()
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts__each_is_tested_both_ways_over_metrics_that_qdrant_has():
    outcomes = defaultdict(set)
    has = server()
    for case in alert_tests():
        for item in case["alert_rule_test"]:
            outcomes[item["alertname"]].add(bool(item.get("exp_alerts")))
        for item in case["input_series"]:
            name, labels = item["series"].partition("{")[0], {key for key, _ in _LABELS.findall(item["series"])}
            assert any(labels == set(series) for series in has.get(name, [])), item["series"]
    assert outcomes == {rule["alert"]: {True, False} for rule in alerts()}
