"""A page for each command, made from the click commands themselves, so that no command can be missing."""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

import click

from cbmir.cli import cli

FOLDER = "commands"


@dataclass(frozen=True)
class CommandPage:
    """One command and the page about it.

    Attributes:
        words: What a user types: ``("cbmir", "ingest", "images")``.
        command: The click command.
    """

    words: tuple[str, ...]
    command: click.Command

    @property
    def uri(self) -> str:
        """Path of the page in the docs folder."""
        return f"{FOLDER}/{'-'.join(self.words[1:]) or 'index'}.md"

    @property
    def title(self) -> str:
        """The words as one text."""
        return " ".join(self.words)

    @property
    def context(self) -> click.Context:
        """A context as `--help` has it."""
        return click.Context(self.command, info_name=self.title, terminal_width=100, help_option_names=["-h", "--help"])


def command_pages(root: click.Command = cli) -> list[CommandPage]:
    """All commands that `--help` shows, a group before its commands."""
    return list(_walk(CommandPage(("cbmir",), root)))


def _walk(page: CommandPage) -> Iterator[CommandPage]:
    if page.command.hidden:
        return
    yield page
    if isinstance(page.command, click.Group):
        for name in page.command.list_commands(page.context):
            command = page.command.get_command(page.context, name)
            if command is not None:
                yield from _walk(CommandPage((*page.words, name), command))


def navigation(pages: list[CommandPage]) -> list[dict[str, object]]:
    """The part of the site's menu about commands: an entry for each group with its commands below it."""
    menu: list[dict[str, object]] = [{"All commands": pages[0].uri}]
    for page in pages[1:]:
        if len(page.words) > 2:
            continue
        below = [{other.title: other.uri} for other in pages if other.words[:-1] == page.words]
        menu.append({page.title: [page.uri, *below] if below else page.uri})
    return menu


def text_of(page: CommandPage, pages: list[CommandPage]) -> str:
    """The page as Markdown: help text, usage, commands below it, arguments and options."""
    usage = page.command.get_usage(page.context).removeprefix("Usage: ")
    parts = [f"# {page.title}", prose(page.command.help or ""), f"```text\n{usage}\n```"]
    below = [other for other in pages if other.words[:-1] == page.words]
    if below:
        rows = [f"| [{other.title}]({_beside(other)}) | {_cell(_first(other.command))} |" for other in below]
        parts.append("\n".join(["| command | what it does |", "|---|---|", *rows]))
    options = [option for option in page.command.get_params(page.context) if isinstance(option, click.Option)]
    rows = [_row(option, page.context) for option in options if not option.hidden]
    parts.append("\n".join(["## Options", "", "| option | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def prose(text: str) -> str:
    """The help text of a command as Markdown; signs that Markdown or HTML would take for its own are escaped."""
    lines = (line.strip() for line in text.replace("\b", "").strip().splitlines())
    paragraphs = re.split(r"\n{2,}", "\n".join(lines))
    return "\n\n".join(_escaped(paragraph) for paragraph in paragraphs)


def _first(command: click.Command) -> str:
    return (command.help or "").replace("\b", "").strip().partition("\n\n")[0].replace("\n", " ")


def _beside(page: CommandPage) -> str:
    return page.uri.removeprefix(f"{FOLDER}/")


def _row(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    names, meaning = record if record is not None else (", ".join(option.opts), option.help or "")
    return f"| <code>{html.escape(names).replace('|', '&#124;')}</code> | {_cell(meaning)} |"


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "&#124;")


def _escaped(text: str) -> str:
    """The text with Markdown's signs escaped. Text in backticks stays as it is."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its second one
        return "\\`".join(map(_plain, parts))
    return "".join(
        f"<code>{html.escape(part)}</code>" if number % 2 else _plain(part) for number, part in enumerate(parts)
    )


def _plain(text: str) -> str:
    return html.escape(re.sub(r"([\\*_\[\]#])", r"\\\1", text), quote=False)
