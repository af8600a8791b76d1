"""Links between files of the repository, as links between pages of the site."""

import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

OUTSIDE = {
    "README.md": "index.md",
    "deploy/README.md": "deploy.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages whose file is not below `docs/`: path in the repository, path on the site."""

FOLDERS = {"docs/decisions": "decisions/index.md"}
"""Folders that texts link to, and the page that lists what they hold."""

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^()\s]+)\)")


def relinked(text: str, source: str, page: str) -> str:
    """A text with its links changed from files to pages.

    A link to a file that is in the repository and not on the site becomes plain text. A link to nothing stays as it is,
    so that a strict build reports it.

    Args:
        text: Markdown.
        source: Path of its file in the repository.
        page: Path of its page on the site.
    """
    return _outside_code(text, lambda part: _LINK.sub(lambda link: _changed(link, source, page), part))


def _changed(link: re.Match[str], source: str, page: str) -> str:
    target, _, anchor = link["target"].partition("#")
    if not target or "://" in target or target.startswith("mailto:"):
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    there = site_path(path)
    if there is None:
        return link["text"] if (ROOT / path).exists() else link[0]
    relative = posixpath.relpath(there, posixpath.dirname(page) or ".")
    return f"{link['image']}[{link['text']}]({relative}{'#' + anchor if anchor else ''})"


def site_path(path: str, folders: Mapping[str, str] = FOLDERS) -> str | None:
    """Where a file of the repository is on the site; None if it isn't there."""
    if path in OUTSIDE:
        return OUTSIDE[path]
    if path in folders:
        return folders[path]
    if path.startswith("examples/notebooks/") and path.endswith(".ipynb"):
        return f"notebooks/{Path(path).stem}.md"
    if path.startswith("docs/") and (ROOT / path).is_file():
        return path.removeprefix("docs/")
    return None


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change what isn't in a fenced or indented block, or in backticks."""
    lines, fenced = [], False
    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if fenced or line.startswith("    ") or line.lstrip().startswith("```"):
            lines.append(line)
        else:
            parts = re.split(r"(`+[^`]*`+)", line)
            lines.append("".join(part if part.startswith("`") else change(part) for part in parts))
    return "\n".join(lines)
