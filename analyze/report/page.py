"""A page of one file: template, styles and script in one HTML text that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyze.report import svg
from tracer.spec.release import version

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("page.js", "values.js", "explore.js", "time.js")
INKS = "/* inks */"  # in the styles: where the colours of the figures on dark paper go


def render(template: str, **context: Any) -> str:
    """A template with the styles and the script of every page.

    Every text is escaped: names in a foreign archive are only ever shown. The page's policy allows this very
    script, by its digest, and no other.
    """
    from markupsafe import Markup

    script = "\n".join(_read(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = (
        _environment()
        .get_template(template)
        .render(
            version=version(),
            css=Markup(_read("report.css")),
            script=Markup(script),
            script_digest=Markup(f"sha256-{digest}"),
            **context,
        )
    )
    return page.replace(INKS, svg.dark_inks(page), 1)


@cache
def _environment() -> Environment:
    """The templates, each compiled once: that takes longer than to fill them in."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    environment.filters["breakable"] = _breakable
    return environment


def topic(name: str, links: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """A topic of the contents: its name, and anchors with titles."""
    return {"name": name, "links": list(links)}


def _breakable(name: str) -> Any:
    """A name that may go on in another line after a point, an underscore or before a bracket."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<=[._])(?=\w)|(?=\[)", "<wbr>", str(escape(name))))


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
