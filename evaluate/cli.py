"""``cbmir evaluate``: how well a collection retrieves."""

import click

from evaluate.audit.cli import audit_command
from evaluate.classification.cli import classify
from evaluate.comparison.cli import compare_command
from evaluate.experiment.cli import run_command
from evaluate.probe.cli import probe
from evaluate.recall.cli import recall_command
from evaluate.report.cli import report_command
from evaluate.retrieval.cli import retrieval
from evaluate.sweep.cli import sweep_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def evaluate() -> None:
    """Measure how well a collection retrieves."""


ANALYSES = (
    retrieval,
    classify,
    probe,
    compare_command,
    recall_command,
    audit_command,
    sweep_command,
    report_command,
)
for command in ANALYSES:
    evaluate.add_command(command)
evaluate.add_command(run_command({str(command.name): command for command in ANALYSES}))
