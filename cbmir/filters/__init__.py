r"""The filter language: ``age_years<60``, ``sex=F``, ``view!=lateral``, ``labels~XR/chest/*``, ``modality=CT|MR``.

A filter is a tuple of conditions that must all hold. A list field satisfies ``=`` and ``~`` when one of its values
does; a glob pays no heed to case. ``!=`` also passes images that lack the field; an order (``<``, ``<=``, ``>``,
``>=``) never does. A bar in a value is written ``\|``; a value that holds one is found without the backslash too.

Several conditions are joined by ``and``: ``modality=CT and age_years<60``.

Own columns, which the payload keeps under ``extra``, are filtered by their names: ``scanner=Siemens``. Where a payload
field has the same name, ``extra.`` before it means the column. Write a name that holds an operator in quotes.
"""

from cbmir.filters.conditions import (
    EXTRA,
    SCOPED,
    SHORT,
    Condition,
    Op,
    Value,
    Where,
    any_of,
    engine_key,
    not_of,
    own_column,
    own_field,
    parse,
    parse_all,
    scope_of,
    wording,
)
from cbmir.filters.engines import to_edge, to_qdrant
from cbmir.filters.resolution import NAMED, Countable, check_column, check_countable, resolve

__all__ = [
    "EXTRA",
    "NAMED",
    "SCOPED",
    "SHORT",
    "Condition",
    "Countable",
    "Op",
    "Value",
    "Where",
    "any_of",
    "check_column",
    "check_countable",
    "engine_key",
    "not_of",
    "own_column",
    "own_field",
    "parse",
    "parse_all",
    "resolve",
    "scope_of",
    "to_edge",
    "to_qdrant",
    "wording",
]
