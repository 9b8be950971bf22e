"""Language, speech and two-tower models of Transformers, from a small configuration and with random weights."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Batch, Case, N

WORDS, LENGTH = 17, 6
SMALL = {
    "vocab_size": WORDS,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 8,
}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def hub(head: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports
            import transformers
        return getattr(transformers, head)(getattr(transformers, config)(**options))

    return build


def clip() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import CLIPConfig, CLIPModel
    rest = {
        name: value for name, value in SMALL.items() if name not in ("vocab_size", "max_position_embeddings")
    }
    text = {**SMALL, **ENDS}
    vision = {**rest, "image_size": 16, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6))


def texts(low: int = 3) -> Tensor:
    return torch.randint(low, WORDS, (N, LENGTH))


def padded() -> dict[str, Tensor]:
    words, mask = texts(), torch.ones(N, LENGTH, dtype=torch.int64)
    mask[::2, 4:] = 0
    return {"input_ids": words * mask, "attention_mask": mask}


def shifted() -> Batch:
    inputs = padded()
    return inputs, torch.where(inputs["attention_mask"] > 0, inputs["input_ids"], -100)


def token_losses(scores: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Mean over the words that count."""
    losses = F.cross_entropy(scores.movedim(2, 1), targets, reduction="none")
    counts = targets != -100
    return {"outputs": scores, "losses": losses.sum(1) / counts.sum(1), "targets": targets}


def causal(model: nn.Module, inputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    return token_losses(model(**inputs, use_cache=False).logits[:, :-1], targets[:, 1:])


def own_loss(model: Any, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """What the model itself computes of one example."""
    return model(**inputs, labels=targets).loss


def masked(model: nn.Module, inputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    return token_losses(model(**inputs).logits, targets)


def classified(model: nn.Module, inputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    scores = model(**inputs).logits
    return {
        "outputs": scores,
        "losses": F.cross_entropy(scores, targets, reduction="none"),
        "targets": targets,
    }


def translated(model: nn.Module, inputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    """Teacher forcing: the model shifts the labels into the decoder's inputs."""
    return token_losses(model(**inputs, labels=targets).logits, targets)


def transcribed(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return token_losses(model(input_features=inputs, labels=targets).logits, targets)


def transcribed_alone(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    return model(input_features=inputs, labels=targets).loss


def image_and_text() -> Batch:
    return {"input_ids": texts(), "pixel_values": torch.randn(N, 3, 16, 16)}, None


def against_all(model: nn.Module, inputs: dict[str, Tensor], targets: None) -> tuple[Tensor, Tensor]:
    """CLIP's loss: the other examples of the batch are the negatives."""
    scores = model(**inputs).logits_per_image
    here = torch.arange(len(scores))
    losses = F.cross_entropy(scores, here, reduction="none") + F.cross_entropy(
        scores.T, here, reduction="none"
    )
    return scores, losses / 2


def sigmoid_pairs(model: Any, inputs: dict[str, Tensor], targets: None) -> tuple[Tensor, Tensor]:
    """Each image with its own text alone."""
    made = model(**inputs)
    score = (made.image_embeds * made.text_embeds).sum(1)
    return score[:, None], F.softplus(-model.logit_scale.exp() * score)


def classes() -> Tensor:
    return torch.arange(N) % 3


L = "language"
T5 = {
    "vocab_size": WORDS,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 12,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
WHISPER = {
    "vocab_size": WORDS,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "num_mel_bins": 4,
    "max_source_positions": 8,
    "max_target_positions": 8,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    **ENDS,
}
CASES = [
    Case(
        "BERT, classification",
        L,
        hub("BertForSequenceClassification", "BertConfig", num_labels=3, pad_token_id=0, **SMALL),
        lambda: (padded(), classes()),
        objective=classified,
    ),
    Case(
        "BERT, masked words",
        L,
        hub("BertForMaskedLM", "BertConfig", pad_token_id=0, **SMALL),
        shifted,
        objective=masked,
        alone=own_loss,
    ),
    Case(
        "GPT-2",
        L,
        hub(
            "GPT2LMHeadModel",
            "GPT2Config",
            vocab_size=WORDS,
            n_embd=8,
            n_layer=2,
            n_head=2,
            n_positions=8,
            bos_token_id=1,
            eos_token_id=2,
        ),
        shifted,
        objective=causal,
        alone=own_loss,
    ),
    Case(
        "Llama",
        L,
        hub("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=1, **SMALL, **ENDS),
        shifted,
        objective=causal,
        alone=own_loss,
    ),
    Case(
        "T5",
        L,
        hub("T5ForConditionalGeneration", "T5Config", **T5),
        shifted,
        objective=translated,
        alone=own_loss,
    ),
    Case(
        "Whisper",
        L,
        hub("WhisperForConditionalGeneration", "WhisperConfig", **WHISPER),
        lambda: (torch.randn(N, 4, 16), texts()),
        objective=transcribed,
        alone=transcribed_alone,
    ),
    Case(
        "Mamba",
        L,
        hub(
            "MambaForCausalLM",
            "MambaConfig",
            vocab_size=WORDS,
            hidden_size=8,
            num_hidden_layers=2,
            state_size=4,
            time_step_rank=2,
        ),
        lambda: ({"input_ids": (words := texts())}, words),
        objective=causal,
        alone=own_loss,
    ),
    Case("CLIP, pairs alone", L, clip, image_and_text, objective=sigmoid_pairs),
    Case("CLIP, contrastive", L, clip, image_and_text, objective=against_all, off="mixes the examples"),
]
