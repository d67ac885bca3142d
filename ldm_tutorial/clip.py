"""CLIP: pictures and texts as vectors of one space (notebook 07).

The class is transformers' ``CLIPModel``. Radford et al. 2021, *Learning transferable visual models from natural language
supervision*.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel


def build_clip(tokenizer, width: int = 128, text_layers: int = 3, vision_layers: int = 4, resolution: int = 64) -> CLIPModel:
    """A small CLIP: a causal text transformer, and a vision transformer on 8 x 8 patches, into one space of 128 numbers."""
    both = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4, "projection_dim": 128}
    text = {
        **both,
        "num_hidden_layers": text_layers,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**both, "num_hidden_layers": vision_layers, "image_size": resolution, "patch_size": resolution // 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def contrastive_loss(image_embeds: Tensor, text_embeds: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over the matrix of similarities (Radford et al. 2021, figure 3), a scalar.

    ``image_embeds`` and ``text_embeds`` are [B, D], of length 1; row k of both belongs together. ``scale`` multiplies the
    cosines: it is one over the temperature.
    """
    logits = scale * image_embeds @ text_embeds.T  # [B, B]
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class CLIPLoss(nn.Module):
    """The contrastive loss of a CLIP model, over the pairs of all processes together."""

    splits = False  # the matrix needs the whole batch at once

    def __init__(self, clip: CLIPModel):
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor, input_ids: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in -1..1 and token ids [B, T] -> the loss, a scalar."""
        out = self.clip(input_ids=input_ids, pixel_values=images)
        image, text = out.image_embeds, out.text_embeds  # [B, 128], of length 1
        if dist.is_initialized():
            image, text = gather_rows(image), gather_rows(text)
        with torch.autocast(image.device.type, enabled=False):  # times 100, bfloat16's rounding would be half a unit
            scale = self.clip.logit_scale.exp().clamp(max=100)
            return contrastive_loss(image.float(), text.float(), scale)


def gather_rows(own: Tensor) -> Tensor:
    """This process's rows [b, D] -> the rows of all processes [B, D].

    Gradients reach one's own rows only, multiplied by the number of processes: averaged over the processes, as they will be,
    they are the gradients of the whole.
    """
    count = dist.get_world_size()
    rows = [torch.empty_like(own) for _ in range(count)]
    dist.all_gather(rows, own.detach().contiguous())
    if own.requires_grad:
        own.register_hook(lambda grad: count * grad)
    rows[dist.get_rank()] = own
    return torch.cat(rows)


@torch.no_grad()
def embed_texts(clip: CLIPModel, tokenizer, texts: list[str], batch: int = 256) -> Tensor:
    """Texts -> vectors of length 1 [B, 128], on the CPU. A text beyond the model's length is cut."""
    longest = clip.config.text_config.max_position_embeddings
    ids = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt").input_ids
    parts = [clip.get_text_features(input_ids=some.to(clip.device)) for some in ids.split(batch)]
    return F.normalize(torch.cat([_vectors(p) for p in parts]), dim=1).cpu()


@torch.no_grad()
def embed_images(clip: CLIPModel, images: Tensor, batch: int = 64) -> Tensor:
    """Pictures [B, 3, H, W] in -1..1 -> vectors of length 1 [B, 128], on the CPU."""
    parts = [clip.get_image_features(pixel_values=some.to(clip.device)) for some in images.split(batch)]
    return F.normalize(torch.cat([_vectors(p) for p in parts]), dim=1).cpu()


def _vectors(features) -> Tensor:
    """The projected vectors: some versions of transformers return them inside an output object."""
    return features if isinstance(features, Tensor) else features.pooler_output
