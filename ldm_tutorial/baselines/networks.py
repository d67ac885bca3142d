"""The networks of the baselines that are not the libraries' own, and how the small ones are built."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..autoencoder import build_vae
from ..clip import build_clip
from ..curios import BACKGROUNDS, MATERIALS, OBJECTS
from ..files import WEIGHTS

NOISE = 64  # numbers that the GAN's generator starts from
NO_LABEL = len(OBJECTS) + len(MATERIALS) + len(BACKGROUNDS)  # the label that means: nothing is said


class Generator(ModelMixin, ConfigMixin):
    """The generator of a GAN (Goodfellow et al. 2014), convolutional as in Radford et al. 2016.

    Noise [B, 64] of N(0, 1) -> pictures [B, 3, 64, 64] in -1..1; 0.3 M parameters.
    """

    @register_to_config
    def __init__(self, width: int = 16):
        super().__init__()
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(NOISE, 8 * width, 4, bias=False),  # 1 x 1 -> 4 x 4
            nn.BatchNorm2d(8 * width),
            nn.ReLU(),
        ]
        for channels in (8 * width, 4 * width, 2 * width):  # each doubles the side: 8, 16, 32
            layers.append(nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1, bias=False))
            layers.append(nn.BatchNorm2d(channels // 2))
            layers.append(nn.ReLU())
        layers.append(nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1))
        layers.append(nn.Tanh())
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: Tensor) -> Tensor:
        """Noise [B, 64] -> pictures [B, 3, 64, 64] in -1..1."""
        return self.layers(noise[:, :, None, None])


def build_discriminator(width: int = 24) -> nn.Sequential:
    """The other network of the GAN: pictures [B, 3, 64, 64] -> logits [B, 1, 1, 1], above 0 where it takes them for real.

    Spectral normalisation keeps it from winning too soon (Miyato et al. 2018). It is thrown away after training.
    """
    layers: list[nn.Module] = []
    before = 3
    for after in (width, 2 * width, 4 * width, 8 * width):  # each halves the side: 32, 16, 8, 4
        layers.append(spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)))
        layers.append(nn.LeakyReLU(0.1))
        before = after
    layers.append(spectral_norm(nn.Conv2d(before, 1, 4)))
    return nn.Sequential(*layers)


class LabelledUNet(ModelMixin, ConfigMixin):
    """A small U-Net on latents that is told object, material and background as three labels.

    Each label has an embedding; their sum is added to the timestep's (diffusers' ``class_embed_type="identity"``). So what
    it knows of *avocado* and of *armchair* it must put together by itself.
    """

    @register_to_config
    def __init__(self, channels: tuple[int, ...] = (32, 64)):
        super().__init__()
        self.unet = build_small_unet(16, 8, tuple(channels), class_embed_type="identity")
        self.labels = nn.Embedding(NO_LABEL + 1, 4 * channels[0])  # as wide as the timestep's embedding

    def forward(self, latents: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Latents [B, 8, 16, 16], timesteps [B] and labels [B, 3] (:func:`label_ids`) -> v [B, 8, 16, 16]."""
        told = self.labels(labels).sum(1)
        return self.unet(latents, timesteps, class_labels=told).sample


def label_ids(objects: Tensor, materials: Tensor, backgrounds: Tensor) -> Tensor:
    """Indices [B] into OBJECTS, MATERIALS and BACKGROUNDS -> labels [B, 3] of :class:`LabelledUNet`."""
    return torch.stack([objects, len(OBJECTS) + materials, len(OBJECTS) + len(MATERIALS) + backgrounds], 1)


def build_small_unet(side: int, depth: int, channels: tuple[int, ...], attention: bool = True, **options) -> UNet2DModel:
    """A U-Net of diffusers, without text, on [B, depth, side, side], one block a level, self-attention at the lowest level."""
    plain = len(channels) - 1
    lowest = "Attn" if attention else ""
    return UNet2DModel(
        sample_size=side,
        in_channels=depth,
        out_channels=depth,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * plain + (f"{lowest}DownBlock2D",),
        up_block_types=(f"{lowest}UpBlock2D",) + ("UpBlock2D",) * plain,
        add_attention=attention,
        attention_head_dim=8,
        norm_num_groups=8,
        **options,
    )


def cut_skips(unet):
    """Let zeros arrive where a ``UNet2DModel``'s up blocks expect what the down blocks saw: same class, same parameters."""

    def cut(block, inputs):
        hidden, skips, *rest = inputs
        return hidden, tuple(torch.zeros_like(s) for s in skips), *rest

    for block in unet.up_blocks:
        block.register_forward_pre_hook(cut)
    return unet


def build_small_vae(channels: tuple[int, ...], latent_channels: int) -> AutoencoderKL:
    """An autoencoder whose memory is laid out so that a CPU with bfloat16 is fast."""
    return build_vae(latent_channels, channels).to(memory_format=torch.channels_last)


def shipped_tokenizer():
    """The tokenizer of the shipped model, whose vocabulary the two CLIPs have."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")


def build_small_clip():
    """A CLIP a quarter as wide as the course's, with one layer less in each half."""
    return build_clip(shipped_tokenizer(), width=32, text_layers=2, vision_layers=3)
