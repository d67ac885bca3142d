"""Sampling: from a prompt and a seed to a picture, one loop for all samplers (notebooks 05 and 09).

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

from .errors import UserError
from .images import to_picture
from .models import Models
from .settings import DEFAULT_SAMPLING, SAMPLER_NAMES, Sampling, adjust
from .storage.schedules import OTHERS, REFUSALS, check_schedule, reason
from .storage.threads import few_pictures

SAMPLERS = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


def build_sampler(models: Models, sampler: str, steps: int, inpainting: bool = False):
    """A scheduler of diffusers' on the model's own noise schedule, its timesteps set: ``steps`` of them, the noisiest first.

    "own" is the scheduler that the checkpoint names (PNDM in Stable Diffusion 1.5, Euler in SD-Turbo).

    Raises:
        UserError: for an unknown sampler, and for what the checkpoint's schedule can't do.
    """
    if sampler not in SAMPLER_NAMES:
        raise UserError(f"There is no sampler {sampler!r}: choose one of {', '.join(SAMPLER_NAMES)}.")
    own = copy.copy(models.scheduler)  # takes no time; a new one would take some milliseconds
    check_schedule(own, sampler, steps)
    # Settings of old checkpoints that the library's pipelines mend, not all of them the same ones.
    mended = {"steps_offset": 1, "skip_prk_steps": True} if inpainting else {"steps_offset": 1, "clip_sample": False}
    own.register_to_config(**{key: value for key, value in mended.items() if key in own.config})
    kind = SAMPLERS.get(sampler, type(own))
    options = {}
    if sampler in ("dpm++", "unipc"):
        # A solver of order 2, whose last step, of order 1, ends at no noise at all: order 2 would divide by zero there.
        options = {"solver_order": 2, "final_sigmas_type": "zero"}
    elif "clip_sample" not in own.config:
        options = {"clip_sample": False}  # the other two would hold latents within -1..1, as if they were pixels
    try:
        scheduler = own if type(own) is kind else kind.from_config(own.config, **options)
        scheduler.set_timesteps(steps)  # on the CPU: looking up a step there does not wait for a GPU
    except REFUSALS as error:
        raise UserError(f"{steps} steps can't be made with {kind.__name__} ({reason(error)}): {OTHERS}.") from None
    if not hasattr(scheduler, "sigmas"):
        # "trailing" rounds to one too many for 61 steps and some others: -1, which is looked up as the noisiest of all
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
    noise = [torch.randn(1, *size, generator=g) for g in streams]
    return torch.cat(noise).to(models.device, models.unet.dtype)


class Guide:
    """What the U-Net is told while it denoises: the prompts, and how much guidance at which step.

    ``text`` and ``negative`` are ``encoder_hidden_states`` [B, 77, 128] of the prompts and of what to steer away from.
    """

    def __init__(self, unet, text: Tensor, negative: Tensor, scale: float, interval: tuple[float, float] = (0.0, 1.0)):
        self.unet = unet
        self.text = text
        self.both = torch.cat([negative, text])  # one call of the U-Net answers both
        self.scale = scale
        self.interval = interval

    def predict(self, scheduler, z: Tensor, t: Tensor, step: int, steps: int) -> Tensor:
        """The guided prediction for noisy latents ``z`` [B, 8, 16, 16] at timestep ``t``, which is ``step`` of ``steps``."""
        start, stop = self.interval
        told = t.float() if t.dtype == torch.float64 else t  # Apple's GPUs have no double precision
        guided = int(start * steps) <= step < int(stop * steps)
        if self.scale <= 1 or not guided:
            given = scheduler.scale_model_input(z, t)
            return self.unet(given, told, encoder_hidden_states=self.text).sample
        given = scheduler.scale_model_input(torch.cat([z, z]), t)
        unconditional, conditional = self.unet(given, told, encoder_hidden_states=self.both).sample.chunk(2)
        return unconditional + self.scale * (conditional - unconditional)


def build_guide(models: Models, prompts: list[str], sampling: Sampling) -> Guide:
    """Encode the prompts and the negative prompt, each text once however often it is asked for."""
    texts = list(dict.fromkeys([*prompts, sampling.negative_prompt]))
    states = models.encode_text(texts)  # [texts, 77, 128]
    text = states[[texts.index(prompt) for prompt in prompts]]
    negative = states[[texts.index(sampling.negative_prompt)] * len(prompts)]
    return Guide(models.unet, text, negative, sampling.guidance_scale, sampling.guidance_interval)


@torch.no_grad()
def denoise(
    z: Tensor,
    scheduler,
    guide: Guide,
    streams: list[torch.Generator],
    first_step: int = 0,
    blend: Callable[[int, Tensor], Tensor] | None = None,
    on_step: Callable[[int, Tensor, Tensor], None] | None = None,
    progress: bool = True,
) -> Tensor:
    """Noisy latents [B, 8, 16, 16] at the noise level of ``first_step`` -> clean latents.

    Samplers that draw noise take it from ``streams``, one for each picture, which go on from where they are. After each step
    ``blend(step, latents)`` may return other latents (inpainting puts back what is to stay), and
    ``on_step(step, timestep, latents)`` sees them.
    """
    from tqdm.auto import tqdm

    taken = inspect.signature(scheduler.step).parameters
    options: dict[str, object] = {"generator": streams} if "generator" in taken else {}
    if "eta" in taken:
        options["eta"] = 0.0  # as the library's pipelines do: no noise where the sampler leaves the choice
    timesteps = scheduler.timesteps
    n = len(timesteps)  # some schedulers take more than they were asked for
    for i in tqdm(range(first_step, n), desc="denoise", disable=not progress, leave=False):
        t = timesteps[i]
        predicted = guide.predict(scheduler, z, t, i, n)
        try:
            z = scheduler.step(predicted, t, z, **options).prev_sample
        except REFUSALS as error:
            raise UserError(f"{type(scheduler).__name__} can't sample this checkpoint ({reason(error)}): {OTHERS}.") from None
        if blend:
            z = blend(i, z)
        if on_step:
            on_step(i, t, z)
    return z


def sample_latents(
    models: Models,
    prompts: list[str],
    seeds: list[int],
    sampling: Sampling = DEFAULT_SAMPLING,
    *,
    latents: Tensor | None = None,
    height: int | None = None,
    width: int | None = None,
    on_step: Callable[[int, Tensor, Tensor], None] | None = None,
    progress: bool = True,
    **options,
) -> Tensor:
    """Prompts and seeds to clean latents [B, 8, 16, 16], or as large as ``height`` and ``width`` (pixels) ask for.

    ``options`` are fields of :class:`Sampling` that differ from ``sampling``: ``steps=50`` (see :func:`settings.adjust`).
    ``latents`` [B, 8, 16, 16] replaces the noise that the seeds would give. ``on_step(step, timestep, latents)`` sees the
    latents after each step.

    Raises:
        UserError: for an unknown sampler, an interval that is none, a size that can't be, or when there are not as many
            seeds as prompts.
    """
    sampling = adjust(sampling, **options)
    if len(prompts) != len(seeds):
        raise UserError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}.")
    scheduler = build_sampler(models, sampling.sampler, sampling.steps)
    guide = build_guide(models, prompts, sampling)
    streams = generators(seeds)
    z = initial_latents(models, streams, height, width)
    if latents is not None:
        z = latents.to(z)
    z = z * scheduler.init_noise_sigma  # 1 for most; Euler's steps count noise in other units
    with few_pictures(len(z)):
        return denoise(z, scheduler, guide, streams, on_step=on_step, progress=progress)


def decode_quickly(models: Models, latents: Tensor) -> Tensor:
    """:meth:`Models.decode` with channels last in memory: on a CPU about a fifth faster, equal to about 1e-5."""
    return models.decode(latents.to(memory_format=torch.channels_last)).contiguous()


def decode_pictures(models: Models, latents: Tensor) -> ndarray:
    """Clean latents [B, 8, 16, 16] -> pictures, uint8 [B, 64, 64, 3].

    Raises:
        UserError: for latents that are no numbers (NaN or infinite), which would be black pictures.
    """
    images = decode_quickly(models, latents)
    if not images.isfinite().all():
        raise UserError(f"What was sampled is not finite, the schedule can't be sampled so: {OTHERS}, or compute in float32.")
    return to_picture(images).numpy()


def sample(models: Models, prompts: list[str], seeds: list[int], sampling: Sampling = DEFAULT_SAMPLING, **options) -> ndarray:
    """Prompts and seeds to pictures, uint8 [B, 64, 64, 3]; options as for :func:`sample_latents`.

    Picture k equals the picture made alone with its seed, to within 1 of 255 (a U-Net call rounds differently by batch).

    Raises:
        UserError: as :func:`sample_latents` and :func:`decode_pictures` do.
    """
    return decode_pictures(models, sample_latents(models, prompts, seeds, sampling, **options))


def compile_unet(models: Models) -> Models:
    """The same models with a compiled U-Net (and channels last in memory): slow to begin, faster from then on.

    The first call takes up to a minute or more, and so does the first call with another batch size (after eight of them the
    rest run as if not compiled). It pays for hundreds of pictures. The models given are left as they are: they and the new
    ones share all but the U-Net, whose weights must not be changed afterwards.

    Raises:
        UserError: where torch.compile doesn't work, most often because there is no C++ compiler.
    """
    try:  # a small function first: what is missing shows in seconds, and here rather than in the middle of a picture
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=models.device))
    except Exception as error:
        advice = "install a C++ compiler (g++, or Xcode's command line tools on macOS) or go without compiling"
        raise UserError(f"torch.compile doesn't work here ({type(error).__name__}): {advice}.") from None
    unet = copy.deepcopy(models.unet).to(memory_format=torch.channels_last)
    compiled = torch.compile(unet.forward, dynamic=False)  # code for one batch size each: code for any is slower

    def forward(*inputs, **named):
        # Frozen, the weights are constants that the compiler lays out in memory once for all. As an option of torch.compile
        # this has no effect; here it holds while this U-Net is compiled and for nothing else.
        with torch._inductor.config.patch(freezing=True):
            return compiled(*inputs, **named)

    unet.forward = forward
    return dataclasses.replace(models, unet=unet)
