"""What people train other than classifiers: generators, detectors, policies, and losses between examples."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Batch, Case, N
from tests.zoo.losses import SIZE, mlp


def vectors() -> Tensor:
    return torch.rand(N, SIZE)


class VAE(nn.Module):
    """The noise is an input: an example's loss would otherwise be another one each time."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = (
            mlp(width=4),
            nn.Sequential(nn.Linear(2, 7), nn.ReLU(), nn.Linear(7, SIZE)),
        )

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, 1)
        noise = torch.randn_like(mean) if noise is None else noise
        return self.decoder(mean + noise * (0.5 * log_var).exp()), mean, log_var


def evidence(made: tuple[Tensor, Tensor, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    out, mean, log_var = made
    reconstruction = F.binary_cross_entropy_with_logits(out, x, reduction="none").sum(1)
    return out, reconstruction - 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1)


def vae(model: nn.Module, inputs: Any, targets: None) -> tuple[Tensor, Tensor]:
    x, noise = inputs
    return evidence(model(x, noise), x)


def vae_drawing(model: nn.Module, inputs: Any, targets: None) -> tuple[Tensor, Tensor]:
    return evidence(model(inputs), inputs)


class GAN(nn.Module):
    """Generator and discriminator, without a forward of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(0.2), nn.Linear(8, SIZE), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Linear(SIZE, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


def generator_loss(model: Any, inputs: Any, targets: None) -> tuple[Tensor, Tensor]:
    scores = model.discriminator(model.generator(inputs["noise"]))
    return scores, F.softplus(-scores)[:, 0]


def discriminator_loss(model: Any, inputs: Any, targets: None) -> tuple[Tensor, Tensor]:
    real = model.discriminator(inputs["real"])
    fake = model.discriminator(model.generator(inputs["noise"]).detach())
    return torch.cat([real, fake], 1), (F.softplus(-real) + F.softplus(fake))[:, 0]


class Denoiser(nn.Module):
    """forward(x, t): a small U-Net with a time embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 4))
        self.down, self.middle = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.norm, self.up = nn.GroupNorm(2, 4), nn.ConvTranspose2d(4, 4, 4, 2, 1)
        self.out = nn.Conv2d(5, 1, 3, 1, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * torch.exp(-torch.arange(4, device=t.device))
        embedding = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        h = F.silu(self.norm(self.down(x) + embedding[:, :, None, None]))
        h = self.up(F.silu(self.middle(h)))
        return self.out(torch.cat([h, x], 1))


ALPHA = torch.linspace(0.99, 0.5, 10).cumprod(0)


def diffusion(model: nn.Module, inputs: Any, targets: None) -> tuple[Tensor, Tensor]:
    x, noise, t = inputs
    alpha = ALPHA[t][:, None, None, None]
    out = model(alpha.sqrt() * x + (1 - alpha).sqrt() * noise, t)
    return out, F.mse_loss(out, noise, reduction="none").mean((1, 2, 3))


class ActorCritic(nn.Module):
    """Returns (policy, value)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(SIZE, 8), nn.Tanh())
        self.policy, self.value = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Any, Tensor]:
        h = self.body(x)
        return torch.distributions.Categorical(logits=self.policy(h), validate_args=False), self.value(h)[
            :, 0
        ]


def actor_critic(model: nn.Module, inputs: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    policy, value = model(inputs)
    ratio = (policy.log_prob(targets["actions"]) - targets["before"]).exp()
    gain = torch.min(ratio * targets["advantages"], ratio.clamp(0.8, 1.2) * targets["advantages"])
    return policy.logits, 0.5 * (value - targets["returns"]) ** 2 - gain - 0.01 * policy.entropy()


def validated(model: nn.Module, inputs: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The same with what `torch.distributions` checks of its arguments, which reads values."""
    h = model.body(inputs)
    policy = torch.distributions.Categorical(logits=model.policy(h))
    value = model.value(h)[:, 0]
    gain = policy.log_prob(targets["actions"]) * targets["advantages"]
    return policy.logits, 0.5 * (value - targets["returns"]) ** 2 - gain - 0.01 * policy.entropy()


def episodes() -> Batch:
    targets = {"actions": torch.randint(0, 3, (N,)), "before": -torch.rand(N) - 0.5}
    return vectors(), targets | {"advantages": torch.randn(N), "returns": torch.rand(N)}


class QNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.online, self.target = mlp(width=3), mlp(width=3)
        self.target.requires_grad_(False)


def q_learning(model: Any, inputs: Any, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    values = model.online(inputs[0])
    taken = values.gather(1, targets["actions"][:, None])[:, 0]
    with torch.no_grad():
        wanted = targets["rewards"] + 0.9 * model.target(inputs[1]).max(1).values
    return values, F.smooth_l1_loss(taken, wanted, reduction="none")


class Segmenter(nn.Module):
    """Returns {"out": scores}, as segmentation models do."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.wide = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, padding=2, dilation=2)
        self.head, self.skip = nn.Conv2d(6, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.head(F.relu(self.wide(F.relu(self.down(x)))))
        return {
            "out": F.interpolate(h, size=x.shape[2:], mode="bilinear", align_corners=False) + self.skip(x)
        }


class PlainSegmenter(Segmenter):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)["out"]


def pixels() -> Batch:
    truth = torch.randint(0, 4, (N, 8, 8))
    truth[:, :2] = 255
    return torch.randn(N, 3, 8, 8), truth


def segmented(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    scores = model(inputs)["out"]
    losses = F.cross_entropy(scores, targets, reduction="none", ignore_index=255)
    counts = targets != 255
    right = (scores.argmax(1) == targets) & counts
    return {
        "outputs": scores,
        "losses": losses.sum((1, 2)) / counts.sum((1, 2)),
        "correct": right.sum((1, 2)) / counts.sum((1, 2)),
    }


def dice(outputs: Tensor, targets: Tensor) -> Tensor:
    """One value an example."""
    shares, truth = outputs.sigmoid(), targets[:, None].clamp(0, 1).to(outputs.dtype)
    return 1 - 2 * (shares * truth).sum((1, 2, 3)) / (shares + truth).sum((1, 2, 3))


class Detector(nn.Module):
    """Takes a list of images and returns a list of dictionaries, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 3, 1)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for image in images:
            h = self.body(image[None])
            found.append({"boxes": self.boxes(h)[0].flatten(1).T, "scores": self.scores(h)[0].flatten(1).T})
        return found


def anchored(boxes: Tensor, scores: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """Losses (example,) of predictions (example, anchor, ...) at given anchors."""
    there = targets["labels"] < 2
    box = F.smooth_l1_loss(boxes, targets["boxes"], reduction="none").sum(2)
    label = F.cross_entropy(scores.movedim(2, 1), targets["labels"], reduction="none")
    return (torch.where(there, box, 0.0) + label).mean(1)


def detect_listed(model: nn.Module, inputs: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    found = model(list(inputs))
    boxes, scores = (torch.stack([one[name] for one in found]) for name in ("boxes", "scores"))
    return scores, anchored(boxes, scores, targets)


def detect_dense(model: Any, inputs: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    h = model.body(inputs)
    boxes, scores = model.boxes(h).flatten(2).movedim(2, 1), model.scores(h).flatten(2).movedim(2, 1)
    return scores, anchored(boxes, scores, targets)


def scenes() -> Batch:
    return torch.rand(N, 3, 8, 8), {"boxes": torch.rand(N, 4, 4), "labels": torch.randint(0, 3, (N, 4))}


def contrast(model: nn.Module, inputs: Any, targets: None) -> tuple[Tensor, Tensor]:
    """The other examples of the batch are the negatives."""
    left, right = (F.normalize(model(x), dim=1) for x in inputs)
    scores = left @ right.T / 0.1
    return left, F.cross_entropy(scores, torch.arange(len(scores)), reduction="none")


def batch_hard(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of each anchor the farthest of its own class and the nearest of another, among the batch."""
    out = model(inputs)
    distance = (out[:, None] - out[None]).pow(2).sum(2)
    same = targets[:, None] == targets[None]
    positive = distance.masked_fill(~same, 0).max(1).values
    negative = distance.masked_fill(same, 1e6).min(1).values
    return out, F.relu(positive - negative + 0.5)


def to_centres(model: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Contrast with learned class centres: the classes are compared, not the examples."""
    out = F.normalize(model[0](inputs), dim=1) @ F.normalize(model[1].weight, dim=1).T / 0.2
    return out, F.cross_entropy(out, targets, reduction="none")


def labelled() -> Batch:
    return vectors(), torch.arange(N) % 3


def regression() -> Batch:
    return vectors(), torch.rand(N)


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, 0] - targets) ** 2


def both_views() -> Batch:
    return (vectors(), vectors()), None


class Simple(nn.Module):
    """Encodes one view at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(width=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


T = "tasks"
CASES = [
    Case("regression of one number", T, lambda: mlp(width=1), regression, squared),
    Case(
        "multi-label",
        T,
        lambda: mlp(width=3),
        lambda: (vectors(), torch.randint(0, 2, (N, 3)).float()),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 0.5])),
    ),
    Case("VAE, noise as an input", T, VAE, lambda: ((vectors(), torch.randn(N, 2)), None), objective=vae),
    Case(
        "VAE that draws its noise",
        T,
        VAE,
        lambda: (vectors(), None),
        objective=vae_drawing,
        off="draws random numbers",
    ),
    Case(
        "GAN, generator",
        T,
        GAN,
        lambda: ({"noise": torch.randn(N, 3), "real": vectors()}, None),
        objective=generator_loss,
    ),
    Case(
        "GAN, discriminator",
        T,
        GAN,
        lambda: ({"noise": torch.randn(N, 3), "real": vectors()}, None),
        objective=discriminator_loss,
    ),
    Case(
        "diffusion, noise and time as inputs",
        T,
        Denoiser,
        lambda: ((torch.rand(N, 1, 8, 8), torch.randn(N, 1, 8, 8), torch.arange(N)), None),
        objective=diffusion,
    ),
    Case("actor-critic (PPO)", T, ActorCritic, episodes, objective=actor_critic),
    Case("policy gradient, checked distributions", T, ActorCritic, episodes, objective=validated),
    Case(
        "Q-learning",
        T,
        QNetwork,
        lambda: ((vectors(), vectors()), {"actions": torch.arange(N) % 3, "rewards": torch.rand(N)}),
        objective=q_learning,
    ),
    Case("segmentation, ignored pixels", T, PlainSegmenter, pixels, nn.CrossEntropyLoss(ignore_index=255)),
    Case("segmentation, dictionary", T, Segmenter, pixels, objective=segmented),
    Case("segmentation, dice", T, lambda: nn.Conv2d(3, 1, 3, padding=1), pixels, dice),
    Case("detection, list of images", T, Detector, scenes, objective=detect_listed),
    Case("detection, dense", T, Detector, scenes, objective=detect_dense),
    Case(
        "contrastive, learned centres",
        T,
        lambda: nn.Sequential(mlp(), nn.Linear(4, 3)),
        labelled,
        objective=to_centres,
    ),
    Case("contrastive, in the batch", T, Simple, both_views, objective=contrast, off="mixes the examples"),
    Case("triplets mined in the batch", T, Simple, labelled, objective=batch_hard, off="mixes the examples"),
]
