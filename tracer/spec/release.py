"""The version of tracer that is at work: pyproject.toml says it, and nothing else."""

from functools import cache


@cache
def version() -> str:
    """What is installed; of a checkout that is not, what its pyproject.toml says."""
    from importlib import metadata  # here, since `tracer --help` must be quick

    try:
        return metadata.version("tracer-nn")
    except metadata.PackageNotFoundError:
        import tomllib
        from pathlib import Path

        text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
        return tomllib.loads(text)["project"]["version"]
