"""A small GPT on real text, character by character: record it, compute every metric, look at single tokens.

    python examples/tiny_gpt.py

Trains on the beginning of Alice's Adventures in Wonderland (Lewis Carroll, 1865, in the public domain), or on `--text`,
and tests on its last tenth. Leaves tiny_gpt.zarr, and results with a report in tiny_gpt.analysis.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import analyze
import tracer

TEXT = Path(__file__).parent / "text" / "alice.txt"
LENGTH = 64  # characters that the network sees
FEW = ("generalization", "token_prediction", "stiffness")  # with --quick


class Block(nn.Module):
    """Attention to earlier characters, then two layers with a ReLU between them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.relu = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Numbers (example, position, unit) to the same."""
        n, length, width = x.shape
        parts = self.mix(self.norm_1(x)).reshape(n, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(seen.transpose(1, 2).reshape(n, length, width))
        return x + self.down(self.relu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    """Characters (example, position) to scores of the next one (example, position, character)."""

    def __init__(self, characters: int, width: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.character = nn.Embedding(characters, width)
        self.position = nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the next character at each position."""
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.character(x) + self.position(places))))


def cross_entropy(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Loss of every character that follows; with reduction="none", (example, position)."""
    return F.cross_entropy(outputs.transpose(1, 2), targets, reduction=reduction)


def load(path: Path) -> tuple[list[str], list[Tensor]]:
    """The characters there are, and windows of text with the same moved by one character: train, then test."""
    text = path.read_text()
    characters = sorted(set(text))
    numbers = torch.tensor([characters.index(character) for character in text])
    cut = len(numbers) * 9 // 10
    train = numbers[:cut].unfold(0, LENGTH + 1, 8)
    test = numbers[cut:].unfold(0, LENGTH + 1, LENGTH)
    return characters, [train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:]]


def train(out: Path, data: list[Tensor], characters: int, epochs: int) -> None:
    x_train, y_train, x_test, y_test = data
    model = GPT(characters)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=32, shuffle=True)
    spread = np.linspace(0, len(x_train) - 1, 64).astype(int)  # windows from all of the text
    probe = tracer.Probe(x_train[spread], y_train[spread], ids=spread)

    with tracer.record(
        out,
        model,
        optimizer,
        loss=cross_entropy,
        probes={"train": probe, "test": (x_test, y_test)},
        snapshots=tracer.log_spaced() | tracer.epochs(4),
    ) as run:
        for epoch in range(epochs):
            for x, y in run.batches(loader):
                loss = cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.log(loss=loss)
            print(f"epoch {epoch + 1}: loss {loss.item():.3f} nats a character")


def hardest(archive: tracer.Archive, characters: list[str]) -> None:
    """Print the test characters that the trained network least expected, and what came before them."""
    probe = archive.probes["test"]
    log_prob = probe.tokens(int(probe.steps("tokens")[-1]))["log_prob"]
    for place in np.argsort(log_prob, axis=None)[:5]:
        example, token = np.unravel_index(place, log_prob.shape)
        before = "".join(characters[number] for number in probe.inputs[example, : token + 1])
        after = characters[probe.targets[example, token]]
        print(f"{np.exp(log_prob[example, token]):8.1e}  ...{before[-30:]!r} then {after!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Record a small GPT on real text and analyze it.")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--out", type=Path, default=Path("tiny_gpt.zarr"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="one epoch and few metrics: does it run?")
    options = parser.parse_args()
    torch.manual_seed(0)
    characters, data = load(options.text)
    train(options.out, data, len(characters), epochs=1 if options.quick else options.epochs)
    with tracer.open(options.out) as archive:
        hardest(archive, characters)
    results = analyze.run(options.out, metrics=FEW if options.quick else None)
    print("\n".join(finding.sentence for finding in results.findings))
    results.save(options.out.with_suffix(".analysis"))
    print(f"report: {options.out.with_suffix('.analysis') / 'report.html'}")


if __name__ == "__main__":
    main()
