"""The contract of the encoders' cards: data alone, and all that a user must know before anything is downloaded."""

import ast
import importlib
import json
import pkgutil
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from cbmir.encoders import cards, specs
from cbmir.encoders.contamination import ALIASES
from cbmir.encoders.registry import loaders

every_card = pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.name)


def test_specs__names_are_unique_and_sorted():
    names = [spec.name for spec in specs()]
    assert names == sorted(set(names))


@every_card
def test_specs__name_source_and_terms(spec):
    assert all((spec.architecture, spec.revision, spec.licence, spec.trained_on, spec.pooling))
    assert re.fullmatch(r"[a-z0-9-]+", spec.name)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+|package [\w.-]+|https://\S+|untrained|none", spec.source)
    assert spec.citation or spec.undisclosed or spec.trained_on == "nothing"
    assert set(spec.seen) <= ALIASES.keys()


@every_card
def test_specs__what_goes_in_and_how_much_comes_out(spec):
    """The input size is said once: by the preprocessing, or alone where the preprocessing comes with the weights."""
    assert spec.dim > 0
    how = spec.preprocessing or spec.volume
    assert bool(how) != bool(spec.input_px)
    assert (spec.volume is not None) == (spec.kind == "volume")
    if how:
        assert how.kind == spec.kind
        assert json.loads(json.dumps(how.as_json()))
    assert spec.takes


@every_card
def test_specs__are_frozen(spec):
    with pytest.raises(FrozenInstanceError):
        spec.dim = 1


def test_cards__one_file_a_loader_without_loading_code():
    found = {item.name for item in pkgutil.iter_modules(cards.__path__)}
    assert found == {loader.__name__.rpartition(".")[2] for loader in loaders()}
    for name in found:
        module = importlib.import_module(f"cbmir.encoders.cards.{name}")
        assert importlib.import_module(f"cbmir.encoders.{name}").SPECS is module.SPECS
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert imported <= {"cbmir.encoders.base", "cbmir.media", "collections.abc", "dataclasses", "typing"}
        assert not any(isinstance(node, ast.Import) for node in ast.walk(tree))
