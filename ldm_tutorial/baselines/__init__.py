"""The baselines: small models that the notebooks compare with, all made by ``ldm train baselines`` and shipped.

Each differs from another in one thing only (what it saw, how far it compresses, whether it has skip connections ...),
so that what comes out differently has one reason. Their loss curves are shipped too: :func:`training_curve`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..autoencoder import build_vae
from ..clip import build_clip
from ..diffusion import build_scheduler
from ..errors import UserError
from ..files import WEIGHTS, verify_checksums
from ..models import default_device
from ..storage.quiet import quiet

FOLDER = WEIGHTS.parent / "baselines"
UNSEEN = ("zebra", "galaxy")  # materials that none of the compared autoencoders ever sees
NOISE = 64  # numbers that the adversarial generator starts from
BASELINES = {
    "vae-diverse": "autoencoder, f=4, every material but zebra and galaxy",
    "vae-narrow": "the same, as many pictures and steps, of gold alone",
    "vae-f2": "vae-diverse with each side halved once",
    "vae-f8": "vae-diverse with each side halved three times",
    "vae-nokl": "vae-diverse without the KL term",
    "vae-prior": "autoencoder, f=16, with so strong a KL term that N(0, 1) can be decoded",
    "gan": "a tiny adversarial model: a generator that was trained against a discriminator",
    "pixel": "diffusion on 64 x 64 pixels (v), no text, trained for the same time as gan and latent",
    "clip-labels": "a small CLIP that read the object's name only",
    "clip-captions": "the same, that read whole captions",
    "unet-skips": "diffusion on latents (epsilon), no text, 220 steps",
    "unet-noskips": "the same with its skip connections cut",
    "latent": "diffusion on latents (v), no text, trained for the same time as gan and pixel",
}
VAES = {  # channels, latent channels, weight of the KL term
    "vae-f2": ((8, 16), 8, 1e-6),
    "vae-f8": ((8, 16, 32, 32), 8, 1e-6),
    "vae-nokl": ((8, 16, 32), 8, 0.0),
    "vae-prior": ((8, 16, 32, 48, 64), 16, 5e-4),
}


class Generator(nn.Module):
    """The making half of an adversarial pair (Goodfellow et al. 2014), convolutional as in Radford et al. 2016.

    Noise [B, 64] of N(0, 1) -> pictures [B, 3, 64, 64] in -1..1; 0.3 M parameters.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        sizes = [NOISE, 8 * width, 4 * width, 2 * width, width]
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
            layers += [nn.ConvTranspose2d(a, b, 4, 2 if i else 1, 1 if i else 0, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh())

    def forward(self, noise: Tensor) -> Tensor:
        """Noise [B, 64] -> pictures [B, 3, 64, 64] in -1..1."""
        return self.layers(noise[:, :, None, None])


def build_discriminator(width: int = 24) -> nn.Module:
    """The other half: pictures [B, 3, 64, 64] -> [B, 1, 1, 1], above 0 where it believes them; Lipschitz-bound layers keep
    it from winning too soon (Miyato et al. 2018). It is thrown away after training."""
    from torch.nn.utils.parametrizations import spectral_norm

    sizes = [3, width, 2 * width, 4 * width, 8 * width]
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [spectral_norm(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(8 * width, 1, 4)))


def cut_skips(unet):
    """Let zeros arrive where a ``UNet2DModel``'s up blocks expect what the down blocks saw: same class, same parameters."""

    def cut(block, inputs):
        hidden, skips, *rest = inputs
        return hidden, tuple(torch.zeros_like(s) for s in skips), *rest

    for block in unet.up_blocks:
        block.register_forward_pre_hook(cut)
    return unet


def scheduler_of(name: str):
    """The noise schedule that a diffusion baseline was trained with: the course's own, predicting epsilon or v."""
    return build_scheduler("epsilon" if name.startswith("unet") else "v_prediction")


def build(name: str) -> nn.Module:
    """A baseline before its training (for the two CLIPs: with the shipped tokenizer's vocabulary)."""
    from diffusers import AutoencoderKL, UNet2DModel

    if name.startswith("vae"):
        channels, latent_channels, _ = VAES.get(name, ((8, 16, 32), 8, 1e-6))
        config = dict(build_vae(latent_channels, channels).config)
        # One group of channels: so narrow a layer, normalised in eight groups, forgets how bright and of what colour it is.
        return AutoencoderKL.from_config(config, norm_num_groups=1)
    if name.startswith("clip"):
        return build_clip(_tokenizer(), width=64, text_layers=2, vision_layers=3)
    if name == "gan":
        return Generator()
    side, depth, channels = (64, 3, (16, 32, 40, 56)) if name == "pixel" else (16, 8, (32, 64))
    ends = ("DownBlock2D", "UpBlock2D") if name.startswith("unet") else ("AttnDownBlock2D", "AttnUpBlock2D")
    n = len(channels) - 1
    unet = UNet2DModel(
        sample_size=side, in_channels=depth, out_channels=depth, block_out_channels=channels, layers_per_block=1,
        down_block_types=("DownBlock2D",) * n + ends[:1], up_block_types=ends[1:] + ("UpBlock2D",) * n,
        add_attention=not name.startswith("unet"), attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip
    return cut_skips(unet) if name == "unet-noskips" else unet


def _tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")


# --- shipped files --------------------------------------------------------------------------------------------------


def _checked(start: str, folder: Path) -> None:
    """Compare the files whose names begin with ``start`` with checksums.json."""
    try:
        damaged = list(verify_checksums(folder, start))
    except (OSError, ValueError):
        what = start.strip("/")
        raise UserError(f"{what} is not in {folder}: make it with `ldm train baselines --out {folder}`.") from None
    if damaged:
        cure = "run `git checkout -- ldm_tutorial/weights`, or train it again"
        raise UserError(f"{folder / damaged[0]} is missing or damaged: {cure}.")


def _known(name: str) -> None:
    if name not in BASELINES:
        raise UserError(f"There is no baseline {name!r}: choose one of {', '.join(BASELINES)}.")


def load_baseline(name: str, device: str | torch.device | None = None, folder: str | Path = FOLDER) -> nn.Module:
    """A trained baseline, in float32, ready for inference: ``AutoencoderKL``, ``UNet2DModel``, ``CLIPModel`` or
    :class:`Generator`.

    Raises:
        UserError: for an unknown name, and for files that are missing or damaged.
    """
    from diffusers import AutoencoderKL, UNet2DModel
    from transformers import CLIPModel

    _known(name)
    _checked(f"{name}/", Path(folder))
    path = Path(folder) / name
    with quiet():
        if name == "gan":
            model = Generator()
            model.load_state_dict({k: v.float() for k, v in load_file(path / "model.safetensors").items()})
        elif name.startswith("clip"):
            model = CLIPModel.from_pretrained(str(path), dtype=torch.float32)
        else:
            kind = AutoencoderKL if name.startswith("vae") else UNet2DModel
            model = kind.from_pretrained(str(path), torch_dtype=torch.float32)
    if name == "unet-noskips":
        cut_skips(model)
    return model.to(device or default_device()).requires_grad_(False).eval()


def training_curve(name: str, folder: str | Path = FOLDER) -> dict:
    """How a baseline was trained: ``losses`` (at most 200, evenly spaced, each the mean of the steps around it),
    ``seconds`` of one processor core, ``steps``, ``batch``, ``parameters``, ``command`` and a digest of the ``source``.

    Raises:
        UserError: for an unknown name, and when the file is missing or damaged.
    """
    _known(name)
    _checked("curves.json", Path(folder))
    found = json.loads((Path(folder) / "curves.json").read_text(encoding="utf-8"))
    if name not in found:
        raise UserError(f"{name} is not in {folder}: make it with `ldm train baselines --out {folder}`.")
    return found[name]
