"""What the baselines learn from, and what they are asked to do.

The functions whose names end in ``_batches`` get the training (:class:`lab.baselines.BaselineTrainer`: its ``data`` and
``latents``) and the batch size, and return ``sample_batch`` as :func:`training.fit` takes it: a random stream -> a batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..curios import MATERIALS, OBJECTS, pairs
from ..curios.vocabulary import article
from ..diffusion import DiffusionLoss, build_scheduler
from ..images import to_model
from ..training import SEED
from .networks import NO_LABEL, shipped_tokenizer

UNSEEN = ("zebra", "galaxy")  # materials that none of the compared autoencoders ever sees
SEEN = tuple(name for name in MATERIALS if name not in UNSEEN)
SHARES = (10, 25, 50, 75, 100)  # percent of the training pairs
PAIR_PICTURES = 4_096  # pictures that each of the models learns from that saw only some of the pairs

Batch = dict[str, Tensor]
SampleBatch = Callable[[torch.Generator], Batch]


# --- autoencoders -----------------------------------------------------------------------------------------------------


def pictures_of(data, materials: tuple[str, ...]) -> Tensor:
    """Pictures uint8 [N, 64, 64, 3] of some materials, always as many as there are of gold: no autoencoder that is compared
    sees more of them than another."""
    kinds = list(MATERIALS)
    count = int((data.materials == kinds.index("gold")).sum())
    wanted = torch.tensor([kinds.index(name) for name in materials])
    return data.images[torch.isin(data.materials, wanted)][:count]


def autoencoder_batches(trainer, batch: int, materials: tuple[str, ...] | None, latent_shape: tuple[int, ...]) -> SampleBatch:
    """Pictures of some materials, or all pictures, with the noise of the posterior."""
    images = trainer.data.images if materials is None else pictures_of(trainer.data, materials)

    def sample_batch(g: torch.Generator) -> Batch:
        rows = torch.randint(len(images), (batch,), generator=g)
        return {"images": to_model(images[rows]), "noise": torch.randn(batch, *latent_shape, generator=g)}

    return sample_batch


# --- diffusion, and the GAN -------------------------------------------------------------------------------------------


def with_noise(latents: Tensor, g: torch.Generator) -> Batch:
    """Clean latents, or pictures, with the noise and the timesteps of one training step."""
    timesteps = torch.randint(build_scheduler().config.num_train_timesteps, (len(latents),), generator=g)
    return {"latents": latents, "noise": torch.randn(latents.shape, generator=g), "timesteps": timesteps}


def diffusion_loss(unet: nn.Module, prediction_type: str = "v_prediction") -> nn.Module:
    """The loss of a U-Net that is told the timestep and nothing else."""
    return DiffusionLoss(unet, build_scheduler(prediction_type))


class LabelledLoss(nn.Module):
    """Mean squared error of v, as predicted by a :class:`networks.LabelledUNet`."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet
        self.scheduler = build_scheduler()

    def forward(self, latents: Tensor, noise: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Clean latents and noise [B, 8, 16, 16], timesteps [B], labels [B, 3] -> the loss, a scalar."""
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        return F.mse_loss(self.unet(noisy, timesteps, labels), target)


def picture_batches(trainer, batch: int) -> SampleBatch:
    """All pictures, whole."""
    images = trainer.data.images

    def sample_batch(g: torch.Generator) -> Batch:
        rows = torch.randint(len(images), (batch,), generator=g)
        return {"images": to_model(images[rows])}

    return sample_batch


def pixel_batches(trainer, batch: int) -> SampleBatch:
    """All pictures, to be noised as if they were latents."""
    images = trainer.data.images

    def sample_batch(g: torch.Generator) -> Batch:
        rows = torch.randint(len(images), (batch,), generator=g)
        return with_noise(to_model(images[rows]), g)

    return sample_batch


def latent_batches(trainer, batch: int, autoencoder: str) -> SampleBatch:
    """Latents that an autoencoder made: "shipped", or a baseline's name."""
    latents = trainer.latents(autoencoder)

    def sample_batch(g: torch.Generator) -> Batch:
        rows = torch.randint(len(latents), (batch,), generator=g)
        return with_noise(latents[rows], g)

    return sample_batch


def labelled_batches(trainer, batch: int, share: int) -> SampleBatch:
    """Latents of a share of the pairs with their labels, one in ten without: what guidance needs."""
    latents, labels = trainer.labelled_latents(share)

    def sample_batch(g: torch.Generator) -> Batch:
        rows = torch.randint(len(latents), (batch,), generator=g)
        silent = torch.rand(batch, generator=g) < 0.1
        told = labels[rows].masked_fill(silent[:, None], NO_LABEL)
        return with_noise(latents[rows], g) | {"labels": told}

    return sample_batch


def pair_order() -> list[tuple[str, str]]:
    """The training pairs in the fixed random order in which shares of them are taken.

    First come pairs that make every object and every material occur (a label that was never seen can mean nothing), those
    that bring two new names before those that bring one; then the others.
    """
    shuffled = pairs("train")
    random.Random(SEED).shuffle(shuffled)
    first: list[tuple[str, str]] = []
    for needed in (2, 1):
        for pair in shuffled:
            new_object = pair[0] not in [p[0] for p in first]
            new_material = pair[1] not in [p[1] for p in first]
            if new_object + new_material >= needed:
                first.append(pair)
    return first + [pair for pair in shuffled if pair not in first]


def pair_scenes(share: int) -> list[int]:
    """Numbers of the scenes of the split "train" that a model learns from that sees ``share`` percent of the pairs:
    ``PAIR_PICTURES`` of them, every pair equally often."""
    every = pairs("train")
    chosen = pair_order()[: round(len(every) * share / 100)]
    numbers = []
    for k in range(PAIR_PICTURES):
        view, place = divmod(k, len(chosen))
        numbers.append(every.index(chosen[place]) + len(every) * view)
    return numbers


# --- two CLIPs --------------------------------------------------------------------------------------------------------


def label_text(name: str) -> str:
    """An object's label: "a mug"; both bats are "a bat", as a label would have it."""
    return article("bat" if name.endswith(" bat") else name)


def caption_batches(trainer, batch: int) -> SampleBatch:
    """Pictures with whole captions."""
    return _text_batches(trainer.data, trainer.data.captions, batch)


def label_batches(trainer, batch: int) -> SampleBatch:
    """Pictures with the object's label only."""
    labels = [label_text(OBJECTS[i]) for i in trainer.data.objects.tolist()]
    return _text_batches(trainer.data, labels, batch)


def _text_batches(data, texts: list[str], batch: int) -> SampleBatch:
    ids = shipped_tokenizer()(texts, padding="longest", return_tensors="pt").input_ids

    def sample_batch(g: torch.Generator) -> Batch:
        rows = torch.randint(len(ids), (batch,), generator=g)
        return {"images": to_model(data.images[rows]), "input_ids": ids[rows]}

    return sample_batch
