"""Formulas of the docs as MathML, which browsers draw by themselves: no script, no font from elsewhere."""

import re

from latex2mathml.converter import convert

_BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.DOTALL | re.MULTILINE)


def drawn(text: str) -> str:
    """A Markdown text with its fenced blocks ``math``, which hold LaTeX, as MathML."""
    return _BLOCK.sub(lambda block: f'<div class="formula">{convert(block[1], display="block")}</div>', text)
