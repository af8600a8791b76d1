"""``cbmir evaluate``: how well a collection retrieves."""

import click

from cbmir.evaluate.analyses.audit.cli import audit_command
from cbmir.evaluate.analyses.classification.cli import classify
from cbmir.evaluate.analyses.comparison.cli import compare_command
from cbmir.evaluate.analyses.experiment.cli import run_command
from cbmir.evaluate.analyses.probe.cli import probe
from cbmir.evaluate.analyses.recall.cli import recall_command
from cbmir.evaluate.analyses.report.cli import report_command
from cbmir.evaluate.analyses.retrieval.cli import retrieval
from cbmir.evaluate.analyses.sweep.cli import sweep_command


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
