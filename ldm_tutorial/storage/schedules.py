"""A checkpoint's scheduler: can it be driven as Stable Diffusion's pipelines do it, and what does it say when it can't?"""

from __future__ import annotations

import inspect

from ..errors import UserError

OTHERS = "choose another number of steps, or another sampler"
REFUSALS = (ValueError, NotImplementedError, IndexError, AssertionError)  # how schedulers say what they can't do


def check_schedule(own, sampler: str, steps: int) -> None:
    """Can the checkpoint's scheduler, or another one on its noise schedule, be driven as Stable Diffusion's pipelines do it?"""
    name, config = type(own).__name__, own.config
    if "Flow" in name or config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction":
        raise UserError(f"The checkpoint's {name} is for flow matching; these samplers are for models that predict noise or v.")
    if str(config.get("variance_type")).startswith("learned"):
        raise UserError(f"The checkpoint's {name} expects a U-Net that predicts the variance too, which this one does not.")
    trained = config.get("num_train_timesteps", steps)
    if steps > trained:
        raise UserError(f"{steps} steps are more than the {trained} that the checkpoint was trained with: give fewer.")
    if sampler != "own" and not config.get("beta_schedule"):
        raise UserError(f"The checkpoint's {name} has no schedule of betas for {sampler!r} to follow: choose its own sampler.")
    if sampler == "own" and not is_sampler(own):
        raise UserError(f"The checkpoint's {name} is made for another kind of model than a U-Net on latents: {OTHERS}.")


def is_sampler(scheduler) -> bool:
    """Has it what the pipelines use, and a step that wants no more than (model_output, timestep, sample)?"""
    used = ("set_timesteps", "scale_model_input", "init_noise_sigma", "order", "step")
    if not all(hasattr(scheduler, name) for name in used):
        return False
    parameters = inspect.signature(scheduler.step).parameters.values()
    return [p.name for p in parameters if p.default is p.empty] == ["model_output", "timestep", "sample"]


def reason(error: Exception) -> str:
    """The first line of what a scheduler says."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
