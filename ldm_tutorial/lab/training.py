"""`ldm train`: from nothing to a picture. One function for each model, called one after the other by :func:`train_all`.

Each function takes the data, a :class:`training.Recipe` and a folder in which its run is kept; called again, it goes on from
there, or only loads what is finished. Further options go to :func:`training.fit`. A run that was stopped raises Interrupted.

``data`` is :class:`curios.Curios` or :class:`pictures.Pictures`: ``images`` uint8 [N, S, S, 3], ``captions``,
``wordings``, the captions of each picture that CLIP learns, ``tokenizer_captions``, and ``wording(i, rng)``, a caption of
picture i for the U-Net. Of several processes each must call
:func:`storage.resume.connect_processes` before it makes the data.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from ..autoencoder import VAELoss, build_vae
from ..checkpoints import save_models
from ..clip import CLIPLoss, build_clip
from ..curios import Curios, pairs
from ..curios.vocabulary import common_words
from ..diffusion import DiffusionLoss, build_scheduler, build_unet
from ..errors import Interrupted, UserError
from ..files import atomic_folder, atomic_write, disk_errors
from ..images import to_model
from ..measure.judge import JUDGES, Judge, JudgeLoss, save_judge
from ..models import Models
from ..storage.about import About
from ..storage.resume import connect_processes
from ..text import train_tokenizer
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

    def scaled(self, scale: float, accumulate: int = 1) -> Profile:
        """The same with ``scale`` times as many steps, at least one, and batches computed in ``accumulate`` parts."""
        changed = {}
        for name in ("autoencoder", "clip", "unet", "judge"):
            recipe = getattr(self, name)
            steps = max(1, round(recipe.steps * scale))
            changed[name] = dataclasses.replace(recipe, steps=steps, accumulate=accumulate)
        return dataclasses.replace(self, **changed)


# quick: 2 CPU cores, under half an hour; evening: 2 CPU cores, about two hours; full: a data-centre GPU
PROFILES = {
    "quick": Profile(
        16_384,
        autoencoder=Recipe(7_500, 8, 1.5e-3),
        clip=Recipe(250, 128, 1e-3),
        unet=Recipe(5_000, 32, 1e-3),
    ),
    "evening": Profile(
        16_384,
        autoencoder=Recipe(2_600, 16, 2e-3),
        clip=Recipe(1_200, 128, 1e-3),
        unet=Recipe(2_100, 64, 1e-3),
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


class LowPrecision(nn.Module):
    """A loss whose convolutions and matrix products are computed in bfloat16 on CPUs that have it. What concerns GPUs, and
    what ``accelerate launch --mixed_precision`` says, accelerate does."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss
        self.lower = cpu_has_bfloat16() and "ACCELERATE_MIXED_PRECISION" not in os.environ

    def forward(self, **batch: Tensor) -> Tensor:
        """The batch -> the loss, a scalar."""
        on_cpu = next(self.parameters()).device.type == "cpu"
        if not (self.lower and on_cpu):
            return self.loss(**batch)
        # Attention as plain products: the gradient of the fused kernel is slow in bfloat16 on a CPU.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            return self.loss(**batch)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16 by itself (AVX512-BF16, AMX): elsewhere it would only be slower."""
    for units in ("avx512_bf16", "amx_tile"):
        ask = getattr(torch.cpu, f"_is_{units}_supported", None)
        if ask and ask():
            return True
    return False


def fit_to_the_end(name: str, loss: nn.Module, sample_batch, recipe: Recipe, folder: Path, **options) -> None:
    """:func:`training.fit`, and Interrupted when it was stopped before its end: what comes after needs the whole."""
    losses = fit(name, loss, sample_batch, recipe, folder, **options)
    if len(losses) < recipe.steps:
        raise Interrupted(f"{name} was stopped at step {len(losses)} of {recipe.steps}: the same command goes on from there.")


def make_tokenizer(data, folder: Path) -> CLIPTokenizer:
    """The tokenizer of a run: learned on the data's captions by one process, then read from ``folder/tokenizer``, where
    ``captions.txt`` names the captions by their fingerprint.

    Raises:
        UserError: when it was learned on other captions, and when it can't be written or read.
    """
    path, captions = folder / "tokenizer", data.tokenizer_captions
    origin, learned_from = fingerprint(*sorted(captions)), path / "captions.txt"
    with connect_processes().main_process_first():  # the others find it
        if not path.exists():
            tokenizer = train_tokenizer(captions, common_words())
            with disk_errors(path, "choose another folder for the run"), atomic_folder(path) as scratch:
                tokenizer.save_pretrained(scratch)
                (scratch / learned_from.name).write_text(origin)
    try:
        if learned_from.exists() and learned_from.read_text() != origin:
            raise UserError(
                f"{path} belongs to a run with other captions: choose another folder for the run, or delete it to start again."
            )
        return CLIPTokenizer.from_pretrained(path)
    except UserError:
        raise
    except Exception:  # a damaged file can raise nearly anything
        raise UserError(f"{path} is damaged: delete it, and the same command makes it again.") from None


def train_autoencoder(data, recipe: Recipe, folder: Path, latent_channels: int = 8, **options) -> AutoencoderKL:
    """Train the autoencoder on the data's pictures. Its ``scaling_factor`` is set so that latents have variance 1: noise of
    variance 1 fits them then."""
    torch.manual_seed(SEED)  # initial weights
    images = data.images
    vae = build_vae(latent_channels, resolution=images.shape[1]).to(memory_format=torch.channels_last)
    size = (latent_channels, images.shape[1] // 4, images.shape[2] // 4)

    def sample_batch(g: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(images), (recipe.batch,), generator=g)
        return {"images": to_model(images[rows]), "noise": torch.randn(recipe.batch, *size, generator=g)}

    # The error is a mean over the picture, not a sum: even 1e-6 lets channels of the latents die (benchmarks/training.md).
    loss = LowPrecision(VAELoss(vae, kl_weight=1e-7, edge_weight=2.0))
    fit_to_the_end("vae", loss, sample_batch, recipe, folder, data_fingerprint=fingerprint(images), **options)
    with torch.no_grad():
        some = [to_model(x).to(vae.device) for x in images[:1024].split(64)]
        means = torch.cat([vae.encode(x).latent_dist.mean for x in some])
    vae.register_to_config(scaling_factor=round(1 / means.std().item(), 4))
    return vae


def train_clip(data, tokenizer: CLIPTokenizer, recipe: Recipe, folder: Path, **options) -> CLIPModel:
    """Train CLIP on the data's pictures and captions; where a picture has several, each time one of them is drawn."""
    torch.manual_seed(SEED)
    images = data.images
    count = len(images)
    clip = build_clip(tokenizer, resolution=images.shape[1])
    texts = list(itertools.chain.from_iterable(data.wordings))
    ids = tokenizer(texts, padding="longest", truncation=True, return_tensors="pt").input_ids
    many = torch.tensor([len(wordings) for wordings in data.wordings])  # captions of each picture, which follow each other
    first = many.cumsum(0) - many
    few = count < 16 * recipe.batch
    if few:  # none of them may be twice in a batch: it would be its own wrong answer
        recipe = dataclasses.replace(recipe, batch=min(recipe.batch, count // 16 * 16 or count))

    def sample_batch(g: torch.Generator) -> dict[str, Tensor]:
        if few:
            rows = torch.randperm(count, generator=g)[: recipe.batch]
        else:
            rows = torch.randint(count, (recipe.batch,), generator=g)
        one_of_them = (torch.rand(len(rows), generator=g) * many[rows]).long()
        return {"images": to_model(images[rows]), "input_ids": ids[first[rows] + one_of_them]}

    groups = [] if len(texts) == count else [many.tolist()]
    words = json.dumps([texts, sorted(tokenizer.get_vocab().items()), *groups])
    seen = fingerprint(images, words)
    fit_to_the_end("clip", CLIPLoss(clip), sample_batch, recipe, folder, data_fingerprint=seen, **options)
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
    unet = build_unet(vae.config.latent_channels, channels, sample_size=data.images.shape[1] // 4)
    models = Models(vae, unet, text_half(clip), tokenizer, build_scheduler()).to(connect_processes().device)
    models.vae.requires_grad_(False).eval()
    made_from = fingerprint(*vae.state_dict().values(), *clip.state_dict().values())
    latents = encode_all(models, data.images, folder, made_from, options.get("progress", True))
    timesteps = models.scheduler.config.num_train_timesteps

    def sample_batch(g: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(latents), (recipe.batch,), generator=g)
        noise = torch.randn(recipe.batch, *latents.shape[1:], generator=g)
        t = torch.randint(timesteps, (recipe.batch,), generator=g)
        rng = random.Random(torch.randint(2**31, (1,), generator=g).item())
        captions = []
        for i in rows.tolist():
            dropped = rng.random() < CAPTION_DROPOUT
            captions.append("" if dropped else data.wording(i, rng))
        return {"latents": latents[rows], "noise": noise, "timesteps": t, "input_ids": models.tokenize(captions)}

    loss = LowPrecision(DiffusionLoss(models.unet, models.scheduler, models.text_encoder))
    fit_to_the_end("unet", loss, sample_batch, recipe, folder, data_fingerprint=made_from, **options)
    return models.for_inference()


def encode_all(models: Models, images: Tensor, folder: Path, made_from: str, progress: bool = True) -> Tensor:
    """Latents [N, 8, 16, 16] of all pictures, uint8 [N, 64, 64, 3]: computed once and kept in ``folder/latents.safetensors``,
    as long as ``made_from`` stays the same.

    Raises:
        UserError: when they can't be written.
    """
    path = folder / "latents.safetensors"
    try:
        with safe_open(path, "pt") as file:
            if file.metadata()["made_from"] == made_from:
                return file.get_tensor("latents")
    except (OSError, SafetensorError, KeyError, TypeError):
        pass  # absent or damaged: compute it again
    main = connect_processes().is_main_process
    chunks = tqdm(images.split(128), desc="encode", disable=not (progress and main))
    latents = torch.cat([models.encode(to_model(x)).cpu() for x in chunks]).contiguous()
    if main:
        with disk_errors(path, "choose another folder for the run"), atomic_write(path) as scratch:
            save_file({"latents": latents}, scratch, {"made_from": made_from})
    return latents


def train_judge(data: Curios, recipe: Recipe, folder: Path, name: str = "judge", **options) -> Judge:
    """Train a judge ("judge" or "second") on renders of all pairs: the training pictures of Curios, and as many of each
    held-out pair. The second one has seeds of its own."""
    seed = SEED + list(JUDGES).index(name)
    torch.manual_seed(seed)
    judge = JUDGES[name]()
    recipe = dataclasses.replace(recipe, seed=seed)
    many = len(data) * len(pairs("held_out")) // len(pairs("train"))
    held_out = Curios("held_out", max(1, many), SEED, progress=options.get("progress", True))
    images = torch.cat([data.images, held_out.images])
    labels = torch.cat([torch.stack([d.objects, d.materials, d.backgrounds], 1) for d in (data, held_out)])

    def sample_batch(g: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(images), (recipe.batch,), generator=g)
        x = to_model(images[rows])
        corruption = torch.rand(recipe.batch, 2, generator=g) ** 2
        noise = torch.randn(x.shape, generator=g)
        dx, dy = torch.randint(-2, 3, (2,), generator=g).tolist()
        return {"images": x.roll((dx, dy), (2, 3)), "labels": labels[rows], "corruption": corruption, "noise": noise}

    loss = JudgeLoss(judge)
    fit_to_the_end(name, loss, sample_batch, recipe, folder, data_fingerprint=fingerprint(images), **options)
    return judge


def train_and_save_judges(data, recipe: Recipe, folder: Path, out: Path, progress: bool = True) -> None:
    """Train both judges and write them to ``out`` (one process writes)."""
    for name in JUDGES:
        judge = train_judge(data, recipe, folder, name, progress=progress)
        if connect_processes().is_main_process:
            save_judge(judge, out, name)


def train_all(data, profile: Profile, folder: Path, **options) -> tuple[Models, CLIPModel]:
    """Train whatever is missing of the three models; returns the joined system and CLIP."""
    tokenizer = make_tokenizer(data, folder)
    vae = train_autoencoder(data, profile.autoencoder, folder, profile.latent_channels, **options)
    clip = train_clip(data, tokenizer, profile.clip, folder, **options)
    models = train_unet(data, vae, clip, tokenizer, profile.unet, folder, profile.unet_channels, **options)
    return models, clip


def save_all(models: Models, clip: CLIPModel, out: Path, about: About) -> Path:
    """Write the folder that plain diffusers loads, when all processes are done (one of them writes)."""
    processes = connect_processes()
    processes.wait_for_everyone()
    if processes.is_main_process:
        save_models(models, out, clip, about)
    return out
