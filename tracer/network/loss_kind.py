"""What a loss calls correct, found by listening to what it asks of PyTorch's own losses.

The loss is called once on outputs made up at random. What it then gives to `cross_entropy`, `nll_loss` or another
classification loss is looked for among these outputs and the targets: on which axis the classes lie, whether
positions are shifted against each other, whether outputs are logits or probabilities. Where the loss has no slope,
an answer does not count, which shows targets that are left out by hand.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tracer.network.copies import quiet
from tracer.network.objective import aligned_rule, loss_name, unreduced
from tracer.network.randomness import untouched_random_state
from tracer.spec.correctness import UNSAID, Correctness

_CLASS = (F.cross_entropy, F.nll_loss, F.multi_margin_loss)
_BINARY = (
    F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
    F.multilabel_soft_margin_loss,
    F.soft_margin_loss,
)
_NUMBERS = (
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.poisson_nll_loss,
    F.gaussian_nll_loss,
    F.kl_div,
    F.cosine_embedding_loss,
    F.triplet_margin_loss,
    F.margin_ranking_loss,
    F.hinge_embedding_loss,
    F.ctc_loss,
    F.multilabel_margin_loss,
)
_SEED = 20_250_211
_ELEMENTS = 1 << 22  # of the outputs that are made up
_EXAMPLES = 64

Call = tuple[Callable[..., Any], dict[str, Any]]


def correctness_of(loss: Callable[..., Any], outputs: Tensor, targets: Any) -> Correctness:
    """What `loss(outputs, targets)` calls correct.

    outputs: of any number of examples, of which only shape, dtype and device matter. targets: of as many as there
    are, the more the surer. The loss, or a copy of it, is called once; random streams stay as they are.
    """
    if not isinstance(targets, Tensor) or not isinstance(outputs, Tensor) or targets.ndim == 0:
        return Correctness(
            "none", reason=f"the targets of {_name(loss)} are not one tensor, so no answer is correct"
        )
    room = _ELEMENTS // max(1, outputs[0].numel())
    targets = targets[: max(2, min(_EXAMPLES, room))]
    made_up = _random(outputs, len(targets))
    try:
        with (
            untouched_random_state(loss),
            _Listening() as heard,
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            slopes = _slopes(unreduced(loss)[0](made_up, targets), made_up)
    except Exception:  # whatever the loss raises on outputs that are not the model's
        return _guessed(loss, made_up.detach(), targets, None)
    return _matched(loss, heard.calls, made_up.detach(), targets, slopes)


def judged(
    network: Any,
    tensors: Mapping[str, Tensor],
    few: tuple[Any, Any],
    targets: Any,
    loss: Any,
    said: Tensor | None = None,
) -> Correctness:
    """What the loss, or the objective where it is None, of a recorded network calls correct.

    few: inputs and targets of a few examples, which are run. targets: of all examples there are. said: targets of the
    few, as the objective returns them in line with its outputs.
    """
    stated = network.correct is not None
    if loss is None and not (stated and isinstance(few[1], Tensor)):
        return Correctness("none", stated=stated, reason="" if stated else UNSAID)
    with quiet(grad=False):
        outputs, _ = network.run(tensors, *few)
    if stated:
        return stated_rule(outputs, few[1], said)
    return correctness_of(
        loss, outputs, targets.to(outputs.device) if isinstance(targets, Tensor) else targets
    )


def stated_rule(outputs: Tensor, targets: Tensor, said: Tensor | None = None) -> Correctness:
    """What is known of classes where an objective states what is correct: the classes of plain class numbers.

    said: the targets as the objective returns them. Of one class a token they may be the probe's from some place on.
    """
    rule = aligned_rule(outputs, targets)
    classes = rule.kind == "class" and not targets.is_floating_point() and targets.ndim == 1
    if classes or (rule.kind == "binary" and outputs[0].numel() == 1):
        return replace(rule, stated=True)
    if said is not None and targets.ndim == 2 and not said.is_floating_point():
        rule, length = aligned_rule(outputs, said), said[0].numel()
        starts = range(targets.shape[1] - length + 1)
        same = [k for k in starts if torch.equal(said.reshape(len(said), -1), targets[:, k : k + length])]
        if rule.kind == "class" and same and said.ndim == 2:
            return replace(rule, first=same[0], stated=True)
        if rule.kind == "class" and same and said.ndim == 1:
            return replace(rule, token=same[-1], stated=True)
    return Correctness(
        "none",
        stated=True,
        reason="the objective says which examples are correct, but not of which class each is",
    )


class _Listening(TorchFunctionMode):
    """Notes the calls of PyTorch's losses."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _CLASS or func in _BINARY or func in _NUMBERS:
            bound = inspect.signature(func).bind(*args, **(kwargs or {}))
            bound.apply_defaults()
            self.calls.append((func, bound.arguments))
        return func(*args, **(kwargs or {}))


def _random(outputs: Tensor, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    # Within (0, 1), so that they may be logits as well as probabilities.
    values = torch.rand((n, *outputs.shape[1:]), generator=generator) * 0.98 + 0.01
    return values.to(outputs.device, outputs.dtype).requires_grad_()


def _slopes(losses: Tensor, outputs: Tensor) -> Tensor | None:
    """Size of the slope of all losses by each output."""
    if not losses.requires_grad:
        return None
    weights = torch.isfinite(losses).to(losses.dtype)
    (slope,) = torch.autograd.grad(losses, outputs, weights, allow_unused=True)
    return None if slope is None else slope.nan_to_num(0.0).abs()


def _matched(
    loss: Any, calls: list[Call], outputs: Tensor, targets: Tensor, slopes: Tensor | None
) -> Correctness:
    asked = [call for call in calls if call[0] not in _NUMBERS]
    matches = [_rule(*call, outputs, targets) for call in asked]
    rules = list(dict.fromkeys(rule for rule in matches if rule is not None))
    if len(rules) == 1:
        return _counted(rules[0], loss, outputs, targets, slopes)
    if rules:
        return Correctness("none", reason=f"{_name(loss)} has several notions of a correct answer")
    if asked:
        return Correctness(
            "none",
            reason=f"what {_name(loss)} gives to {asked[0][0].__name__} are not the outputs and targets themselves, "
            "so it does not say which examples are correct: return 'correct' from objective=",
        )
    if calls:
        return Correctness(
            "none",
            reason=f"{_name(loss)} compares numbers ({calls[0][0].__name__}): no answer is correct or wrong",
        )
    return _guessed(loss, outputs, targets, slopes)


def _rule(function: Any, options: dict[str, Any], outputs: Tensor, targets: Tensor) -> Correctness | None:
    """What one call of a classification loss says, if it was given these outputs and targets."""
    scores, true = options["input"].detach(), options["target"].detach()
    if function in _BINARY:
        return _binary(function, scores, true, outputs, targets)
    return _class(options.get("ignore_index"), scores, true, outputs, targets)


def _binary(
    function: Any, scores: Tensor, true: Tensor, outputs: Tensor, targets: Tensor
) -> Correctness | None:
    if scores.numel() != outputs.numel() or not _equal(true, targets) or true.numel() != outputs.numel():
        return None
    signed, flat, own = function is F.soft_margin_loss, scores.reshape(-1), outputs.reshape(-1)
    if function is F.binary_cross_entropy:
        if torch.allclose(flat, own, rtol=1e-3):
            return Correctness("binary", probabilities=True)
        flat = flat.logit()
    return Correctness("binary", signed=signed) if _proportional(flat, own) else None


def _class(
    ignore_index: int | None, scores: Tensor, true: Tensor, outputs: Tensor, targets: Tensor
) -> Correctness | None:
    if scores.ndim < 2:
        return None
    rows, n = scores.movedim(1, -1).reshape(-1, scores.shape[1]), len(outputs)
    for axis in range(1, outputs.ndim):
        if outputs.shape[axis] != rows.shape[1] or len(rows) % n:
            continue
        own = outputs.movedim(axis, -1).reshape(n, -1, rows.shape[1])
        shift = own.shape[1] - len(rows) // n
        if true.is_floating_point():
            same = targets.shape == outputs.shape and true.shape == scores.shape and shift == 0
            wanted = targets.movedim(axis, -1) if same else targets[:0]
            given = true.movedim(1, -1)
        else:
            wanted, given = targets.reshape(n, -1)[:, max(shift, 0) :], true
        if shift < 0 or not _equal(given, wanted):
            continue
        own = own[:, : own.shape[1] - shift].reshape(-1, rows.shape[1])
        if torch.equal(own.argsort(stable=True, dim=1), rows.argsort(stable=True, dim=1)):
            probabilities = torch.allclose(own.log(), rows, rtol=1e-3, atol=1e-4)
            ignored = None if true.is_floating_point() else ignore_index
            return Correctness("class", axis, ignored, shift, probabilities)
    return None


def _counted(
    rule: Correctness, loss: Any, outputs: Tensor, targets: Tensor, slopes: Tensor | None
) -> Correctness:
    """The rule, with a target that the loss leaves out by itself; no rule where what it leaves out is unclear."""
    if slopes is None or rule.kind != "class" or targets.is_floating_point():
        return rule
    _, counts, _ = rule.verdicts(outputs, targets)
    n = len(targets)
    moved = slopes.sum(rule.axis).reshape(n, -1)
    true = targets.reshape(n, -1)[:, rule.shift :]
    used = moved[:, : true.shape[1]] > 0
    if torch.equal(used, counts):
        return rule
    left_out = torch.unique(true[counts & ~used])
    alone = len(left_out) == 1 and not bool((used & (true == left_out[0])).any())
    if alone and not bool((used & ~counts).any()) and not bool((~counts).any()):
        return Correctness("class", rule.axis, int(left_out[0]), rule.shift, rule.probabilities)
    return Correctness(
        "none",
        reason=f"{_name(loss)} leaves out answers in a way that targets do not show: return 'correct' from objective=",
    )


def _guessed(loss: Any, outputs: Tensor, targets: Tensor, slopes: Tensor | None) -> Correctness:
    """Of a loss of the user's own: one class number for each example and one score for each class leave no doubt."""
    plain = targets.ndim == 1 and not targets.is_floating_point() and not targets.is_complex()
    if plain and outputs.ndim == 2 and outputs.shape[1] > 1:
        inside = (targets >= 0) & (targets < outputs.shape[1])
        if bool(inside.all()):
            return _counted(Correctness("class"), loss, outputs, targets, slopes)
    return Correctness(
        "none",
        reason=f"{_name(loss)} is a loss of your own that does not say which examples are correct: "
        "return 'correct' from objective=",
    )


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.numel() == b.numel() and torch.equal(
        a.reshape(-1).to(torch.float64), b.reshape(-1).to(torch.float64)
    )


def _proportional(a: Tensor, b: Tensor) -> bool:
    ratio = a.double().sum() / b.double().sum()
    return bool(ratio > 0) and torch.allclose(a.double(), ratio * b.double(), rtol=1e-3)


def _name(loss: Any) -> str:
    return f"the loss {loss_name(loss)}"
