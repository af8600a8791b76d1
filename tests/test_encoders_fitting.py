"""Weights as training programs save them: which tensors are taken, what is said, and what is refused.

All are of one small network of timm, so that a file that is read rightly gives the same fingerprint each time.
"""

import logging
import re
import shlex
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cbmir.encoders import EncoderSettings, get
from cbmir.encoders.fitting import fit, split_choice
from cbmir.errors import WeightsError

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow

TINY = "timm:test_resnet"
State = dict[str, Any]


def _network(seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", pretrained=False).eval()


@pytest.fixture(scope="module")
def state() -> State:
    return _network().state_dict()


@pytest.fixture(scope="module")
def other() -> State:
    return _network(1).state_dict()


@pytest.fixture(scope="module")
def plain(state, tmp_path_factory) -> str:
    """Fingerprint of the weights as they are."""
    file = tmp_path_factory.mktemp("plain") / "plain.pt"
    torch.save(state, file)
    return _fingerprint(file)


def _fingerprint(weights: Path, name: str = TINY) -> str:
    return get(name, EncoderSettings(weights, device="cpu", precision="fp32")).card.fingerprint


def _saved(data: object, folder: Path) -> Path:
    file = folder / "file.pt"
    torch.save(data, file)
    return file


def _with(prefix: str, state: State) -> State:
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def _headless(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def _said(caplog: pytest.LogCaptureFixture) -> str:
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("weights: ")]
    return line


PREFIXES = [
    "module.",
    "_orig_mod.",
    "model.",
    "backbone.",
    "encoder.",
    "visual.",
    "net.",
    "image_encoder.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "module.backbone.",
    "model.encoder.net.",
    "student_ema.backbone._orig_mod.",
    "a.name.nobody.thought.of.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_load__any_prefix(prefix, state, plain, tmp_path, caplog):
    assert _fingerprint(_saved({"state_dict": _with(prefix, state), "epoch": 3}, tmp_path)) == plain
    count = len(_headless(state))
    assert _said(caplog) == (
        f"weights: took state_dict, removed the prefix {prefix}, {count} of {count} tensors, "
        f"left out 2: {prefix}fc.weight, {prefix}fc.bias"
    )


WRAPPERS = "state_dict model_state_dict model ema model_ema teacher student net params_ema.0"


@pytest.mark.parametrize("wrapper", WRAPPERS.split())
def test_load__any_dictionary(wrapper, state, plain, tmp_path, caplog):
    optimizer = {"state": {0: {"step": torch.tensor(1), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    data = {"epoch": 3, "optimizer": optimizer, wrapper: state, "loss": 0.1, "scaler": {"scale": torch.tensor(1.0)}}
    assert _fingerprint(_saved(data, tmp_path)) == plain
    assert _said(caplog).startswith(f"weights: took {wrapper.split('.')[0]}")


def test_load__a_dictionary_in_a_dictionary(state, plain, tmp_path, caplog):
    data = {"state_dict": {"teacher": _with("module.backbone.", _headless(state) | {"head.weight": torch.zeros(2)})}}
    assert _fingerprint(_saved(data, tmp_path)) == plain
    count = len(_headless(state))
    assert _said(caplog) == (
        f"weights: took state_dict['teacher'], removed the prefix module.backbone., {count} of {count} tensors, "
        "left out 1: module.backbone.head.weight"
    )


def test_load__markers_within_names(state, plain, tmp_path):
    """A module within the network was compiled, or its activations checkpointed."""
    renamed = {
        name.replace("layer1.", "layer1._orig_mod.").replace("layer2.", "layer2._checkpoint_wrapped_module."): tensor
        for name, tensor in state.items()
    }
    assert _fingerprint(_saved(renamed, tmp_path)) == plain


@pytest.mark.parametrize(
    "head",
    [
        {"fc.1.weight": torch.zeros(14, 512), "fc.1.bias": torch.zeros(14)},
        {"head.weight": torch.zeros(14, 512), "criterion.weight": torch.zeros(14)},
        {"projection_head.0.weight": torch.zeros(64, 512), "n_averaged": torch.tensor(3)},
        {},
    ],
    ids=["a head of two layers", "a head of another name", "of contrastive training", "none"],
)
def test_load__another_head_is_left_out(head, state, plain, tmp_path, caplog):
    assert _fingerprint(_saved(_headless(state) | head, tmp_path)) == plain
    assert (f"left out {len(head)}: {next(iter(head), '')}" in _said(caplog)) == bool(head)


def test_load__a_fine_tuned_classifier(state, plain, tmp_path):
    tuned = state | {"fc.weight": torch.zeros(14, state["fc.weight"].shape[1]), "fc.bias": torch.zeros(14)}
    assert _fingerprint(_saved({"module": tuned}, tmp_path)) == plain


def test_load__other_values_have_another_fingerprint(other, plain, tmp_path):
    assert _fingerprint(_saved({"state_dict": _with("module.", other)}, tmp_path)) != plain


# two that fit


@pytest.mark.parametrize("form", ["dictionaries", "prefixes"])
def test_load__two_that_fit_are_refused_until_one_is_chosen(form, state, other, plain, tmp_path):
    if form == "dictionaries":
        data: State = {"teacher": _with("backbone.", state), "student": _with("backbone.", other)}
    else:
        data = {"state_dict": {**_with("teacher.backbone.", state), **_with("student.backbone.", other)}}
    file = _saved(data, tmp_path)
    with pytest.raises(WeightsError, match="2 sets of weights that fit test_resnet equally") as caught:
        _fingerprint(file)
    assert all(name in str(caught.value) for name in ("teacher.backbone", "student.backbone", f"{file}#"))
    choice = re.findall(r"--weights (\S+)", str(caught.value))[0]
    assert _fingerprint(Path(choice)) != plain  # the first by name, student
    assert _fingerprint(Path(f"{file}#teacher")) == plain
    assert _fingerprint(Path(f"{file}#student")) != plain
    with pytest.raises(WeightsError, match="has no weights 'tutor'"):
        _fingerprint(Path(f"{file}#tutor"))


def test_load__the_same_weights_twice_are_no_choice(state, plain, tmp_path):
    copy = {name: tensor.clone() for name, tensor in state.items()}
    assert _fingerprint(_saved({"model": state, "ema": copy}, tmp_path)) == plain


def test_split_choice__a_file_that_has_the_sign_in_its_name(tmp_path):
    (tmp_path / "a#b.pt").write_bytes(b"")
    assert split_choice(tmp_path / "a#b.pt") == (tmp_path / "a#b.pt", "")
    assert split_choice(tmp_path / "a#b.pt#teacher") == (tmp_path / "a#b.pt", "teacher")
    assert split_choice(tmp_path / "a.pt") == (tmp_path / "a.pt", "")


# what doesn't fit


def test_load__another_network_gets_the_numbers(state, tmp_path):
    wrong = _headless(state)
    gone = sorted(wrong)[:5]
    for name in gone:
        del wrong[name]
    wrong["layer1.0.bn1.bias"] = torch.zeros(3)
    wrong |= {f"layer9.{number}.weight": torch.zeros(2) for number in range(4)}
    file = _saved({"state_dict": _with("module.", wrong)}, tmp_path)
    with pytest.raises(WeightsError) as caught:
        _fingerprint(file)
    text, total = str(caught.value), len(_headless(state))
    assert text.startswith(f"no weights for test_resnet from {file}: {total - 6} of its {total} tensors matched, ")
    assert re.search(r"5 missing \(([\w.]+, ){2}[\w.]+ and 2 more\)", text)
    assert "1 of another shape (layer1.0.bn1.bias (3,), not (32,))" in text
    assert "4 unexpected in the file (layer9.0.weight, layer9.1.weight, layer9.2.weight and 1 more)" in text


def test_load__a_deeper_network_is_not_cut_down(tmp_path):
    """All tensors of a ResNet-18 are in a ResNet-34, with its names and shapes."""
    file = _saved(timm.create_model("resnet34", pretrained=False).state_dict(), tmp_path)
    with pytest.raises(WeightsError, match=r"unexpected in the file \(layer1\.2\.conv1\.weight, ") as caught:
        _fingerprint(file, "timm:resnet18")
    assert "120 of its 120 tensors matched" in str(caught.value)


def test_load__numbers_reach_the_terminal_whole(cbmir, tmp_path):
    file = _saved(timm.create_model("resnet34", pretrained=False).state_dict(), tmp_path)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    done = cbmir(
        *("ingest", "images", tmp_path, "--labels", "none", "--encoder", "timm:resnet18", "--weights", file),
        *("--store", tmp_path / "store"),
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("the file is of another network, or give the encoder it belongs to")
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.endswith(f"{error}\n")  # all of it is in one line


# pickles


@pytest.mark.parametrize("wrapped", [False, True])
def test_load__a_pickled_network_says_what_to_run(wrapped, state, plain, tmp_path):
    network = _network()
    file = tmp_path / "it's mine.pt"
    torch.save({"epoch": 3, "model": network, "args": Path("x")} if wrapped else network, file)
    with pytest.raises(WeightsError, match="can't be read without running what is in it; if you trust it") as caught:
        _fingerprint(file)
    command, _, name = str(caught.value).partition("run once: ")[2].partition("; then give --weights ")
    program, *arguments = shlex.split(command)
    assert program == "python"
    subprocess.run([sys.executable, *arguments], check=True, cwd=tmp_path)
    assert _fingerprint(tmp_path / name) == plain


# the numbers themselves


def test_fit__counts(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    file = _saved({"a": torch.zeros(2), "x.b": torch.zeros(3), "c": torch.zeros(1)}, tmp_path)
    own = {"a": torch.zeros(2), "b": torch.zeros(3)}
    found = fit(file, "net", own)
    assert (found.matched, found.total, found.missing, found.unexpected) == (1, 2, ("b",), ("x.b", "c"))
    assert not found.complete
    with pytest.raises(WeightsError, match="no weights for net from"):
        found.take("net")
    converted = fit(file, "net", own, lambda given: {name.removeprefix("x."): item for name, item in given.items()})
    assert (converted.complete, converted.unexpected, converted.left_out) == (True, ("c",), ("c",))
