"""The docs site: made from the code, so that it can't miss anything. `make check` builds it strictly."""

import importlib
import json
import re
from pathlib import Path

import click
import pytest

from cbmir.cli import cli
from cbmir.evaluate.metrics import METRICS
from docs.generate import commands, formulas, links, notebooks, reference, site

ROOT = Path(__file__).resolve().parent.parent
DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {uri: content for uri, content in site.pages_of().items() if isinstance(content, str)}


def leaves(menu: object) -> list[str]:
    if isinstance(menu, str):
        return [menu]
    return [leaf for item in (menu.values() if isinstance(menu, dict) else menu) for leaf in leaves(item)]


def tree(command: click.Command, words: tuple[str, ...] = ("cbmir",)):
    """All commands, found in another way than the site does: by the groups' own dictionaries and lists."""
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.commands or command.list_commands(context):
            yield from tree(command.get_command(context, name), (*words, name))


def test_commands__each_has_a_page_with_all_its_options(pages):
    found = dict(tree(cli))
    assert len(found) > 40
    for words, command in found.items():
        page = pages[f"commands/{'-'.join(words[1:]) or 'index'}.md"]
        assert page.startswith(f"# {' '.join(words)}\n")
        options = [name for parameter in command.params for name in parameter.opts if name.startswith("-")]
        assert [name for name in options if f"{name}" not in page] == []


def test_command_pages__a_hidden_command_has_none():
    @click.group(commands={"shown": click.Command("shown"), "kept": click.Command("kept", hidden=True)})
    def root() -> None:
        """Two commands."""

    assert [page.title for page in commands.command_pages(root)] == ["cbmir", "cbmir shown"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one `a*b` two", "one <code>a*b</code> two"),
        ("bar [required]", r"bar \[required\]"),
        ("1<=x & NAME__vN", r"1&lt;=x &amp; NAME\_\_vN"),
        ("half `open", r"half \`open"),
    ],
)
def test_prose__shows_what_the_help_says(text, shown):
    assert commands.prose(text) == shown


def test_menu__has_every_page_once(pages):
    menu = leaves(site.settings()["nav"])
    assert sorted(menu) == sorted(pages.keys() - {"site.css"})


@pytest.mark.parametrize("page", reference.PAGES, ids=lambda page: page.name)
def test_reference__names_exist(page):
    for name in page.shown:
        module, _, member = name.rpartition(".")
        assert hasattr(importlib.import_module(module), member), name


def test_reference__has_what_each_package_exports(pages):
    for package in ("cbmir.search", "cbmir.evaluate", "cbmir.ingest", "cbmir.encoders", "cbmir.media", "cbmir.store"):
        page = pages[f"reference/{package.partition('.')[2]}.md"]
        assert [
            name for name in importlib.import_module(package).__all__ if f"::: {package}.{name}\n" not in page
        ] == []


def test_metrics__each_has_a_definition_and_a_formula():
    text = (ROOT / "docs/metrics.md").read_text()
    sections = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE))
    assert sections.keys() == METRICS.keys()
    assert [name for name, section in sections.items() if "```math" not in section] == []


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_decisions__have_status_date_context_decision_consequences(path):
    text = path.read_text()
    assert re.match(
        rf"# {int(path.name[:4])}\. .*\n\n- \*\*Status:\*\* \w.*\n- \*\*Date:\*\* \d{{4}}-\d\d-\d\d\n", text
    )
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert [name for name in headings if name != "Alternatives"] == ["Context", "Decision", "Consequences"]


def test_images__of_all_texts_exist(pages):
    """A strict build looks at links to pages only."""
    files = site.pages_of()
    for uri, text in pages.items():
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            assert str((Path("/") / uri).parent.joinpath(target).resolve())[1:] in files, f"{uri}: {target}"


@pytest.mark.parametrize(
    ("text", "source", "page", "expected"),
    [
        ("[a](docs/guide.md#x)", "README.md", "index.md", "[a](guide.md#x)"),
        ("![a](../docs/similar-CT.png)", "deploy/README.md", "deploy.md", "![a](similar-CT.png)"),
        ("[a](../deploy/README.md)", "docs/guide.md", "guide.md", "[a](deploy.md)"),
        ("[a](../../docs/guide.md)", "examples/notebooks/x.ipynb", "notebooks/x.md", "[a](../guide.md)"),
        ("[a](docs/decisions/)", "README.md", "index.md", "[a](decisions/index.md)"),
        ("[a](LICENSE)", "README.md", "index.md", "a"),
        ("[a](docs/nothing.md)", "README.md", "index.md", "[a](docs/nothing.md)"),
        ("[a](https://x.org/y) [b](#c)", "README.md", "index.md", "[a](https://x.org/y) [b](#c)"),
        ("`[a](LICENSE)`\n\n    [a](LICENSE)", "README.md", "index.md", "`[a](LICENSE)`\n\n    [a](LICENSE)"),
    ],
)
def test_relinked__cases(text, source, page, expected):
    assert links.relinked(text, source, page) == expected


def test_with_bars__in_code_of_tables_only():
    text = "`a\\|b`\n| `a\\|b`, `c\\\\|d` | e\\|f |\n"
    assert site.with_bars(text) == "`a\\|b`\n| `a|b`, `c\\|d` | e\\|f |\n"


def test_drawn__formulas_become_mathml():
    shown = formulas.drawn("of $k$ ranks\n\n```math\n\\frac{1}{k}\n```\n")
    assert shown.count("<math") == 2
    assert "<mfrac>" in shown
    assert "$" not in shown
    assert formulas.drawn("costs 5$ or 6$") == "costs 5$ or 6$"


def test_notebooks__three_without_images_of_patients():
    found = notebooks.paths()
    assert len(found) == 3
    for path in found:
        for cell in json.loads(path.read_text())["cells"]:
            if "not-stored" in cell["metadata"].get("tags", []):
                assert cell["outputs"] == []
    page = notebooks.page_of(ROOT / "examples/notebooks/compare_two_encoders.ipynb")
    assert page.title == "Compare two encoders"
    assert [name for name in page.images if f"![]({name})" not in page.text] == []
    assert "precision" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("path", notebooks.paths(), ids=lambda path: path.stem)
def test_notebook__runs_and_shows_what_is_stored(path, monkeypatch):
    """Tables and texts are compared with those that the page shows; numbers may differ by the processor."""
    from docs.generate import execute

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    shown, stored = (texts(cells) for cells in (execute.executed(path).cells, json.loads(path.read_text())["cells"]))
    assert [re.sub(r"[\d.]+", "0", text) for text in shown] == [re.sub(r"[\d.]+", "0", text) for text in stored]


def texts(cells) -> list[str]:
    return [
        "".join(output["data"]["text/plain"])
        for cell in cells
        if cell["cell_type"] == "code" and "not-stored" not in cell["metadata"].get("tags", [])
        for output in cell["outputs"]
        if "text/plain" in output.get("data", {})
    ]
