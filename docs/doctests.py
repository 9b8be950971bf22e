"""Examples in docstrings as code blocks of the reference: prompts are no Markdown."""

from typing import Any

import griffe


def fenced(docstring: str) -> str:
    """The same text with each paragraph of prompts in a fence."""
    paragraphs = docstring.split("\n\n")
    return "\n\n".join(f"```pycon\n{text}\n```" if text.startswith(">>>") else text for text in paragraphs)


class Doctests(griffe.Extension):
    """Puts fences around the examples of every docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
