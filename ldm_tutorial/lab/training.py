"""`ldm train`: from nothing to a picture. One function for each model, called one after the other by :func:`train_all`.

Each function takes the data, a :class:`training.Recipe` and a folder in which its run is kept; called again, it goes on from
there, or only loads what is finished. ``data`` is :class:`curios.Curios` or :class:`pictures.Pictures`: ``images`` uint8
[N, S, S, 3], ``captions``, and ``wording(i, rng)``, one of the wordings of picture i.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from ..autoencoder import VAELoss, build_vae
from ..checkpoints import save_models
from ..clip import CLIPLoss, build_clip
from ..curios import Curios, pairs, scene_at
from ..curios.vocabulary import common_words
from ..diffusion import DiffusionLoss, build_scheduler, build_unet
from ..errors import Interrupted, UserError
from ..files import atomic_write
from ..images import to_model
from ..measure.judge import Judge, JudgeLoss, save_judge
from ..models import Models, default_device
from ..text import About, train_tokenizer
from ..training import SEED, Recipe, fingerprint, fit

CAPTION_DROPOUT = 0.1  # the share of captions that are left out, which classifier-free guidance needs


@dataclass(frozen=True)
class Profile:
    """How much to train: the number of renders, a recipe for each model, the channels of the U-Net."""

    renders: int
    autoencoder: Recipe
    clip: Recipe
    unet: Recipe
    judge: Recipe = Recipe(2_600, 128, 2e-3)
    unet_channels: tuple[int, ...] = (64, 128)
    resolution: int = 64
    latent_channels: int = 8

    def scaled(self, scale: float) -> Profile:
        """The same with ``scale`` times as many steps, at least one."""

        def scaled(recipe: Recipe) -> Recipe:
            return dataclasses.replace(recipe, steps=max(1, round(recipe.steps * scale)))

        return dataclasses.replace(
            self,
            autoencoder=scaled(self.autoencoder),
            clip=scaled(self.clip),
            unet=scaled(self.unet),
            judge=scaled(self.judge),
        )


# quick: 2 CPU cores, under half an hour; evening: 2 CPU cores, about two hours; full: a data-centre GPU
PROFILES = {
    "quick": Profile(
        16_384,
        autoencoder=Recipe(7_500, 8, 1.5e-3, bfloat16=True),
        clip=Recipe(250, 128, 1e-3),
        unet=Recipe(5_000, 32, 1e-3, bfloat16=True),
    ),
    "evening": Profile(
        16_384,
        autoencoder=Recipe(2_600, 16, 2e-3, bfloat16=True),
        clip=Recipe(1_200, 128, 1e-3),
        unet=Recipe(2_100, 64, 1e-3, bfloat16=True),
    ),
    "full": Profile(
        60_000,
        autoencoder=Recipe(12_000, 64, 1e-3),
        clip=Recipe(3_000, 512, 1e-3),
        unet=Recipe(16_000, 256, 7e-4),
    ),
}


def choose_profile(name: str | None = None) -> str:
    """The name of a profile: as given, by ``LDM_TUTORIAL_PROFILE``, or by the hardware: full with a CUDA GPU, else quick.

    Raises:
        UserError: for a name that is none of these.
    """
    name = name or os.environ.get("LDM_TUTORIAL_PROFILE") or ("full" if torch.cuda.is_available() else "quick")
    if name not in PROFILES:
        raise UserError(f"There is no profile {name!r}: choose one of {', '.join(PROFILES)}.")
    return name


def finished(name: str, losses: Tensor, recipe: Recipe) -> None:
    """Raise UserError when a training was stopped before its end."""
    if len(losses) < recipe.steps:
        raise Interrupted(f"{name} was stopped at step {len(losses)} of {recipe.steps}: the same command goes on from there.")


def make_tokenizer(data, folder: Path) -> CLIPTokenizer:
    """The tokenizer of a run: learned on the data's captions by one process, then read from ``folder/tokenizer``."""
    path = folder / "tokenizer"
    default_device()  # before the first use of PartialState
    with PartialState().main_process_first():  # the others find it
        if not path.exists():
            if isinstance(data, Curios):
                captions = [scene_at("train", i, SEED)[1] for i in range(4000)]
            else:
                captions = [text for texts in data.wordings for text in texts]
            scratch = path.with_suffix(f".{os.getpid()}.part")
            train_tokenizer(captions, common_words()).save_pretrained(scratch)
            os.replace(scratch, path)
    return CLIPTokenizer.from_pretrained(path)


def train_autoencoder(data, recipe: Recipe, folder: Path, latent_channels: int = 8, **options):
    """Train the autoencoder on the data's pictures; ``options`` go to :func:`training.fit`. Its ``scaling_factor`` is set so
    that latents have variance 1: noise of variance 1 fits them then."""
    torch.manual_seed(SEED)  # initial weights
    images = data.images
    vae = build_vae(latent_channels, resolution=images.shape[1]).to(memory_format=torch.channels_last)
    size = (latent_channels, images.shape[1] // 4, images.shape[2] // 4)

    def sample_batch(g: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(images), (recipe.batch,), generator=g)
        return {"images": to_model(images[rows]), "noise": torch.randn(recipe.batch, *size, generator=g)}

    # The error is a mean over the picture, not a sum: even 1e-6 lets channels of the latents die (benchmarks/training.md).
    loss = VAELoss(vae, kl_weight=1e-7, edge_weight=2.0)
    losses = fit("vae", loss, sample_batch, recipe, folder, data_fingerprint=fingerprint(images), **options)
    finished("vae", losses, recipe)
    with torch.no_grad():
        some = [to_model(x).to(vae.device) for x in images[:1024].split(64)]
        means = torch.cat([vae.encode(x).latent_dist.mean for x in some])
    vae.register_to_config(scaling_factor=round(1 / means.std().item(), 4))
    return vae


def train_clip(data, tokenizer: CLIPTokenizer, recipe: Recipe, folder: Path, **options) -> CLIPModel:
    """Train CLIP on the data's pictures and captions."""
    torch.manual_seed(SEED)
    images = data.images
    clip = build_clip(tokenizer, resolution=images.shape[1])
    ids = tokenizer(data.captions, padding="longest", truncation=True, return_tensors="pt").input_ids
    world = isinstance(data, Curios)
    if not world:  # of few pictures, none may be twice in a batch: it would be its own wrong answer
        recipe = dataclasses.replace(recipe, batch=min(recipe.batch, len(data) // 16 * 16))

    def sample_batch(g: torch.Generator) -> dict[str, Tensor]:
        if world:
            rows = torch.randint(len(images), (recipe.batch,), generator=g)
        else:
            rows = torch.randperm(len(images), generator=g)[: recipe.batch]
        return {"images": to_model(images[rows]), "input_ids": ids[rows]}

    words = json.dumps([data.captions, sorted(tokenizer.get_vocab().items())])
    seen = fingerprint(images, words)
    losses = fit("clip", CLIPLoss(clip), sample_batch, recipe, folder, data_fingerprint=seen, **options)
    finished("clip", losses, recipe)
    return clip


def text_half(clip: CLIPModel) -> CLIPTextModel:
    """A text encoder with the weights of the text half of CLIP."""
    text_encoder = CLIPTextModel(clip.config.text_config)
    half = clip.text_model.state_dict()
    text_encoder.load_state_dict({key: half[key.removeprefix("text_model.")] for key in text_encoder.state_dict()})
    return text_encoder


def train_unet(
    data, vae, clip: CLIPModel, tokenizer: CLIPTokenizer, recipe: Recipe, folder: Path, channels=(64, 128), **options
) -> Models:
    """Train the U-Net on the data's latents, together with its text encoder, which starts as the text half of CLIP. Returns
    the joined system."""
    torch.manual_seed(SEED)
    side = data.images.shape[1] // 4
    unet = build_unet(vae.config.latent_channels, channels, sample_size=side)
    models = Models(vae, unet, text_half(clip), tokenizer, build_scheduler()).to(default_device())
    models.vae.requires_grad_(False).eval()
    made_from = fingerprint(*vae.state_dict().values(), *clip.state_dict().values())
    latents = encode_all(models, data, folder, made_from, options.get("progress", True))

    def sample_batch(g: torch.Generator) -> dict[str, Tensor]:
        n = recipe.batch
        rows = torch.randint(len(latents), (n,), generator=g)
        noise = torch.randn(n, *latents.shape[1:], generator=g)
        timesteps = torch.randint(models.scheduler.config.num_train_timesteps, (n,), generator=g)
        rng = random.Random(torch.randint(2**31, (1,), generator=g).item())
        captions = []
        for i in rows.tolist():
            dropped = rng.random() < CAPTION_DROPOUT
            captions.append("" if dropped else data.wording(i, rng))
        ids = models.tokenize(captions)
        return {"latents": latents[rows], "noise": noise, "timesteps": timesteps, "input_ids": ids}

    loss = DiffusionLoss(models.unet, models.scheduler, models.text_encoder)
    losses = fit("unet", loss, sample_batch, recipe, folder, data_fingerprint=made_from, **options)
    finished("unet", losses, recipe)
    return models.for_inference()


def encode_all(models: Models, data, folder: Path, made_from: str, progress: bool = True) -> Tensor:
    """Latents [N, 8, 16, 16] of all training pictures: computed once and kept in the run's folder."""
    path = folder / "latents.safetensors"
    try:
        with safe_open(path, "pt") as file:
            if file.metadata()["made_from"] == made_from:
                return file.get_tensor("latents")
    except (OSError, SafetensorError, KeyError, TypeError):
        pass  # absent or damaged: compute it again
    chunks = tqdm(data.images.split(128), desc="encode", disable=not progress)
    latents = torch.cat([models.encode(to_model(x)).cpu() for x in chunks]).contiguous()
    if PartialState().is_main_process:
        with atomic_write(path) as scratch:
            save_file({"latents": latents}, scratch, {"made_from": made_from})
    return latents


def train_judge(data, recipe: Recipe, folder: Path, **options) -> nn.Module:
    """Train the judge on renders of all pairs: the training pictures of Curios, and as many of each held-out pair."""
    torch.manual_seed(SEED)
    judge = Judge()
    many = len(data) * len(pairs("held_out")) // len(pairs("train"))
    held_out = Curios("held_out", many, SEED, progress=options.get("progress", True))
    images = torch.cat([data.images, held_out.images])
    labels = torch.cat([torch.stack([d.objects, d.materials, d.backgrounds], 1) for d in (data, held_out)])

    def sample_batch(g: torch.Generator) -> dict[str, Tensor]:
        n = recipe.batch
        rows = torch.randint(len(images), (n,), generator=g)
        x = to_model(images[rows])
        corruption = torch.rand(n, 2, generator=g) ** 2
        noise = torch.randn(x.shape, generator=g)
        dx, dy = torch.randint(-2, 3, (2,), generator=g).tolist()
        return {"images": x.roll((dx, dy), (2, 3)), "labels": labels[rows], "corruption": corruption, "noise": noise}

    losses = fit("judge", JudgeLoss(judge), sample_batch, recipe, folder, data_fingerprint=fingerprint(images), **options)
    finished("judge", losses, recipe)
    return judge


def train_and_save_judge(data, recipe: Recipe, folder: Path, out: Path, progress: bool = True) -> None:
    """Train the judge and write it to ``out`` (one process writes)."""
    judge = train_judge(data, recipe, folder, progress=progress)
    if PartialState().is_main_process:
        save_judge(judge, out)


def train_all(data, profile: Profile, folder: Path, accumulate: int = 1, progress: bool = True) -> tuple[Models, CLIPModel]:
    """Train whatever is missing of the three models; returns the joined system and CLIP."""

    def parts(recipe: Recipe) -> Recipe:
        return dataclasses.replace(recipe, accumulate=accumulate)

    tokenizer = make_tokenizer(data, folder)
    vae = train_autoencoder(data, parts(profile.autoencoder), folder, profile.latent_channels, progress=progress)
    clip = train_clip(data, tokenizer, profile.clip, folder, progress=progress)
    models = train_unet(
        data, vae, clip, tokenizer, parts(profile.unet), folder, profile.unet_channels, progress=progress
    )
    return models, clip


def save_all(models: Models, clip: CLIPModel, out: Path, about: About) -> Path:
    """Write the folder that plain diffusers loads, when all processes are done (one of them writes)."""
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        save_models(models, out, clip, about)
    return out
