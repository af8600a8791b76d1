"""The commands that our texts show."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("README.md", "docs/guide.md", "docs/encoders.md", "docs/dashboards.md", "docs/tour.md", "deploy/README.md")

_WORD = re.compile(r"'[^']*'|\"[^\"]*\"|\S+")


@dataclass(frozen=True)
class Shown:
    """A command as a text shows it.

    Attributes:
        where: File and line.
        words: Its words after ``cbmir``; of optional words the brackets are gone, of alternatives the first is left.
    """

    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where} {' '.join(self.words[:2])}"


def commands(*texts: str) -> list[Shown]:
    """All commands of cbmir in indented or fenced blocks of some texts, in their order."""
    return [shown for text in texts for shown in commands_in(text, (ROOT / text).read_text("utf-8"))]


def python_blocks(text: str) -> list[str]:
    """The fenced blocks of Python in a text, in their order."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / text).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def commands_in(name: str, text: str) -> list[Shown]:
    found, lines, fenced = [], text.split("\n"), False
    for number, line in enumerate(lines, start=1):
        if line.startswith("```"):
            fenced = not fenced
        block = line if fenced else line.removeprefix("    ") if line.startswith("    ") else ""
        block = block.removeprefix("$ ")
        if not block.startswith("cbmir "):
            continue
        following = number
        while block.endswith("\\"):
            block = block[:-1] + lines[following].strip()
            following += 1
        found.append(Shown(f"{name}:{number}", words_of(block)[1:]))
    return found


def words_of(line: str) -> tuple[str, ...]:
    """The words of a command; what it does, behind three blanks or a #, is left out."""
    command = re.split(r"\s{3,}(?![\s-])|\s#", line)[0]
    plain = []
    for word in _WORD.findall(command):
        if word.startswith(("'", '"')):
            plain.append(shlex.split(word)[0])
            continue
        word = word.strip("[]").removesuffix("...")
        if word:
            plain.append(word.partition("|")[0] if word.replace("|", "").isidentifier() else word)
    return tuple(plain)
