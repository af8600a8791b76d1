"""Formulas of the docs as MathML, which browsers draw by themselves: no script, no font from elsewhere."""

import re

from latex2mathml.converter import convert

_BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"\$([^$\n]+)\$")


def drawn(text: str) -> str:
    """A Markdown text with its fenced blocks ``math``, which hold LaTeX, as MathML.

    In a text that has such blocks, what stands between two ``$`` in a line is a formula too.
    """
    if not _BLOCK.search(text):
        return text
    text = _BLOCK.sub(lambda block: f'<div class="formula">{convert(block[1], display="block")}</div>', text)
    return _INLINE.sub(lambda inline: f"<span>{convert(inline[1])}</span>", text)
