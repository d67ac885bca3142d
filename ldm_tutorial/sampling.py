"""Sampling: from a prompt and a seed to a picture, one loop for all samplers.

DDPM: Ho et al. 2020, algorithm 2. DDIM: Song et al. 2021, eq. 12 with sigma = 0. DPM-Solver++(2M): Lu et al. 2022,
algorithm 2. UniPC: Zhao et al. 2023. Classifier-free guidance: Ho and Salimans 2022, eq. 6, in the form that
``StableDiffusionPipeline`` uses; only in an interval of noise levels: Kynkäänniemi et al. 2024.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from numpy import ndarray
from torch import Tensor

from .curios import to_picture
from .errors import UserError
from .models import Models

SAMPLERS = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
# As good as 50 DDIM steps in about a fifth of the time: measured by benchmarks/fast_sampling.py
FAST = {"sampler": "unipc", "steps": 12, "guidance_interval": (0.0, 0.75)}


def build_sampler(models: Models, sampler: str, steps: int):
    """diffusers' scheduler for the model's own noise schedule, with its timesteps set: ``steps`` of them, the noisiest first.

    "own" is the scheduler that the checkpoint names (PNDM in Stable Diffusion 1.5, Euler in SD-Turbo).

    Raises:
        UserError: for an unknown sampler.
    """
    if sampler not in (*SAMPLERS, "own"):
        raise UserError(f"There is no sampler {sampler!r}: choose one of {', '.join(SAMPLERS)} and own.")
    kind = SAMPLERS.get(sampler, type(models.scheduler))
    # Solvers of order 2, and a last step of order 1 that ends at no noise at all: order 2 would divide by zero there.
    options = {"solver_order": 2, "final_sigmas_type": "zero"} if sampler in ("dpm++", "unipc") else {}
    if sampler in ("ddim", "ddpm") and "clip_sample" not in models.scheduler.config:
        options["clip_sample"] = False  # these two would hold latents within -1..1, as if they were pixels
    same = type(models.scheduler) is kind  # a copy of it takes no time, a new one some milliseconds
    scheduler = copy.copy(models.scheduler) if same else kind.from_config(models.scheduler.config, **options)
    scheduler.set_timesteps(steps, device=models.device)
    # "trailing" rounds to one too many, -1, for 61 steps and some others
    scheduler.timesteps = scheduler.timesteps[scheduler.timesteps >= 0]
    return scheduler


def generators(seeds: list[int]) -> list[torch.Generator]:
    """One random stream per picture, on the CPU: a seed means the same picture alone, in a batch, and on a GPU."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def initial_latents(
    models: Models, streams: list[torch.Generator], height: int | None = None, width: int | None = None
) -> Tensor:
    """Pure noise N(0, 1) [B, 8, 16, 16], picture k from stream k, for pictures of the model's own size or another (pixels)."""
    size = models.latent_shape(height, width)
    return torch.cat([torch.randn(1, *size, generator=g) for g in streams]).to(models.device, models.unet.dtype)


@torch.no_grad()
def sample_latents(
    models: Models,
    prompts: list[str],
    seeds: list[int],
    steps: int = 20,
    guidance_scale: float = 3.0,
    sampler: str = "ddim",
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    negative_prompt: str = "",
    latents: Tensor | None = None,
    progress: bool = True,
    callback: Callable[[int, Tensor, Tensor], Tensor | None] | None = None,
    height: int | None = None,
    width: int | None = None,
    skip: int | None = None,
) -> Tensor:
    """Denoise to clean latents [B, 8, 16, 16], or as large as ``height`` and ``width`` (pixels) ask for.

    ``latents`` [B, 8, 16, 16] replaces the noise that the seeds would give. With ``skip``, 0 too, the first so many steps are
    left out, and ``latents`` are taken as they are, at the noise level of the first step that is left. A ``guidance_scale``
    of at most 1 means no guidance: the unconditional half is not computed. Nor is it outside ``guidance_interval``, two
    fractions of the run (0 is its noisy start, 1 its end). ``callback(step, timestep, latents)`` sees the latents after each
    step; a tensor that it returns takes their place.

    Raises:
        UserError: for an unknown sampler, an interval that is none, a size that can't be, or when there are not as many
            seeds as prompts.
    """
    from tqdm.auto import tqdm

    start, stop = guidance_interval
    if not 0 <= start <= stop <= 1:
        raise UserError(f"The guidance interval {guidance_interval} won't do: give two fractions 0 <= start <= stop <= 1.")
    if len(prompts) != len(seeds):
        raise UserError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}.")
    scheduler = build_sampler(models, sampler, steps)
    texts = list(dict.fromkeys([*prompts, negative_prompt]))  # each text is encoded once, however often it is asked for
    states = models.encode_text(texts)  # encoder_hidden_states [texts, 77, 128]
    text = states[[texts.index(p) for p in prompts]]
    both = torch.cat([states[[texts.index(negative_prompt)] * len(prompts)], text])
    streams = generators(seeds)
    z = initial_latents(models, streams, height, width)
    z = z if latents is None else latents.to(models.device, models.unet.dtype)
    if skip is None:
        z = z * scheduler.init_noise_sigma  # 1 for most; Euler's steps count noise in other units
    elif hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skip)
    extra = {"generator": streams} if "generator" in inspect.signature(scheduler.step).parameters else {}
    timesteps = list(enumerate(scheduler.timesteps))
    n = len(timesteps)  # PNDM takes one more than it was asked for
    for i, t in tqdm(timesteps[skip or 0 :], desc="denoise", disable=not progress, leave=False):
        if guidance_scale > 1 and int(start * n) <= i < int(stop * n):
            given = scheduler.scale_model_input(torch.cat([z, z]), t)
            without, with_text = models.unet(given, t, encoder_hidden_states=both).sample.chunk(2)
            predicted = without + guidance_scale * (with_text - without)
        else:
            predicted = models.unet(scheduler.scale_model_input(z, t), t, encoder_hidden_states=text).sample
        z = scheduler.step(predicted, t, z, **extra).prev_sample
        replaced = callback(i, t, z) if callback else None
        z = z if replaced is None else replaced
    return z


def decode_quickly(models: Models, latents: Tensor) -> Tensor:
    """:meth:`Models.decode` with channels last in memory: on a CPU about a fifth faster, equal to about 1e-5."""
    return models.decode(latents.to(memory_format=torch.channels_last)).contiguous()


def sample(models: Models, prompts: list[str], seeds: list[int], **options) -> ndarray:
    """Prompts and seeds to pictures, uint8 [B, 64, 64, 3]; options as for :func:`sample_latents`.

    Picture k equals the picture made alone with its seed, to within 1 of 255 (a U-Net call rounds differently by batch).
    """
    return to_picture(decode_quickly(models, sample_latents(models, prompts, seeds, **options))).numpy()


def compile_unet(models: Models) -> Models:
    """The same models with a compiled U-Net (and channels last in memory): slow to begin, faster from then on.

    The first call takes up to a minute or more, and so does the first call with another batch size (after eight of them the
    rest run as if not compiled). It pays for hundreds of pictures. The models given are left as they are: they and the new
    ones share all but the U-Net. Its weights become constants of the compiled code, which lets the compiler lay them out in
    memory once for all: do not change them afterwards. From then on this holds for whatever the process compiles for use
    without gradients.

    Raises:
        UserError: where torch.compile doesn't work, most often because there is no C++ compiler.
    """
    try:  # a small function first: what is missing shows in seconds, and here rather than in the middle of a picture
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=models.device))
    except Exception as error:
        advice = "install a C++ compiler (g++, or Xcode's command line tools on macOS) or go without compiling"
        raise UserError(f"torch.compile doesn't work here ({type(error).__name__}): {advice}.") from None
    torch._inductor.config.freezing = True  # as an option of `compile` alone it has no effect
    unet = copy.deepcopy(models.unet).to(memory_format=torch.channels_last)
    unet.compile(dynamic=False)  # code for one batch size each: code for any is slower
    return dataclasses.replace(models, unet=unet)
