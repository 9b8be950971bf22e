"""What a result depends on, as a digest: where it is the same, a result need not be computed again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.spec.release import version

if TYPE_CHECKING:
    from analyze.contract import Metric
    from tracer.archive import Archive

# Sources whose change changes numbers: a result computed by other versions of them is computed again.
SHARED = (
    *(f"arrays/{x}.py" for x in ("__init__", "recorded", "derived")),
    "numerics/__init__.py",
    *(f"engine/{x}.py" for x in ("plan", "blocks", "assemble")),
)
REPLAY = (
    "engine/replayed.py",
    *(f"replay/{x}.py" for x in ("replay", "state", "derivatives", "batch_norm", "float64")),
)


def fingerprint(
    card: Metric,
    options: Mapping[str, Any],
    archive: Archive,
    replay: Mapping[str, Any],
    reads: Sequence[str | None],
) -> str:
    """Digest of the archive, a metric, its options, the replay's settings and the results it `reads`."""
    content = {
        "archive": str(archive.digest),
        "tracer": version(),
        "engine": engine_source(),
        "metric": card.source,
        "options": card.with_options(options),
        "replay": {key: getattr(value, "__qualname__", value) for key, value in replay.items()},
        "reads": list(reads),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


@cache
def engine_source() -> str:
    """Digest of the sources that every result depends on."""
    home = Path(__file__).parents[1]
    return hashlib.sha256(b"".join((home / name).read_bytes() for name in SHARED + REPLAY)).hexdigest()[:16]
