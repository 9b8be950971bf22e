"""Console entry: make sure the top-level module `cli` is ours, then hand over to it."""

import sys
from importlib.util import find_spec

OWNER = '__owner__ = "tracer-nn"'


def main() -> None:
    """Run the `tracer` command, or stop with the path of the file that took its place.

    Any distribution may ship a module called `cli`, and the last one installed overwrites the others
    silently. The source is read before it is imported, so that code from elsewhere is not run.
    """
    spec = find_spec("cli")
    if spec is None:
        sys.exit("tracer: the module 'cli' is missing; reinstall tracer-nn")
    source = getattr(spec.loader, "get_source", lambda name: None)("cli") or ""
    if OWNER not in source:
        sys.exit(
            f"tracer: {spec.origin} is not tracer's command line but another module called 'cli'; remove or "
            "rename it, run from another directory, or install tracer-nn in an environment of its own"
        )
    import cli

    cli.main(prog_name="tracer")


if __name__ == "__main__":
    main()
