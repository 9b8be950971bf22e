"""Whether an archive is whole: every file there, of its size, unchanged, and nothing besides.

The root document has a digest of itself and names every array; the manifest, whose digest the root holds, has
a checksum of every object that will not change again, the root those of the objects that still may. So one
flipped bit anywhere shows, as does an object that is lost, cut short, swapped with another, or too many.
"""

import os

from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.store.fetch import Place
from tracer.store.store import ROOT, is_remote, local_path
from tracer.store.stores import connect
from tracer.verify.examination import Examination
from tracer.verify.inventory import Inventory
from tracer.verify.processes import check_ranks
from tracer.verify.report import Finding, Report

__all__ = ["Finding", "Report", "verify"]


def verify(
    path: str | os.PathLike[str], *, full: bool = False, replay: bool = False, device: str = "cpu"
) -> Report:
    """Check an archive: a directory, a zip file or a URL. It may be recording meanwhile.

    Always: digests of the root and the manifest, every file there and of the right size, none too many, the
    objects that may still change, the documents of single arrays, and that rows fit each other. full: every
    checksum, and every compressed array decoded, which reads the whole archive. replay: outputs, masks, sums,
    activations and gradients computed again from the recorded weights on `device` and compared (bit for bit
    on the machine and versions of the recording, else within rounding).

    Errors: ArchiveError where there is nothing that could be an archive; damage is reported, not raised.
    """
    report = Report(os.fspath(path), "full" if full else "fast")
    try:
        source = Source(path)
    except ArchiveError as error:
        if not _exists(path):
            raise
        report.add("root", "zarr.json", str(error))
        return report
    inventory = Inventory(path)
    try:
        report.state = source.record["state"]
        examination = Examination(source, inventory, report)
        examination.run(full)
        check_ranks(source, report, full)
        if replay and report.ok:
            from tracer.verify.replay import compare  # torch

            compare(path, report, device)
        elif replay:
            report.notes.append("nothing was replayed, since the archive is damaged")
    finally:
        source.close()
        inventory.close()
    return report


def _exists(path: str | os.PathLike[str]) -> bool:
    text = os.fspath(path)
    try:
        if is_remote(text):
            Place(text)  # whatever a server then does is told as damage
        elif not (os.path.lexists(local_path(text) / ROOT) or local_path(text).is_file()):
            connect(text).close()
    except ArchiveError:
        return False
    return True
