"""Archives made to harm, and the bounds that opening and reading them must keep."""

import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tracer
from tracer.store.documents import document_digest

SECONDS = 20.0  # far more than any refusal takes, far less than what is refused would
MEMORY = 1 << 30


def root_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "zarr.json").read_text())


def change_root(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the root document and give it a right digest again, if there is a place left for one."""
    root = root_of(path)
    change(root)
    attributes = root.get("attributes")
    blank = attributes.get("tracer") if isinstance(attributes, dict) else None
    if isinstance(blank, dict) and isinstance(blank.get("digest"), str):
        blank["digest"] = "0" * 64
        text = json.dumps(root, separators=(",", ":"), ensure_ascii=False)
        digest = document_digest(text.encode(errors="surrogatepass"))
        text = text.replace(f'"digest":"{"0" * 64}"', f'"digest":"{digest}"', 1)
    else:
        text = json.dumps(root)
    (path / "zarr.json").write_bytes(text.encode(errors="surrogatepass"))


def nodes(root: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return root["consolidated_metadata"]["metadata"]


def peak() -> int:
    """Bytes of memory used at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextmanager
def bounded(memory: int = MEMORY) -> Iterator[None]:
    """Neither much of the processor's time nor much memory is taken inside."""
    before, start = peak(), time.process_time()
    yield
    assert time.process_time() - start < SECONDS
    assert peak() - before < memory


def look_at(path: Path) -> None:
    """Everything an archive offers to a reader who trusts nothing."""
    with tracer.open(path) as archive:
        repr(archive)
        archive._repr_html_()
        for stream_step in archive.snapshots[:3]:
            step = int(stream_step)
            archive.weights(step)
            archive.gram(step)
            for probe in archive.probes.values():
                (probe.inputs, probe.targets, probe.raw)
                probe.outputs(step)
                probe.sums(step)
                for site in archive.site_table:
                    if site["start"] is not None:
                        probe.masks(site["name"], step)
                    probe.activations(site["name"], step)
                for row in archive.tensors:
                    if row["trainable"]:
                        probe.gradients(row["name"], step)
        archive.ids(1)
        archive.network()
        (archive.rows, archive.milestones, archive.epoch_ends)
