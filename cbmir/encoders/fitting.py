"""Weights as training programs save them: in a dictionary of several, with prefixes, beside what isn't needed.

The network's own names decide. Every dictionary of the file, and every prefix that many of its names share, is tried;
what fits best is taken, and a line says what that was. Two that fit equally are refused until one is chosen by
``FILE#NAME``.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cbmir.encoders.weights import read_dictionaries
from cbmir.errors import WeightsError
from cbmir.units import counted

if TYPE_CHECKING:
    import torch

    from cbmir.encoders.weights import StateDict

_MARKERS = re.compile(r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpoints put into names, wherever the wrapped module is."""

_WRAPPERS = frozenset(
    ("module", "_orig_mod", "model", "backbone", "encoder", "visual", "net", "network", "image_encoder", "ema_model")
)
_PREFIX_DEPTH = 6
_EXAMPLES = 3
_log = logging.getLogger(__name__)

Convert = Callable[["StateDict"], "StateDict"]
"""From the names of a checkpoint, without its prefix, to the network's."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What of a weights file belongs to a network.

    Attributes:
        file: Where it was read.
        place: The dictionary in the file, see `read_dictionaries`.
        prefix: Removed from the names, with its dot; what doesn't have it is left out.
        state: The tensors under the network's names, those that don't fit too.
        total: Tensors the network has.
        missing: Names of the network that the file lacks.
        reshaped: Names with both shapes, where these differ.
        unexpected: Names that the network doesn't have.
        left_out: Names in the dictionary that go nowhere: outside the prefix, dropped by the conversion, unexpected.
    """

    file: Path
    place: str
    prefix: str
    state: "StateDict"
    total: int
    missing: tuple[str, ...]
    reshaped: tuple[str, ...]
    unexpected: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def matched(self) -> int:
        """Tensors with the network's names and shapes."""
        return self.total - len(self.missing) - len(self.reshaped)

    @property
    def complete(self) -> bool:
        """Whether every tensor of the network is there."""
        return self.matched == self.total

    @property
    def label(self) -> str:
        """What chooses it after ``FILE#``."""
        return ".".join(filter(None, (self.place, self.prefix.removesuffix("."))))

    def take(self, network: str, say: bool = True) -> "StateDict":
        """All tensors of the network and no others.

        Args:
            network: Named in messages.
            say: Log what was taken.

        Raises:
            WeightsError: a tensor has no place, or a place no tensor.
        """
        if not self.complete or self.unexpected:
            raise self.error(network)
        if say:
            self.say()
        return self.state

    def error(self, network: str) -> WeightsError:
        """The numbers of a file that doesn't fit, with three examples of each kind."""
        parts = [
            f"{len(names):,} {what} ({_some(names)})"
            for what, names in (
                ("missing", self.missing),
                ("of another shape", self.reshaped),
                ("unexpected in the file", self.unexpected),
            )
            if names
        ]
        return WeightsError(
            f"no weights for {network} from {self.file}: {self.matched:,} of its "
            f"{counted(self.total, 'tensor')} matched, {', '.join(parts)}; "
            "the file is of another network, or give the encoder it belongs to"
        )

    def say(self, converted: str = "") -> None:
        """Log what was taken, for people.

        Args:
            converted: Who has turned names of another library's into the network's, if these are.
        """
        steps = [f"took {_subscripts(self.place)}" if self.place else f"took {self.file.name}"]
        if self.prefix:
            steps.append(f"removed the prefix {self.prefix}")
        if converted:
            steps.append(f"{counted(len(self.state), 'tensor')}, names converted by {converted}")
        else:
            steps.append(f"{self.matched:,} of {counted(self.total, 'tensor')}")
            if self.left_out:
                steps.append(f"left out {len(self.left_out):,}: {_some(self.left_out)}")
        _log.warning("weights: %s", ", ".join(steps))


def fit(
    weights: Path, network: str, own: "StateDict", convert: Convert | None = None, unused: Collection[str] = ()
) -> Fit:
    """Find in a file what fits a network best; it need not fit completely, see `Fit.complete`.

    Args:
        weights: The file, or ``FILE#NAME`` to choose among several that would fit: NAME is a dictionary in the file, a
            prefix of names, or both.
        network: Named in messages.
        own: The network's tensors, on any device: names and shapes count.
        convert: From the file's names to the network's.
        unused: Further names of the network that a file may have, and that don't count.

    Raises:
        WeightsError: the file can't be read, has nothing of the name chosen, or holds two sets of weights that fit
            equally.
    """
    file, chosen = split_choice(weights)
    shapes = {name: tensor.shape for name, tensor in own.items()}
    found = [
        candidate
        for place, tensors in read_dictionaries(file).items()
        for candidate in _candidates(file, place, tensors, shapes, convert or dict, unused)
    ]
    if chosen:
        found = _chosen(found, file, chosen)
    best = max(found, key=_rank)
    equal = [item for item in found if _rank(item)[:3] == _rank(best)[:3] and not _same(item, best, shapes)]
    if equal and (2 * best.matched >= best.total or not best.matched):
        labels = sorted({item.label for item in (best, *equal) if item.label})
        raise WeightsError(
            f"{file} holds {len(labels)} sets of weights that fit {network} equally, {', '.join(labels)}: choose one, "
            f"as --weights {file}#{labels[0]}"
        )
    return best


def split_choice(weights: Path) -> tuple[Path, str]:
    """The file and the NAME of ``FILE#NAME``; "" without one, or where a file has that whole name."""
    if weights.exists() or "#" not in weights.name:
        return weights, ""
    name, _, chosen = weights.name.rpartition("#")
    return weights.with_name(name) if name else weights, chosen


def _candidates(
    file: Path,
    place: str,
    tensors: "StateDict",
    shapes: "dict[str, torch.Size]",
    convert: Convert,
    unused: Collection[str],
) -> Iterator[Fit]:
    for prefix in _prefixes(tensors, len(shapes) // 2):
        inside = {
            _MARKERS.sub("", name.removeprefix(prefix)): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        state = convert(inside)
        missing = tuple(name for name in shapes if name not in state)
        reshaped = tuple(
            f"{name} {tuple(state[name].shape)}, not {tuple(shape)}"
            for name, shape in shapes.items()
            if name in state and state[name].shape != shape
        )
        unexpected = tuple(name for name in state if name not in shapes and name not in unused)
        used = {id(state[name]) for name in shapes if name in state}
        given = {id(tensor) for tensor in tensors.values()}
        left_out = tuple(name for name, tensor in tensors.items() if id(tensor) not in used)
        if not used <= given:  # the conversion made tensors of several
            left_out = (*(name for name in tensors if not name.startswith(prefix)), *unexpected)
        yield Fit(file, place, prefix, state, len(shapes), missing, reshaped, unexpected, left_out)


def _prefixes(tensors: "StateDict", least: int) -> list[str]:
    """An empty one, and the dotted beginnings that more names share than `least`, the shortest first."""
    counts: dict[str, int] = {}
    for name in tensors:
        parts = name.split(".")
        for depth in range(1, min(len(parts), _PREFIX_DEPTH + 1)):
            start = ".".join(parts[:depth]) + "."
            counts[start] = counts.get(start, 0) + 1
    return [
        "",
        *sorted((start for start, count in counts.items() if count > least), key=lambda start: (len(start), start)),
    ]


def _rank(item: Fit) -> tuple[int, int, int, int]:
    """By what matches, then by the names that do but not in shape; of the same tensors the shortest prefix.

    Where nothing matches, the names are another library's: then the largest dictionary without usual wrappers' names.
    """
    if item.matched:
        return item.matched, len(item.reshaped), 0, -len(item.prefix)
    usual = _WRAPPERS.issuperset(item.prefix.split(".")[:-1])
    return 0, len(item.reshaped), len(item.state), len(item.prefix) if usual else -len(item.prefix)


def _same(one: Fit, other: Fit, shapes: "dict[str, torch.Size]") -> bool:
    import torch

    if not one.matched:
        return {id(tensor) for tensor in one.state.values()} == {id(tensor) for tensor in other.state.values()}
    names = [name for name in shapes if name in one.state and name in other.state]
    return all(
        one.state[name] is other.state[name] or torch.equal(one.state[name], other.state[name]) for name in names
    )


def _chosen(found: list[Fit], file: Path, chosen: str) -> list[Fit]:
    wanted = [item for item in found if f".{chosen}." in f".{item.label}."]
    if not wanted:
        there = ", ".join(sorted({item.place for item in found if item.place})) or "none"
        raise WeightsError(f"{file} has no weights {chosen!r}; dictionaries in it are {there}")
    return wanted


def _some(names: Collection[str]) -> str:
    first = list(names)[:_EXAMPLES]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more:,} more" if more else "")


def _subscripts(place: str) -> str:
    first, *others = place.split(".")
    return first + "".join(f"['{name}']" for name in others)
