"""More networks of transformers and diffusers, small and with seeded random weights.

Encoder and decoder with relative positions (T5), one token after a cache (Llama), a state space
scan (Mamba), images by text (CLIP), boxes by queries (DETR), images from latents (VAE).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    DetrConfig,
    DetrForObjectDetection,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    ResNetConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.models.exports import Export, export

VOCABULARY = 128
SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = (torch.arange(20).reshape(2, 10) * 7) % (VOCABULARY - 3) + 3


def t5() -> Export:
    torch.manual_seed(11)
    network = T5ForConditionalGeneration(
        T5Config(vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    )
    return export(
        "T5",
        network,
        lambda m, i, d: m(input_ids=i, decoder_input_ids=d, use_cache=False).logits,
        IDS,
        IDS[:, :4],
    )


def llama_with_cache() -> Export:
    """One token after five, whose keys and values are inputs."""
    torch.manual_seed(12)
    config = LlamaConfig(
        vocab_size=VOCABULARY, intermediate_size=128, num_key_value_heads=2, **SMALL
    )

    def call(m: nn.Module, token: torch.Tensor, *past: torch.Tensor) -> torch.Tensor:
        cache = DynamicCache(config=config)
        for layer in range(config.num_hidden_layers):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        return m(input_ids=token, past_key_values=cache, use_cache=True).logits

    past = [torch.randn(2, 2, 5, 16) for _ in range(2 * config.num_hidden_layers)]
    return export("Llama with a cache", LlamaForCausalLM(config), call, IDS[:, :1], *past)


def mamba() -> Export:
    torch.manual_seed(13)
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2)
    return export("Mamba", MambaForCausalLM(config), lambda m, i: m(i, use_cache=False).logits, IDS)


def clip() -> Export:
    torch.manual_seed(14)
    text = dict(vocab_size=VOCABULARY, max_position_embeddings=32, eos_token_id=2, **SMALL)
    config = CLIPConfig(
        text_config={**text, "intermediate_size": 128},
        vision_config={"image_size": 32, "patch_size": 8, "intermediate_size": 128, **SMALL},
        projection_dim=32,
    )
    return export(
        "CLIP",
        CLIPModel(config),
        lambda m, i, p: m(input_ids=i, pixel_values=p).logits_per_image,
        IDS,
        torch.randn(2, 3, 32, 32),
    )


def detr() -> Export:
    torch.manual_seed(15)
    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], out_features=["stage2"]
    )
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=5,
    )
    network = DetrForObjectDetection(config)
    return export("DETR", network, lambda m, p: m(p).pred_boxes, torch.randn(1, 3, 64, 64))


def vae() -> Export:
    torch.manual_seed(16)
    network = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=32,
    )
    return export(
        "VAE, both ways",
        network,
        lambda m, x: m.decode(m.encode(x).latent_dist.mode()).sample,
        torch.randn(1, 3, 32, 32),
    )


def more() -> list[Callable[[], Export]]:
    """Every network of this module."""
    return [t5, llama_with_cache, mamba, clip, detr, vae]
