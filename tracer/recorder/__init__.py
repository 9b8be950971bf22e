"""`tracer.record`: from what the user says to a recorder, with everything refused before training starts."""

from collections.abc import Callable, Collection, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from torch import nn

from tracer.archive.attributes import name_of
from tracer.errors import RecordError, parse_memory
from tracer.gradients.sketch import Setting
from tracer.probe import fitting, named_probes
from tracer.probe.memory import GRADIENTS
from tracer.recorder import card, dataset, ranks
from tracer.recorder.arguments import check_arguments
from tracer.recorder.budget import Budget
from tracer.recorder.instrument import Instrument
from tracer.recorder.isolation import unseen
from tracer.recorder.messages import RecordWarning
from tracer.recorder.minibatch import wanted
from tracer.recorder.mirror import Mirror
from tracer.recorder.optimizers import in_use
from tracer.recorder.place import check_free, clear, placed
from tracer.recorder.preparation import check_model
from tracer.recorder.recorder import Recorder
from tracer.recorder.resume import ResumePoint, find, has_begun
from tracer.recovery.resume import resume as take_up
from tracer.schedule import Schedule, by_stream
from tracer.writer import Writer

__all__ = ["RecordWarning", "Recorder", "record"]

_NO_PROBES = (
    "No probes are given, so only ids, scalars and weights are recorded, no outputs, masks, sums or gradients: give "
    "probes={'train': (inputs, targets)}, or probes={} where that is meant."
)


@unseen()
def record(
    path: str | Path,
    model: nn.Module,
    optimizer: Any,
    *,
    loss: Callable[..., Any] | None = None,
    objective: Callable[..., Any] | None = None,
    probes: Mapping[str, Any] | None = None,
    snapshots: Schedule | Mapping[str, Schedule] | None = None,
    gradients: str = "auto",
    tolerance: float = Setting.tolerance,
    memory: int | str = 1 << 30,
    chunk: int | None = None,
    cost: float = fitting.COST,
    batch_size: int | None = None,
    minibatch: bool | Collection[str] | Mapping[str, bool | Schedule] = False,
    data: Any = None,
    data_inputs: bool = False,
    durability: Literal["process", "power"] = "process",
    on_error: Literal["raise", "warn"] = "raise",
    resume: bool | int = False,
    budget: float | None = None,
    mirror: Any = None,
    title: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    command: bool = True,
    exists: Literal["refuse", "overwrite", "number"] = "refuse",
) -> Recorder:
    """Record a training loop into a new archive at `path`; use as `with tracer.record(...) as run:`.

    Or `run = tracer.record(...).start()`, and `run.close()` at the end.

    model, optimizer: as trained; each `optimizer.step()` counts as one update (`optimizer=None`: `run.step()` does).
    Where several make updates, or each phase its own: a list, or a function that returns the one in use. loss:
    `loss(outputs, targets)`, a function or module with `reduction`, of which the mean over an example's numbers is
    recorded whatever the reduction is, or one that returns a value per example, or the mean or sum of what it gives for
    each alone; `objective(model, inputs, targets) -> (outputs, losses)` covers everything else, and says what is
    correct where it returns a mapping or named tuple with `correct` or `targets` too
    (`tracer.network.objective.scored`). probes: name to (inputs, targets), (dataset,
    indices) or `tracer.Probe`. snapshots: a schedule, or a mapping from stream to
    schedule; default `epochs() | log_spaced()`. gradients: "exact" (stored, lossless), "gram" (their inner products
    only), "sketch" (random projections, whose inner products are right on average: a cosine of a layer then has a
    standard error of about `tolerance`), "none", or "auto": exact up to 64 MiB a snapshot, else gram, or sketch where
    gram leaves fewer than 16 examples of a probe and sketches at least twice as many. memory: bytes one probe pass
    may use, or a size such as "4GiB"; cost: training steps of `batch_size` examples (default 64, or sequences of
    1,024 targets) that one may take: what a probe's `capture` does not ask for is fitted into both. chunk: examples
    that go through the network together. minibatch: what is captured of every training minibatch from its own forward
    pass: True, or names among "loss", "correct", "sums" and "masks"; masks only at the snapshots of their schedule,
    or of one given as {"masks": schedule}. data: the training set, of which label, complexity and digest of each
    example are stored once, and with `data_inputs` the inputs. durability: "power" also survives a power cut.
    on_error: whether a failing disk stops training ("raise") or only recording ("warn"). resume: go on with the
    archive at `path` if there is one, after its last snapshot whose weights are the model's now (or after the step
    given); what it holds of later steps is dropped. budget: share of the training time that scheduled snapshots may
    take, such as 0.05; what it leaves out is in `archive.attributes["gaps"]`. mirror: an object with `add_scalar` or
    `log` that gets what `run.log` is given. attributes: facts about the run, such as width, seed or share of labels
    shuffled, by which `compare` tells runs apart (of mappings within, by the names of both: `data.shuffled`). command:
    store the command line. exists: of an archive at `path`: "refuse", "overwrite" it once this one begins, or "number"
    this one, `run-2.zarr` beside `run.zarr`.

    Errors: RecordError and ArchiveError, in one sentence, before training starts and with nothing written.
    """
    words: Any = {"durability": durability, "on_error": on_error, "resume": resume, "budget": budget}
    check_arguments(path, model, optimizer, probes, **words, title=title, attributes=attributes, data=data)
    check_model(model)
    process, in_pieces = ranks.here(), ranks.sharded(model)
    path = placed(Path(path), exists, resuming=resume is not False, several=process.world_size > 1)
    options: Any = {"durability": durability, "on_error": on_error}
    schedules = by_stream(snapshots)
    if process.rank:
        elsewhere: Any = (
            lambda: ranks.Elsewhere(model, minibatch, lends=in_pieces is not None),
            lambda _: ranks.begin(path, model, process, resume, title, **options),
        )
        return Recorder(optimizer, {"weights": schedules["weights"]} if in_pieces else {}, *elsewhere)
    share = Budget(None if in_pieces else budget)
    mirrored = None if mirror is None else Mirror(mirror)
    captured = wanted(minibatch, schedules["masks"])
    memory = parse_memory(memory)
    sizes = {"cost": cost, "tolerance": tolerance} | (
        {} if batch_size is None else {"batch_size": batch_size}
    )
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not value > 0:
            raise RecordError(f"{name}={value!r}, expected a number above 0.")
    if gradients not in GRADIENTS:
        raise RecordError(f"gradients={gradients!r}, expected one of {', '.join(map(repr, GRADIENTS))}.")
    named = named_probes({} if in_pieces else probes or {})
    if named and loss is None and objective is None:
        raise RecordError(
            "Probes are given but no loss, so per-example losses and gradients have no meaning: pass loss=, "
            "for example loss=F.cross_entropy, or objective=."
        )
    again = resume is not False and has_begun(path)
    if not again:
        check_free(path, exists)

    def instrument() -> Instrument:
        if in_pieces:
            streams, resuming = schedules.keys() - {"weights"}, resume is not False
            return ranks.Sharded(model, in_pieces, streams, resuming=resuming, budget=budget is not None)
        made = Instrument(
            model,
            named,
            loss=loss,
            objective=objective,
            streams=schedules.keys() - {"weights"},
            gradients=gradients,
            sketch=Setting(tolerance),
            memory=memory,
            chunk=chunk,
            cost=cost,
            batch_size=batch_size,
            minibatch=captured,
        )
        if probes is None:
            made.notes.append(_NO_PROBES)
        return made

    def writer(ready: Instrument) -> tuple[Writer, ResumePoint | None]:
        training_set = None if data is None else dataset.read(data, inputs=data_inputs)
        if training_set is not None:
            ready.notes += training_set.notes
        known = ready.card
        tokens = any("tokens" in probe["capture"] for probe in (known.get("probes") or {}).values())
        taken = {stream: schedule for stream, schedule in schedules.items() if tokens or stream != "tokens"}
        settings = {
            "model": card.describe_model(model),
            "optimizer": card.describe_optimizers(in_use(optimizer)),
            "loss": card.name_of(loss if objective is None else objective),
            "snapshots": {stream: repr(schedule) for stream, schedule in taken.items()},
            "environment": card.describe_environment(command),
            "budget": budget,
            "mirror": None if mirrored is None else mirrored.card,
            "memory": memory,
            "chunk": chunk,
            "attributes": card.plain(attributes or {}),
            **known,
        }
        described = {
            "title": title or name_of(str(path)),
            "card": settings,
            "notes": ready.notes,
            **ready.tables,
        }
        resumed = None
        if again:
            ranks.check_world(path, process)
            resumed = ranks.unhurried(lambda: find(path, ready, None if resume is True else resume))
            made = take_up(path, step=resumed.step, **options)
        else:
            if exists == "overwrite":
                clear(path)
            made = Writer(path, attributes=described, **options)
        try:
            process.declare(made)
            ready.declare(made, resumed)
            if training_set is not None:
                training_set.write(made)
        except BaseException:
            made.close("interrupted")
            raise
        return made, resumed

    return Recorder(optimizer, schedules, instrument, writer, share, mirrored)
