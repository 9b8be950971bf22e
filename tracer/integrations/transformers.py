"""Hugging Face Transformers: `Trainer(callbacks=[Recording(path, objective=..., probes=...)])`.

The Trainer takes the batches of an update ahead, one more is fetched to know the last, and an epoch that is taken
up again gets a loader of its own. So the loader is followed where it is iterated, and each batch is told of when
its turn comes. There is no event for a training that breaks off: it is seen by the loader being dropped within an
epoch, and at once where the Recording is used as a context manager.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from tracer.integrations.accelerate import hear_losses
from tracer.integrations.following import Following
from tracer.integrations.heads import objective_of_head
from tracer.network.torch_internals import Replaced
from tracer.recorder.batches import noted_in_place, unknown_ids

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "Recording in Transformers needs the package transformers: pip install 'tracer-nn[transformers]'."
    ) from error

__all__ = ["Recording"]


class Recording(Following, TrainerCallback):
    """Records what `Trainer.train` does; `resume=True` goes with `resume_from_checkpoint=`.

    path, options: of `tracer.record`, without model and optimizer; without loss and objective, that of the model's
    head is taken (`tracer.integrations.heads`: causal, masked and sequence-to-sequence language models, token and
    sequence classification), for probes of (inputs by name, labels). ids: example ids of a batch, where the loader
    cannot tell them. module: name of the submodule to record, if not the whole model. run: the recorder, for
    `run.log` and `run.notes`.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Begin the recording: weights are those of a checkpoint already, if there is one."""
        train_dataloader = others["train_dataloader"]
        if self._options.get("probes") and not {"loss", "objective"} & self._options.keys():
            self._options["objective"] = objective_of_head(others["model"])
        self._start(others["model"], others["optimizer"], _length(train_dataloader))
        self._waiting: deque[tuple[Any, Any]] = deque()
        self._loader, self._in_epoch = train_dataloader, False
        self._replaced = [
            Replaced(type(train_dataloader), "__iter__", self._iterated),
            hear_losses(self._losses.append),
        ]
        self._unknown = None if self._ids is not None else unknown_ids(train_dataloader)
        if self._unknown is not None:
            self._no_ids(self._unknown)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An epoch begins."""
        if self._relay is not None:
            self._in_epoch = True
            self._waiting.clear()
            self._relay.begin_epoch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The first batch of an update is about to be trained on."""
        self._next_batch()

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One batch of an update was trained on, and another one comes."""
        if not (control.should_epoch_stop or control.should_training_stop):
            self._next_batch()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An update was made."""
        self._log_loss()

    def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """An evaluation was made."""
        self._log_metrics(others["metrics"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An epoch ended, if all its batches were trained on."""
        self._in_epoch = False
        if self.run is not None and self._following and float(state.epoch or 0).is_integer():
            self.run.end_epoch()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint was written: the archive must not be behind it."""
        if self.run is not None and self._following:
            self.run.flush()

    def on_log(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """The summary of the training is there; afterwards the best weights may be put in place of the last."""
        if "train_runtime" in others["logs"]:
            self._stop()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The training is over."""
        self._stop()

    def _stop(self, kind: type[BaseException] | None = None) -> None:
        if self._following:
            for replaced in reversed(self._replaced):
                replaced.stop()
        super()._stop(kind)

    def _next_batch(self) -> None:
        if self._following and self._waiting:
            batch, ids = self._waiting.popleft()
            # Batches are dictionaries; what they hold of targets is told apart, as in other loops.
            self._train_on((batch, batch["labels"]) if "labels" in batch else batch, ids)

    def _iterated(self, iterate: Callable[..., Any]) -> Callable[..., Any]:
        def iterator(loader: Any) -> Any:
            return (
                self._followed(loader, lambda: iterate(loader)) if self._is_ours(loader) else iterate(loader)
            )

        return iterator

    def _is_ours(self, loader: Any) -> bool:
        """Whether this is the loader of the training, or what is left of it in an epoch taken up again."""
        skipping = getattr(getattr(loader, "batch_sampler", None), "batch_sampler", None)
        ours = getattr(self._loader, "batch_sampler", None)
        return loader is self._loader or (ours is not None and skipping is ours)

    def _followed(self, loader: Any, iterate: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        if self._ids is None and self._unknown is None:
            return self._queued(noted_in_place(loader, iterate, self._say))
        tell = self._ids or (lambda batch: None)
        return self._queued((batch, tell(batch)) for batch in iterate())

    def _queued(self, batches: Iterator[tuple[Any, Any]]) -> Iterator[Any]:
        try:
            for pair in batches:
                self._waiting.append(pair)
                yield pair[0]
        except BaseException as error:
            if self._in_epoch and not sys.is_finalizing():
                self._stop(type(error))
            raise


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None
