"""Objectives of the common heads of Transformers models: outputs, losses and what is correct, from each model's own.

`inputs` are what the model takes by name (input_ids, attention_mask, ...), `targets` its labels, -100 where there is
none. The loss of an example is the mean over its own labels, where the library takes the mean over all labels of a
batch. Only names are asked of a model, so nothing here imports the library.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tracer.errors import RecordError
from tracer.network.copies import unwrap

Returned = dict[str, Tensor]


def causal_lm(model: nn.Module, inputs: Any, targets: Tensor) -> Returned:
    """Each position predicts the next token."""
    return _classes(_logits(model, inputs)[:, :-1], targets[:, 1:])


def masked_lm(model: nn.Module, inputs: Any, targets: Tensor) -> Returned:
    """Each position that was masked predicts its own token."""
    return _classes(_logits(model, inputs), targets)


def token_classification(model: nn.Module, inputs: Any, targets: Tensor) -> Returned:
    """Each token has a class."""
    return _classes(_logits(model, inputs), targets)


def seq2seq_lm(model: nn.Module, inputs: Any, targets: Tensor) -> Returned:
    """Each position of the decoder, which is given the target's earlier tokens, predicts the target's token."""
    return _classes(model(**inputs, labels=targets).logits, targets)


def sequence_classification(model: nn.Module, inputs: Any, targets: Tensor) -> Returned:
    """Each sequence has a class, several labels, or numbers, as the model's `config.problem_type` says.

    Numbers are neither right nor wrong: nothing then says what is correct.
    """
    logits = _logits(model, inputs)
    problem = getattr(unwrap(model).config, "problem_type", None)
    if problem is None:
        one = logits.shape[1] == 1
        problem = (
            "regression"
            if one
            else "multi_label_classification"
            if targets.is_floating_point()
            else "single_label_classification"
        )
    if problem == "single_label_classification":
        return _classes(logits, targets)
    targets = targets.reshape(logits.shape).to(logits.dtype)
    if problem == "multi_label_classification":
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        return {"outputs": logits, "losses": losses, "targets": targets}
    return {"outputs": logits, "losses": (logits - targets).square().mean(1)}


HEADS: dict[str, Callable[..., Returned]] = {
    "ForCausalLM": causal_lm,
    "LMHeadModel": causal_lm,
    "ForMaskedLM": masked_lm,
    "ForTokenClassification": token_classification,
    "ForSequenceClassification": sequence_classification,
    "ForConditionalGeneration": seq2seq_lm,
}


def objective_of_head(model: nn.Module) -> Callable[..., Returned]:
    """The objective of a model by the head that its class is named after; RecordError where that is none of these.

    >>> class TinyForCausalLM(nn.Module): ...
    >>> objective_of_head(TinyForCausalLM()).__name__
    'causal_lm'
    """
    names = [kind.__name__ for kind in type(unwrap(model)).__mro__]
    for name in names:
        for suffix, objective in HEADS.items():
            if name.endswith(suffix):
                return objective
    raise RecordError(
        f"Recording: {names[0]} has none of the heads {', '.join(HEADS)}, so its loss is not known: give "
        "objective=(model, inputs, targets) -> (outputs, losses), or loss=."
    )


def _logits(model: nn.Module, inputs: Any) -> Tensor:
    logits = model(**inputs).logits if isinstance(inputs, dict) else model(inputs).logits
    return logits


def _classes(logits: Tensor, targets: Tensor) -> Returned:
    """Cross entropy of each example: logits (example, ..., class) and class numbers (example, ...), -100 left out."""
    losses = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    if targets.ndim > 1:
        losses = losses.reshape(targets.shape).sum(1) / (targets != -100).sum(1)
    return {"outputs": logits, "losses": losses, "targets": targets}
