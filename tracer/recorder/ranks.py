"""Training on several processes: what can be recorded of it, and what is refused."""

import torch
from torch import nn

from tracer.errors import RecordError
from tracer.network.copies import unwrap


def check_ranks(model: nn.Module) -> None:
    """RecordError on ranks other than 0, whose updates are the same ones, and for models held in pieces."""
    split = next((name for name, p in unwrap(model).named_parameters() if hasattr(p, "full_tensor")), None)
    if split is not None or type(model).__name__ == "FullyShardedDataParallel":
        raise RecordError(
            f"The parameters of this model ({split or 'FullyShardedDataParallel'}) are sharded over "
            "processes, and none holds the network that a probe has to go through: record the model under "
            "DistributedDataParallel, or a run of it on one process."
        )
    rank = torch.distributed.get_rank() if _initialized() else 0
    if rank:
        raise RecordError(
            f"This is rank {rank}, and every rank makes the same updates: record on rank 0 only, with its "
            "own batches as ids, and let other ranks iterate their loader without run.batches."
        )


def _initialized() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
