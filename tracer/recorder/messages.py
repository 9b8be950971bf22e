"""What a recording warns of."""

NOT_OPEN = (
    "This recorder is not open: use it inside `with tracer.record(...) as run:`, or between run.start() and "
    "run.close()."
)
PREFETCH = (
    "Update {step} came without a batch from run.batches while an earlier one had two: something outside "
    "run.batches fetches ahead, so recorded ids may belong to neighbouring updates; iterate the prefetcher "
    "through run.batches(prefetcher, ids=function_of_a_batch) instead."
)
MIRROR = (
    "The mirror failed at update {step} and gets no more scalars; recording goes on: see the tracker's own "
    "messages."
)
NAN_LOSS = (
    "The loss of update {step} is NaN; recording goes on and metrics count such values as undefined: look "
    "for the first bad batch with archive.ids({step}), or lower the learning rate."
)


EARLY_LOSS = (
    "A loss was logged before the first update, so each is taken for that of the update before: call "
    "run.step(loss=...) or run.log(loss=...) after optimizer.step(), or iterate run.batches(loader)"
)


class RecordWarning(UserWarning):
    """Something is recorded in another way than asked for, or not at all, and why."""
