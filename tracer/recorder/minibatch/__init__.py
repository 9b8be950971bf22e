"""In-flight capture: the training minibatch as its own ordinary forward pass saw it, in train mode.

A batch that `run.batches` delivers opens a slot with room for its examples. Forward passes of the model in
training mode, with gradients on, fill it in order; an update takes what its slots hold. So a forward pass in
eval mode, one between an update and the next batch, and one more over examples already seen count for
nothing, and the rows of `minibatch/` always are those of `steps/ids`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from math import inf, prod
from typing import Any

import numpy as np
import torch
from torch import nn

from tracer.errors import RecordError, did_you_mean, first_line
from tracer.network import Network
from tracer.network.hooks import Hook
from tracer.network.pytree import examples_in, first_tensor, leaves_of
from tracer.network.torch_internals import within_transform
from tracer.probe.observe import Units
from tracer.recorder.forward.observer import Watch
from tracer.recorder.minibatch.capture import Captured, Part, Slot, part_of
from tracer.recorder.minibatch.losses import MinibatchLosses
from tracer.schedule import Schedule
from tracer.spec import OBJECT_BYTES, ids_rows
from tracer.spec.correctness import Correctness
from tracer.writer import Writer

NAMES = ("loss", "correct", "sums", "masks")
MASKS = "minibatch/masks"
_UNSEEN_BATCH = (
    "No training forward pass of the recorded model was seen between a batch of run.batches and its update, "
    "so minibatch= captured nothing there: call the very model given to record, in training mode, on those "
    "batches"
)
_MORE = (
    "The model ran over more examples than the batch delivered to it: only the first pass over each batch is "
    "captured by minibatch="
)
_TRANSFORMED = (
    "The model ran within torch.func (vmap, grad), where one forward pass is many and no value can be looked at: "
    "minibatch= captured nothing there"
)
_NO_TARGETS = (
    "The batches are no (inputs, targets) pairs, so the loss and correctness of minibatch examples are not "
    "known: give run.step(targets=...) after each update"
)


def unfinished_bytes(names: Collection[str], network: Any) -> int:
    """Bytes kept of the columns that are asked for, until their objects are full."""
    columns = _columns(names, network).values()
    widths = [prod(shape) * np.dtype(dtype).itemsize for dtype, shape, _ in columns]
    return sum(ids_rows(width)[0] * width for width in widths) + OBJECT_BYTES * ("masks" in names)


def _columns(names: Collection[str], network: Any) -> dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]]:
    """The columns of these names: dtype, shape and dimensions of a row, by array."""
    arrays: dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]] = {}
    if "loss" in names:
        arrays["loss"] = ("float64", (), ())
    if "correct" in names:
        arrays["correct"] = ("int8", (), ())
    if "sums" in names and network is not None:
        counts = {"pre": ("call", len(network.calls)), "post": ("site", len(network.sites))}
        arrays |= {name: ("float32", (n,), (dim,)) for name, (dim, n) in counts.items() if n}
    return arrays


def wanted(minibatch: Any, usual: Schedule) -> dict[str, Schedule | None]:
    """What `minibatch=` asks for, by name; masks come with their schedule (default: the usual one of masks).

    RecordError for a name or schedule there is not.

    >>> from tracer.schedule import every
    >>> wanted(True, every(5))["masks"], wanted({"masks": every(2)}, every(5)), wanted(False, every(5))
    (every(5), {'masks': every(2)}, {})
    """
    if minibatch is None or isinstance(minibatch, bool):
        minibatch = NAMES if minibatch else ()
    if isinstance(minibatch, str) or not isinstance(minibatch, Collection):
        raise RecordError(
            f"minibatch={minibatch!r}, expected True, names among {', '.join(NAMES)}, or a mapping from such "
            "names to True and, for masks, a schedule such as tracer.every(100)."
        )
    chosen: dict[str, Schedule | None] = {}
    for name in minibatch:
        if name not in NAMES:
            raise RecordError(f"minibatch names {name!r}, {did_you_mean(name, NAMES)}.")
        when = minibatch[name] if isinstance(minibatch, Mapping) else True
        if not (isinstance(when, bool) or (name == "masks" and isinstance(when, Schedule))):
            raise RecordError(
                f"minibatch[{name!r}] is {when!r}: masks take a schedule, everything else is taken at every "
                "update."
            )
        if when:
            chosen[name] = None if name != "masks" else usual if when is True else when
    return chosen


class InFlight:
    """Captures training minibatches of a model while it is attached.

    network: its table, None where there is none. wanted: see `wanted`. note: takes sentences for the user.
    objective: whether an objective stands for the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        network: Network | None,
        wanted: Mapping[str, Schedule | None],
        *,
        loss: Any,
        note: Callable[[str], None],
        objective: bool = False,
        rule: Correctness | None = None,
    ) -> None:
        self._model, self._network, self._note = model, network, note
        inside = {"sums", "masks"} & wanted.keys()
        self.watch = Watch(model, network if inside else None, sums="sums" in inside, failed=self._fail)
        self._names = set(wanted) - set(self._impossible(wanted, loss, objective))
        self._masks = wanted.get("masks") if "masks" in self._names else None
        self._losses = MinibatchLosses(
            loss, losses="loss" in self._names, correct="correct" in self._names, note=note, rule=rule
        )
        self._units = Units.of([] if network is None else network.sites)
        self._slots: list[Slot] = []
        self._part_of: Slot | None = None  # the slot of the forward pass that is running
        self._spoilt = False  # whether looking at it failed
        self._due = self._looked = False
        self._batches_left: float = inf
        self._slots_before: float = inf  # not known before the first update
        self._width = 0
        self._masked: set[int] = set()
        self._handles: list[Any] = []
        self._blanks: dict[str, tuple[np.dtype, tuple[int, ...], float]] = {}

    def _impossible(self, wanted: Mapping[str, Any], loss: Any, objective: bool) -> Iterator[str]:
        if "loss" in wanted and loss is None:
            self._note(
                "no losses of minibatches are captured: give loss=, an objective runs the model itself"
            )
            yield "loss"
        if "correct" in wanted and objective:
            self._note(
                "no correctness of minibatches is captured: it belongs to the loss, and an objective runs the model "
                "itself; give loss="
            )
            yield "correct"
        inside = [name for name in ("sums", "masks") if name in wanted]
        if not inside:
            return
        nothing = f"no {' and '.join(inside)} of minibatches are captured"
        if self._network is None:
            self._note(
                f"{nothing}: no network table names calls and sites; give probes, and see the other notes"
            )
            yield from inside
        elif self.watch.level == "outputs":
            self._note(
                f"{nothing}: looking inside a model that is compiled or replicated as a whole would "
                "recompile it, or miss its replicas; record the eager model for these"
            )
            yield from inside
        elif self.watch.level == "modules":
            self._note(
                "parts of the model are compiled, so minibatch= sees only modules outside of them, and no "
                "functional calls: the rest is NaN"
            )

    @property
    def card(self) -> dict[str, Any]:
        """What the card says of the capture."""
        return {
            "captured": [name for name in NAMES if name in self._names],
            "masks": None if self._masks is None else repr(self._masks),
            "level": self.watch.level,
        }

    # Following the loop.

    def attach(self) -> None:
        """Put hooks on the model."""
        if self._names & {"sums", "masks"}:
            self.watch.attach()
        root = self._model
        if getattr(root, "_compiled_call_impl", None) is None:  # its hooks would be compiled in
            self._handles = [
                root.register_forward_pre_hook(Hook(self._before, self._fail), with_kwargs=True),
                root.register_forward_hook(Hook(self._after, self._fail), always_call=True),
            ]

    def _fail(self, error: Exception) -> None:
        """Leave out the forward pass at which looking failed."""
        self._spoilt = True
        self._note(f"Looking at a training forward pass failed ({first_line(error)}): minibatch= left it out")

    def detach(self) -> None:
        """Take all hooks off."""
        self.watch.detach()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._slots.clear()

    def follow(
        self, batches: Iterable[Any], loader: Any, now: Callable[[], tuple[int, int, np.ndarray | None]]
    ) -> Iterator[Any]:
        """The same batches; `now()` gives step and epoch of the update to come, and the ids just delivered."""
        try:
            self._batches_left = len(loader)
        except TypeError:
            self._batches_left = inf
        for batch in batches:
            step, epoch, ids = now()
            self._batches_left -= 1
            self._deliver(step, epoch, examples_in(batch) if ids is None else len(ids), batch)
            yield batch

    def _deliver(self, step: int, epoch: int, n: int, batch: Any) -> None:
        pair = isinstance(batch, tuple | list) and len(batch) > 1
        self._slots.append(Slot(n, batch[1] if pair and leaves_of(batch[1]) else None))
        if self._masks is not None:
            # Whether this update will end the epoch is not known before it: it may where too few batches would be
            # left for another of as many as the last one had. What was taken for nothing is not written.
            left = self._batches_left - max(0, self._slots_before - len(self._slots))
            self._due = self._masks.due(step) or (
                left < self._slots_before and self._masks.due(step, epoch_end=epoch)
            )

    # The forward pass.

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling() or self._part_of is not None or not self._slots:
            return
        if module is not self._model or not module.training or not torch.is_grad_enabled():
            return
        if within_transform():
            self._note(_TRANSFORMED)
            return
        slot = self._slots[-1]
        n = examples_in((args, kwargs)) or slot.n - slot.filled
        if slot.filled + n > slot.n:
            self._note(_MORE)
            return
        self._part_of, self._spoilt = slot, False
        start = sum(other.n for other in self._slots[:-1]) + slot.filled
        self.watch.begin(n, start % 8 if self._due else None)

    def _after(self, module: nn.Module, args: Any, outputs: Any) -> None:
        slot, self._part_of = self._part_of, None
        if slot is None:
            return
        part = Part(self.watch.end())
        if outputs is None or self._spoilt:  # an exception passed
            return
        if self._losses.wanted:
            if slot.targets is None:
                scores = first_tensor(outputs)
                part.outputs, part.version = outputs, scores._version if scores is not None else 0
            else:
                self._losses(part, outputs, part_of(slot.targets, slot.filled, part.seen.n, slot.n))
        slot.parts.append(part)
        slot.filled += part.seen.n

    # The update.

    def collect(self) -> Captured | None:
        """What was captured for the update just made; None without a batch."""
        slots, self._slots = self._slots, []
        if not slots:
            return None
        self._slots_before = len(slots)
        captured = Captured(slots)
        if captured.empty:
            self._note(_UNSEEN_BATCH)
        elif not self._looked and self._names & {"sums", "masks"}:
            self._looked = True
            self._compare_names()
        return captured

    def targets(self, captured: Captured | None, targets: Any) -> None:
        """Take the targets of the examples of an update."""
        if captured is not None:
            captured.add_losses(targets, self._losses)

    def _compare_names(self) -> None:
        if self.watch.unknown:
            self._note(
                f"In training the model also calls {_listed(sorted(self.watch.unknown))}, which its table, "
                "made in eval mode, does not have: minibatch= does not capture them"
            )
        if unseen := self.watch.unseen():
            self._note(
                f"Training forward passes did not show {_listed(unseen)}: their minibatch sums are NaN, "
                "their masks missing"
            )

    # The archive.

    def declare(self, writer: Writer) -> None:
        """Declare the columns of `minibatch`."""
        arrays = _columns(self._names, self._network)
        self._blanks = {
            name: (np.dtype(dtype), shape, -1 if dtype == "int8" else np.nan)
            for name, (dtype, shape, _) in arrays.items()
        }
        captured = [name for name in NAMES if name in self._names]
        writer.ragged("minibatch", arrays, {"mode": "train", "captured": captured})

    def write(
        self, writer: Writer, step: int, epoch_end: int, ids: np.ndarray | None, captured: Captured | None
    ) -> dict[str, np.ndarray] | None:
        """The columns of an update, by path, for its row; its masks are written here, where they are due.

        epoch_end: number of the epoch that it ended, 0 where it ended none.
        """
        if captured is None or ids is None:
            return None
        if len(ids) != captured.n:
            self._note(
                f"Update {step} has {len(ids)} ids where {captured.n} examples were delivered: what "
                "minibatch= captured of it is left out"
            )
            return None
        if captured.undecided:
            self._note(_NO_TARGETS)
        if captured.masked and self._masks is not None and self._masks.due(step, epoch_end):
            self._write_masks(writer, step, epoch_end > 0, captured)
        blank = {
            name: np.full((captured.n, *shape), value, dtype)
            for name, (dtype, shape, value) in self._blanks.items()
        }
        return {f"minibatch/{name}": values for name, values in captured.fill(blank).items()}

    def _write_masks(self, writer: Writer, step: int, epoch_end: bool, captured: Captured) -> None:
        assert self._network is not None
        if not self._width:
            self._width, self._masked = -(-captured.n // 8), captured.sites()
            missing = [
                site.name
                for i, site in enumerate(self._network.sites)
                if site.has_mask and i not in self._masked
            ]
            shape = (self._units.n_masks, self._width)
            arrays = {"bits": ("uint8", shape, ("unit", "masks_byte")), "n": ("int32", (), ())}
            writer.stream(MASKS, arrays, {"missing": missing})
        if captured.sites() < self._masked:
            self._note(
                f"At step {step} not every site ran in training: there are no minibatch masks of such updates"
            )
            return
        if captured.n > 8 * self._width:
            self._note(
                f"Update {step} has more examples than the first one with masks: only those of the first "
                f"{8 * self._width} are kept"
            )
        bits = captured.bits(self._units)[:, : self._width]
        bits = np.pad(bits, ((0, 0), (0, self._width - bits.shape[1])))
        n = np.array(min(captured.n, 8 * self._width), np.int32)
        writer.append(MASKS, step, epoch_end, {"bits": bits, "n": n})


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
