"""Recurrent networks: hidden states handed on, cells, packed sequences, teacher forcing, state spaces."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Batch, Case, N

LENGTH, WIDTH, WORDS = 5, 4, 7


class Recurrent(nn.Module):
    """forward(x, hidden) -> (scores, hidden), as recurrent networks trained in pieces have it."""

    def __init__(self, kind: str = "GRU") -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(WIDTH, 6, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        h, hidden = self.rnn(x, hidden)
        return self.out(h[:, -1]), hidden


def from_zero(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    out, _ = model(inputs)
    return out, F.cross_entropy(out, targets, reduction="none")


def handed_on(model: nn.Module, inputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden state (example, layer, channel) is an input."""
    x, hidden = inputs
    out, _ = model(x, hidden.transpose(0, 1).contiguous())
    return out, F.cross_entropy(out, targets, reduction="none")


def both_states(model: nn.Module, inputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    hidden = tuple(inputs[name].transpose(0, 1).contiguous() for name in ("h", "c"))
    out, _ = model(inputs["x"], hidden)
    return out, F.cross_entropy(out, targets, reduction="none")


class Cell(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell, self.out = getattr(nn, kind)(WIDTH, 6), nn.Linear(6, 3)
        self.long = kind == "LSTMCell"

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.out(state[0] if self.long else state)


class Packed(nn.Module):
    """Packs sequences of different lengths, which reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(WIDTH, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.out(self.rnn(packed)[1][-1])


class Seq2Seq(nn.Module):
    """Encoder and decoder; the decoder is fed the true words before (teacher forcing)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.encoder, self.decoder = nn.GRU(WIDTH, 6, batch_first=True), nn.GRU(WIDTH, 6, batch_first=True)
        self.out = nn.Linear(6, WORDS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        _, state = self.encoder(self.words(source))
        return self.out(self.decoder(self.words(target), state)[0])


def teacher_forcing(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    before = F.pad(targets[:, :-1], (1, 0))
    scores = model(inputs, before)
    return scores, F.cross_entropy(scores.movedim(2, 1), targets, reduction="none").mean(1)


class StateSpace(nn.Module):
    """A selective state space, as Mamba's: gated, with a scan over time."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(WORDS, WIDTH), nn.RMSNorm(WIDTH)
        self.inside = nn.Linear(WIDTH, 2 * WIDTH)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=2, groups=WIDTH)
        self.rates = nn.Parameter(torch.log(torch.arange(1.0, 4.0)).repeat(WIDTH, 1))
        self.select, self.skip = nn.Linear(WIDTH, WIDTH + 6), nn.Parameter(torch.ones(WIDTH))
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(x)
        a, gate = self.inside(self.norm(h)).chunk(2, 2)
        a = F.silu(self.conv(a.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        step, write, read = self.select(a).split([WIDTH, 3, 3], 2)
        step = F.softplus(step)
        decay = torch.exp(-step[..., None] * self.rates.exp())
        state, outputs = torch.zeros_like(decay[:, 0]), []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + (step * a)[:, t, :, None] * write[:, t, None]
            outputs.append((state * read[:, t, None]).sum(2))
        y = torch.stack(outputs, 1) + a * self.skip
        return self.head(h + y * F.silu(gate))


def next_word(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(outputs.movedim(2, 1), targets, reduction=reduction)


def series() -> Tensor:
    return torch.randn(N, LENGTH, WIDTH)


def classes() -> Tensor:
    return torch.arange(N) % 3


def words() -> Tensor:
    return torch.randint(1, WORDS, (N, LENGTH))


def plain() -> Batch:
    return series(), classes()


def with_state() -> Batch:
    return (series(), torch.randn(N, 1, 6)), classes()


def with_states() -> Batch:
    return {"x": series(), "h": torch.randn(N, 1, 6), "c": torch.randn(N, 1, 6)}, classes()


S = "sequences"
CE = nn.CrossEntropyLoss()
CASES = [
    Case("RNN, hidden state from zero", S, lambda: Recurrent("RNN"), plain, objective=from_zero),
    Case("GRU, hidden state handed on", S, Recurrent, with_state, objective=handed_on),
    Case("LSTM, both states handed on", S, lambda: Recurrent("LSTM"), with_states, objective=both_states),
    Case("LSTMCell in a loop", S, lambda: Cell("LSTMCell"), plain, CE),
    Case("GRUCell in a loop", S, lambda: Cell("GRUCell"), plain, CE),
    Case(
        "packed sequences",
        S,
        Packed,
        lambda: ((series(), torch.arange(N) % 4 + 2), classes()),
        CE,
        eager=True,
    ),
    Case(
        "encoder and decoder, teacher forcing",
        S,
        Seq2Seq,
        lambda: (words()[:, :3], words()[:, :3]),
        objective=teacher_forcing,
    ),
    Case("nn.Transformer encoder, padding mask", S, lambda: Padded(), lambda: (words(), classes()), CE),
    Case("state space (Mamba-like)", S, StateSpace, lambda: (words(), words()), next_word),
]


class Padded(nn.Module):
    """Encoder layers of PyTorch, which leave out padded words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 8, padding_idx=1)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(self.words(x), src_key_padding_mask=x == 1)[:, 0])
