"""A recording taken up again and killed after so many files: `python -m tests.resume_writer PATH STEP FILES`."""

import os
import signal
import sys
from pathlib import Path

from tests.crash_writer import die_after
from tests.damage import go_on
from tracer.recovery.resume import resume


def main(path: str, step: int, files: int) -> None:
    die_after(files)
    writer = resume(Path(path), step=step)
    go_on(writer, step + 1, 8)
    writer.flush()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
