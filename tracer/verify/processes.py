"""Whether the archives of all processes of a run are whole, and belong together."""

from tracer.archive import ranks
from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.verify.examination import Examination
from tracer.verify.inventory import Inventory
from tracer.verify.report import Report


def check_ranks(source: Source, report: Report, full: bool) -> None:
    """Check the archives of the other processes of a run like that of the first, and that they belong together."""
    world, there = ranks.world_size(source), ranks.present(source)
    if world > 1 and not there:
        report.notes.append(f"rank 0 of {world} alone was recorded")
    for rank in sorted({*range(1, world)} - {*there}) if there else ():
        report.add("missing", ranks.within(rank), "is lost, or was not recorded while other ranks were")
    steps = {0: ranks.last_step(source)}
    for rank in there:
        try:
            part = ranks.connect(source, rank)
        except ArchiveError as error:
            report.add("root", f"{ranks.within(rank)}/zarr.json", str(error))
            continue
        inventory = Inventory(source.path, ranks.within(rank))
        try:
            own = Report(part.path, report.depth)
            Examination(part, inventory, own).run(full)
        finally:
            part.close()
            inventory.close()
        for finding in own.findings:
            report.add(finding.kind, f"{ranks.within(rank)}/{finding.where}", finding.text)
        report.notes += [f"rank {rank}: {note}" for note in own.notes]
        report.counts = {name: n + own.counts.get(name, 0) for name, n in report.counts.items()}
        steps[rank] = ranks.last_step(part)
    slowest = min(steps, key=lambda rank: steps[rank])
    if steps[slowest] < max(steps.values()):
        report.notes.append(
            f"rank {slowest} ends at step {steps[slowest]}, others at step {max(steps.values())}: what came after the "
            "first is only shown of one rank, with rank="
        )
