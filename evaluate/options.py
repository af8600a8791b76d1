"""The options that the commands of ``cbmir evaluate`` share: who asks, what is searched, what is right."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from cbmir.evaluate.metrics import METRICS
from cbmir.evaluate.protocol import EXCLUDED, GROUPS, LABELS, MAX_K, RULES, UNLABELLED, conditions
from cbmir.evaluate.significance import DRAWS

F = TypeVar("F", bound=Callable[..., Any])

_CONDITIONS = "Condition of the filter language, or 'all'. Repeatable, all must hold."


def terms_options(command: F) -> F:
    """Queries, gallery, label, relevance, exclusion, groups, intervals, device: see `terms`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def terms(options: Mapping[str, Any]) -> dict[str, Any]:
    """What these options and `filter_options` say, as arguments of `cbmir.evaluate.protocol.RetrievalProtocol`."""
    excluded = () if options["include_same_patient"] else tuple(dict.fromkeys(options["exclude"]))
    return {
        "queries": conditions(options["queries"]) + options["where"],
        "gallery": conditions(options["gallery"]) + options["where"],
        "label": options["label"],
        "relevance": options["relevance"],
        "unlabelled": options["unlabelled"],
        "exclude": excluded,
        "by": tuple(dict.fromkeys(options["by"])),
        "draws": options["draws"],
        "seed": options["seed"],
        "device": options["device"],
    }


def measure_options(measures: Sequence[str], k: Sequence[int], note: str = "") -> Callable[[F], F]:
    """``--measure``, ``-k`` and ``--relations``: see `measured`.

    Args:
        measures: The default ones.
        k: The default cutoffs.
        note: What each of them costs, for the help.
    """

    def added(command: F) -> F:
        for option in (
            click.option(
                "--relations",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                metavar="FILE.yaml",
                help="Grades of pairs of labels for ndcg, instead of 1 modality, 2 region, 3 pathology.",
            ),
            click.option(
                "-k",
                type=click.IntRange(1, MAX_K),
                multiple=True,
                default=tuple(k),
                show_default=True,
                help=f"Cutoff. Repeatable{note}.",
            ),
            click.option(
                "--measure",
                "measures",
                type=click.Choice(sorted(METRICS)),
                multiple=True,
                default=tuple(measures),
                show_default=True,
                help=f"Repeatable{note}.",
            ),
        ):
            command = option(command)
        return command

    return added


def measured(options: Mapping[str, Any]) -> dict[str, Any]:
    """What these options say, as arguments of `cbmir.evaluate.protocol.RetrievalProtocol`."""
    return {
        "measures": tuple(dict.fromkeys(options["measures"])),
        "k": tuple(sorted(set(options["k"]))),
        "relations": options["relations"],
    }


def out_option(command: F) -> F:
    """``--out FILE``."""
    path = click.Path(dir_okay=False, path_type=Path)
    return click.option("--out", type=path, metavar="FILE", help="Write the rows as CSV.")(command)


def without(*names: str) -> Callable[[click.Command], click.Command]:
    """Take away options that the shared ones bring along and that mean nothing to a command."""

    def removed(command: click.Command) -> click.Command:
        command.params = [option for option in command.params if option.name not in names]
        return command

    return removed


_OPTIONS = (
    click.option(
        "--queries",
        multiple=True,
        default=("split=test",),
        show_default=True,
        metavar="CONDITION",
        help=f"Who asks. {_CONDITIONS} The published protocol has 'split=test|val'.",
    ),
    click.option(
        "--gallery",
        multiple=True,
        default=("split=train",),
        show_default=True,
        metavar="CONDITION",
        help=f"What is searched. {_CONDITIONS}",
    ),
    click.option(
        "--label",
        type=click.Choice(LABELS),
        default=LABELS[0],
        show_default=True,
        help="Field that tells which images are relevant to each other.",
    ),
    click.option(
        "--relevance",
        type=click.Choice(RULES),
        default=RULES[0],
        show_default=True,
        help="Relevant: who shares any value of the label, has the same values, or a Jaccard index of a half or more.",
    ),
    click.option(
        "--unlabelled",
        type=click.Choice(UNLABELLED),
        default=UNLABELLED[0],
        show_default=True,
        help="Images without the label. exclude: they are no queries and never relevant. include: they are the class "
        "'no label', relevant to each other only; right where no label means no finding.",
    ),
    click.option(
        "--exclude",
        type=click.Choice(list(EXCLUDED)),
        multiple=True,
        default=("patient",),
        show_default=True,
        help="A query finds no image of its own patient, study, series or data set. Repeatable.",
    ),
    click.option("--include-same-patient", is_flag=True, help="Exclude nothing but the query itself."),
    click.option(
        "--by",
        multiple=True,
        default=("modality",),
        show_default=True,
        metavar="FIELD|COLUMN",
        help=f"Also give figures for each value of this field: {', '.join(GROUPS)}, or an own column. Repeatable.",
    ),
    click.option(
        "--draws",
        type=click.IntRange(0, 1_000_000),
        default=DRAWS,
        show_default=True,
        help="Of patients, or of images without a patient id, for the 95% intervals; 0 for none.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of these draws."),
    click.option("--device", default="auto", show_default=True, help="Of the exact search: auto, cpu, cuda, cuda:1."),
)
