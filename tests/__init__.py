import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def parsed(path: Path) -> ast.Module:
    """A source of this checkout, which several tests walk through."""
    return ast.parse(path.read_text(encoding="utf-8"))
