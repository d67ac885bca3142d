"""How pictures are sampled, as one object. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .errors import UserError

SAMPLER_NAMES = ("ddim", "ddpm", "dpm++", "unipc", "own")


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled.

    ``sampler`` is one of :data:`SAMPLER_NAMES`; "own" is the one that the checkpoint names. A ``guidance_scale`` of at most
    1 means no guidance: the unconditional half is not computed. Nor is it outside ``guidance_interval``, two fractions of the
    run (0 is its noisy start, 1 its end). ``negative_prompt`` takes the place of the empty text in guidance.

    Raises:
        UserError: for an interval that is none.
    """

    sampler: str = "ddim"
    steps: int = 20
    guidance_scale: float = 3.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    negative_prompt: str = ""

    def __post_init__(self):
        start, stop = self.guidance_interval
        if not 0 <= start <= stop <= 1:
            raise UserError(
                f"The guidance interval {self.guidance_interval} must be two fractions with 0 <= start <= stop <= 1."
            )


# As the papers and diffusers' pipelines have it: DDIM, evenly spaced timesteps, guidance in every step.
PLAIN_SAMPLING = Sampling()
# Chosen on trained pairs and held-out pairs for choices, by the rule in benchmarks/choose_sampling.py.
DEFAULT_SAMPLING = Sampling("unipc", 12, 3.0, (0.15, 0.75))


def adjust(sampling: Sampling, **fields) -> Sampling:
    """A way of sampling with other values for some of its fields.

    Steps and interval of :data:`DEFAULT_SAMPLING` were chosen for its own sampler. Who names a sampler and starts from the
    default therefore gets :data:`PLAIN_SAMPLING` with that sampler, and so what diffusers' pipeline would draw.
    """
    if "sampler" in fields and sampling == DEFAULT_SAMPLING:
        sampling = PLAIN_SAMPLING
    return replace(sampling, **fields)
