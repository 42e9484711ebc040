"""Small configurations of well-known networks with seeded random weights, exported to ONNX.

transformers and diffusers define the networks, torch exports them; nothing is downloaded. Each
export carries the feed it was traced with and the names that its graph gave to inputs.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

Array = np.ndarray[Any, Any]

VOCABULARY = 512
MEL_BINS = 80
AUDIO_FRAMES = 300
"""Frames of a log-mel spectrogram; the encoder halves them."""


@dataclass(frozen=True, slots=True)
class Export:
    """ONNX bytes and the example they were traced with, by input name of the graph."""

    name: str
    onnx: bytes
    feed: dict[str, Array]


class _Call(nn.Module):
    """A network seen as a function of positional tensors that returns one tensor."""

    def __init__(self, network: nn.Module, call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.network = network
        self.call = call

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.call(self.network, *tensors)


def export(
    name: str,
    network: nn.Module,
    call: Callable[..., torch.Tensor],
    *examples: torch.Tensor,
    opset: int = 20,
) -> Export:
    """``network`` as ONNX through torch's exporter."""
    logging.disable(logging.WARNING)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Call(network.eval().requires_grad_(False), call),
            examples,
            dynamo=True,
            opset_version=opset,
            verbose=False,
        )
        program.save(buffer)
    names = [entry.name for entry in program.model.graph.inputs]
    feed = {n: example.numpy() for n, example in zip(names, examples, strict=True)}
    return Export(name, buffer.getvalue(), feed)


def whisper() -> tuple[Export, Export]:
    """Encoder [1, 80, 300] -> [1, 150, 64]; decoder (ids [1, 12], encoded) -> [1, 12, 512]."""
    torch.manual_seed(1)
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        num_mel_bins=MEL_BINS,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=AUDIO_FRAMES // 2,
        max_target_positions=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = WhisperForConditionalGeneration(config).eval()
    sound = torch.randn(1, MEL_BINS, AUDIO_FRAMES)
    encoder = export(
        "Whisper encoder", model.model.encoder, lambda m, x: m(x).last_hidden_state, sound
    )
    encoded = model.model.encoder(sound).last_hidden_state.detach()
    ids = torch.zeros(1, 12, dtype=torch.int64)
    decoder = export(
        "Whisper decoder",
        model,
        lambda m, i, e: m.proj_out(
            m.model.decoder(input_ids=i, encoder_hidden_states=e, use_cache=False).last_hidden_state
        ),
        ids,
        encoded,
    )
    return encoder, decoder


def stable_diffusion_unet() -> Export:
    """(latents [1, 4, 16, 16], step [1], text [1, 7, 32]) -> predicted noise."""
    torch.manual_seed(2)
    network = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    examples = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 7, 32)
    return export("Stable Diffusion UNet", network, lambda m, *x: m(*x).sample, *examples)


def families() -> list[Callable[[], Export]]:
    """Other networks that people bring: text encoders and decoders, images, sound."""
    ids = torch.randint(1, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    small: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}

    def bert() -> Export:
        config = BertConfig(vocab_size=VOCABULARY, intermediate_size=128, **small)
        mask = torch.ones_like(ids)
        mask[1, 6:] = 0
        return export(
            "BERT",
            BertModel(config),
            lambda m, i, a: m(input_ids=i, attention_mask=a).last_hidden_state,
            ids,
            mask,
        )

    def gpt2() -> Export:
        config = GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=32)
        network = GPT2LMHeadModel(config)
        return export("GPT-2", network, lambda m, i: m(i, use_cache=False).logits, ids)

    def llama() -> Export:
        config = LlamaConfig(
            vocab_size=VOCABULARY, intermediate_size=128, num_key_value_heads=2, **small
        )
        network = LlamaForCausalLM(config)
        return export("Llama", network, lambda m, i: m(i, use_cache=False).logits, ids)

    def vit() -> Export:
        config = ViTConfig(
            image_size=32, patch_size=8, intermediate_size=128, num_labels=10, **small
        )
        network = ViTForImageClassification(config)
        return export("ViT", network, lambda m, x: m(x).logits, torch.randn(2, 3, 32, 32))

    def wav2vec() -> Export:
        config = Wav2Vec2Config(
            vocab_size=32,
            intermediate_size=128,
            conv_dim=(32, 32, 32),
            conv_stride=(5, 2, 2),
            conv_kernel=(10, 3, 3),
            num_feat_extract_layers=3,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            **small,
        )
        network = Wav2Vec2Model(config)
        return export(
            "wav2vec 2.0", network, lambda m, x: m(x).last_hidden_state, torch.randn(1, 3200)
        )

    def recurrent() -> Export:
        network = nn.LSTM(16, 32, num_layers=2, bidirectional=True, batch_first=True)
        return export("LSTM, 2 layers", network, lambda m, x: m(x)[0], torch.randn(3, 12, 16))

    return [bert, gpt2, llama, vit, wav2vec, recurrent]
