"""All pages of the site, put together in one folder."""

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from docs.generate import commands, formulas, links, notebooks, reference
from docs.generate.links import ROOT

HERE = Path(__file__).resolve().parent
_STATUS, _DATE = (re.compile(rf"^- \*\*{name}:\*\* (.*)", re.MULTILINE) for name in ("Status", "Date"))


def assemble(out: Path) -> None:
    """Write all pages below `out/pages`, and `out/mkdocs.yml`.

    Raises:
        ValueError: a decision record has no title, status or date.
    """
    pages = out / "pages"
    for uri, content in pages_of().items():
        (pages / uri).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, pages / uri)
        elif isinstance(content, bytes):
            (pages / uri).write_bytes(content)
        else:
            (pages / uri).write_text(content, encoding="utf-8")
    (out / "mkdocs.yml").write_text(yaml.safe_dump(settings(), sort_keys=False), encoding="utf-8")


def settings() -> dict[str, Any]:
    """The settings of the site, with the parts of the menu that are made from code and folders."""
    config: dict[str, Any] = yaml.safe_load((HERE / "site.yml").read_text("utf-8"))
    made: dict[str, list[Any]] = {
        "Commands": commands.navigation(commands.command_pages()),
        "Notebooks": [{notebooks.page_of(path).title: notebooks.page_of(path).uri} for path in notebooks.paths()],
        "Python": [{page.title: page.uri} for page in reference.PAGES],
        "Decisions": ["decisions/index.md", *(f"decisions/{path.name}" for path in _decisions())],
    }
    config["nav"] = [_filled(entry, made) for entry in config["nav"]]
    config["plugins"][-1]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT)]
    return config


def _filled(entry: Any, made: dict[str, list[Any]]) -> Any:
    """The entry of a menu, with what was made in place of an empty list."""
    if not isinstance(entry, dict):
        return entry
    ((name, value),) = entry.items()
    if value == []:
        return {name: made[name]}
    return {name: [_filled(item, made) for item in value] if isinstance(value, list) else value}


def pages_of() -> dict[str, str | bytes | Path]:
    """All files of the site by their path in it."""
    made: dict[str, str | bytes | Path] = {"site.css": HERE / "site.css"}
    texts = {path: uri for path in _texts() if (uri := links.site_path(path))} | links.OUTSIDE
    for text, uri in texts.items():
        made[uri] = formulas.drawn(links.relinked(with_bars((ROOT / text).read_text("utf-8")), text, uri))
    for image in (ROOT / "docs").rglob("*.png"):
        made[str(image.relative_to(ROOT / "docs"))] = image
    all_commands = commands.command_pages()
    made |= {page.uri: commands.text_of(page, all_commands) for page in all_commands}
    made |= {page.uri: reference.text_of(page) for page in reference.PAGES}
    for path in notebooks.paths():
        notebook = notebooks.page_of(path)
        made[notebook.uri] = links.relinked(notebook.text, str(path.relative_to(ROOT)), notebook.uri)
        made |= {f"{notebooks.FOLDER}/{name}": content for name, content in notebook.images.items()}
    made["decisions/index.md"] = decision_list()
    return made


def with_bars(text: str) -> str:
    r"""A Markdown text whose tables have ``|`` in code instead of ``\|``, which the site would show as it is."""
    return re.sub(
        r"^\|.*", lambda row: re.sub(r"`[^`]*`", lambda code: code[0].replace(r"\|", "|"), row[0]), text, flags=re.M
    )


def decision_list() -> str:
    """The page that lists all decision records with their status and date.

    Raises:
        ValueError: a record has no title, status or date.
    """
    rows = []
    for path in _decisions():
        text = path.read_text("utf-8")
        title, status, date = (pattern.search(text) for pattern in (re.compile("^# (.*)"), _STATUS, _DATE))
        if title is None or status is None or date is None:
            raise ValueError(f"{path.name} needs a title, a status and a date")
        rows.append(f"| [{title[1]}]({path.name}) | {status[1]} | {date[1]} |")
    head = "# Decisions\n\nOne record for each choice that had alternatives: what was decided, and why.\n\n"
    return head + "\n".join(["| decision | status | date |", "|---|---|---|", *rows]) + "\n"


def _texts() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


def _decisions() -> list[Path]:
    return sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
