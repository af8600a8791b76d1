"""What a user may say of how a table is to be read."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal, TypeVar

import click

from cbmir.aliases import plain
from cbmir.ingest.tables.columns import FIELDS

Uncertain = Literal["omit", "positive", "negative"]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How to read a table; what isn't given is found from names and contents.

    Attributes:
        columns: What columns become, by name: a field, ``extra`` or ``ignored``.
        label_columns: Names or glob patterns of columns that are labels and hold 0 or 1.
        label_separator: The only separator of labels in one cell.
        uncertain: What -1 in a label column is: left out and kept under ``extra.uncertain``, a label, or none.
        values: By field, other spellings of its values.
        date_format: Of dates that aren't ISO, as for `datetime.strptime`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    label_columns: tuple[str, ...] = ()
    label_separator: str | None = None
    uncertain: Uncertain = "omit"
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    date_format: str | None = None


def table_options(command: F) -> F:
    """The options about tables, passed together as `table`."""

    @wraps(command)
    def with_table(*args: Any, **options: Any) -> Any:
        table = TableOptions(
            columns=_columns(options.pop("column")),
            label_columns=tuple(
                name for text in options.pop("label_columns") for part in text.split(",") if (name := part.strip())
            ),
            label_separator=options.pop("label_separator"),
            uncertain=options.pop("uncertain"),
            values=_values(options.pop("values")),
            date_format=options.pop("date_format"),
        )
        return command(*args, table=table, **options)

    wrapped: Any = with_table
    for option in (
        click.option("--date-format", metavar="FORMAT", help="Of dates that are not ISO, such as %d.%m.%Y."),
        click.option(
            "--values",
            multiple=True,
            metavar="FIELD:FROM=TO,...",
            help="Values of a field as the table writes them, such as sex:0=F,1=M. Repeatable.",
        ),
        click.option(
            "--uncertain",
            type=click.Choice(["omit", "positive", "negative"]),
            default="omit",
            show_default=True,
            help="What -1 in a label column is; omit keeps it under extra.uncertain.",
        ),
        click.option("--label-separator", metavar="TEXT", help="Between labels in one cell; found unless given."),
        click.option(
            "--label-columns",
            multiple=True,
            metavar="NAME,...|PATTERN",
            help="Columns that are labels and hold 0 or 1, besides those that are found. Repeatable.",
        ),
        click.option(
            "--column",
            multiple=True,
            metavar="NAME=FIELD",
            help=f"What a column is: {', '.join(FIELDS)}, extra or ignored. Repeatable.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _columns(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, sign, role = text.rpartition("=")
        if not sign or not name.strip() or not role.strip():
            raise click.BadParameter(f"{text!r}: write NAME=FIELD, such as filename=filepath", param_hint="--column")
        pairs[name.strip()] = role.strip()
    return pairs


def _values(texts: tuple[str, ...]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        name, sign, pairs = text.partition(":")
        names = {plain(known): known for known in FIELDS if known not in ("filepath", "dataset")}
        if not sign or plain(name) not in names or not re.fullmatch(r"[^=,]+=[^=,]*(,[^=,]+=[^=,]*)*", pairs):
            raise click.BadParameter(
                f"{text!r}: write FIELD:FROM=TO,FROM=TO, such as sex:0=F,1=M; fields are {', '.join(names.values())}",
                param_hint="--values",
            )
        for pair in pairs.split(","):
            old, _, new = pair.partition("=")
            found.setdefault(names[plain(name)], {})[old.strip().casefold()] = new.strip()
    return found
