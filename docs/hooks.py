"""What the site needs beyond the pages: addresses, the tutorial as a page, links to files that are not pages of it."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

HERE = Path(__file__).parent
WIDE = 9  # bars in a row of a table
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def tutorial() -> str:
    """The notebook as Markdown: text, code, and what its outputs say where it was saved with them."""
    parts = []
    for cell in json.loads((HERE / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain") or []
            picture = output.get("data", {}).get("image/png")
            if picture:
                parts.append(f"![](data:image/png;base64,{picture.strip()})")
            elif text:
                parts.append(f"```text\n{''.join(text)}\n```")
    return "\n\n".join(parts) + "\n"


def on_config(config: Any) -> Any:
    """Take the addresses of the site and of its sources from where the package declares them."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    addresses = project.get("urls", {})
    config.site_url, config.repo_url = addresses.get("Documentation"), addresses.get("Source")
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the tutorial."""
    files.append(File.generated(config, "tutorial.md", content=tutorial()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point to the notebook's page; of files outside the site, name the path; make room for wide tables."""
    if any(line.startswith("|") and line.count("|") > WIDE for line in markdown.splitlines()):
        page.meta.setdefault("hide", ["toc"])
    folder = (HERE / page.file.src_uri).parent

    def replaced(match: re.Match[str]) -> str:
        words, target = match[1], match[2]
        if target.endswith("tutorial.ipynb"):
            return f"[{words}]({target.removesuffix('.ipynb')}.md)"
        path = (folder / target).resolve()
        root = HERE.parent.resolve()
        outside = (
            path.is_relative_to(root)
            and path.exists()
            and files.get_file_from_path(str(path)[len(str(HERE.resolve())) + 1 :]) is None
        )
        return f"{words} (`{path.relative_to(root)}`)" if outside and path.suffix != ".md" else match[0]

    return LINK.sub(replaced, markdown)
