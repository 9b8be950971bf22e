"""Lightning: `Trainer(callbacks=[Recording(path, loss=..., probes=...)])`.

Lightning makes the iterator of its loader before any event of the training, so the loader is replaced, as a
strategy may do it, by a copy whose sampler notes what it draws.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tracer.integrations.following import Following
from tracer.recorder.batches import NotingSampler, Single, ids_of, in_order, noting_copy, single, unknown_ids

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        from lightning.pytorch import Callback, LightningModule, Trainer
    except ImportError as error:
        raise ImportError(
            "Recording in Lightning needs the package lightning: pip install 'tracer-nn[lightning]'."
        ) from error

__all__ = ["Recording"]


class Recording(Following, Callback):
    """Records what `Trainer.fit` does, from its first update to its last; `resume=True` goes with `ckpt_path=`.

    path, options: of `tracer.record`, without model and optimizer. ids: example ids of a batch, where the loader
    cannot tell them. module: name of the submodule to record, if not the whole module. optimizer: which of
    several counts updates. run: the recorder, for `run.log` and `run.notes`.
    """

    def __init__(self, path: str | Path, *, optimizer: int = 0, **options: Any) -> None:
        super().__init__(path, **options)
        self._optimizer = optimizer
        self._updates = 0
        self._sentences: list[str] = []  # about the loader, which is made before the recording begins

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the loader of the training, once it is made, note what is drawn."""
        if stage != "fit" or self._ids is not None:
            return
        process = trainer.strategy.process_dataloader

        def processed(dataloader: Any) -> Any:
            loader: Any = process(dataloader)
            known = trainer.training and unknown_ids(loader) is None
            return single(noting_copy(loader, self._sentences.append)) if known else loader

        trainer.strategy.process_dataloader = processed  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the recording: weights are those of a checkpoint already, if there is one."""
        batches = trainer.num_training_batches
        optimizer = trainer.optimizers[self._optimizer]
        self._start(pl_module, optimizer, batches if isinstance(batches, int) else None)
        self._updates = trainer.global_step
        for sentence in self._sentences:
            self._say(sentence)
        reason = None if self._ids is not None else _unknown(trainer, pl_module)
        if reason is not None:
            self._no_ids(reason)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch begins."""
        if self._relay is not None:
            self._relay.begin_epoch()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch is about to be trained on."""
        if self._following:
            self._train_on(
                batch, _noted(trainer, pl_module, batch, self._say) if self._ids is None else self._ids(batch)
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch was trained on, and perhaps an update made."""
        if batch is None:
            _noted(trainer, pl_module, batch, self._say)  # it was not announced
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        if isinstance(loss, Tensor) and pl_module.automatic_optimization:
            self._losses.append(loss)
        if trainer.global_step > self._updates:
            self._updates = trainer.global_step
            self._log_loss()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation metrics are there."""
        if not trainer.sanity_checking:
            self._log_metrics(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch ended, if all its batches were trained on."""
        if self.run is not None and self._following and trainer.is_last_batch:
            self.run.end_epoch()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint is about to be written: the archive must not be behind it."""
        if self.run is not None and self._following:
            self.run.flush()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training is over."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The training broke off."""
        self._stop(type(exception))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the strategy as it was."""
        trainer.strategy.__dict__.pop("process_dataloader", None)


def _unknown(trainer: Trainer, pl_module: LightningModule) -> str | None:
    if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
        return "a training_step that takes batches from the loader itself"
    return unknown_ids(trainer.train_dataloader)


def _noted(trainer: Trainer, pl_module: LightningModule, batch: Any, note: Callable[[str], None]) -> Any:
    """Ids of the batch that is trained on now, None where they are not known."""
    loader: Any = trainer.train_dataloader
    sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(sampler, NotingSampler) or _unknown(trainer, pl_module) is not None:
        return None
    ids = ids_of(loader, batch, sampler.noted, note)
    return in_order(ids, loader.orders.popleft() if isinstance(loader, Single) else None, note)
