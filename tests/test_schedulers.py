"""Every scheduler that diffusers exports, with every sampler and task: the pictures of diffusers' own pipelines, or a sentence.

The rule: where the library's pipeline makes a picture, ours is the same to 1 of 255. A sentence may take its place only where
the library fails or makes no numbers, for flow matching, for more steps than there were in training, and for a sampler that
the checkpoint names no betas for.
"""

import inspect
import re

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    SchedulerMixin,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from transformers import CLIPTextConfig, CLIPTextModel

from ldm_tutorial.editing import img2img, inpaint
from ldm_tutorial.errors import UserError
from ldm_tutorial.models import Models
from ldm_tutorial.sampling import SAMPLERS, generators, sample

# Stable Diffusion's own schedule; all else as the class has it, which is not what published checkpoints say.
SETTINGS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
# What some cannot be made without.
NEEDED = {
    "AmusedScheduler": {"mask_token_id": 5},
    "RFD4ProteinaScheduler": {"schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.0, "tsr_sigma": 1.0},
    "UnCLIPScheduler": {"beta_schedule": "squaredcos_cap_v2"},
    "VQDiffusionScheduler": {"num_vec_classes": 8},
}
EXPORTED = [name for name in dir(diffusers) if name.endswith("Scheduler")]
# These sample latents and edit pictures, each as the library's pipelines do.
WHOLE = [
    "CMStochasticIterative", "CogVideoXDDIM", "DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep",
    "DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep", "EDMDPMSolverMultistep", "EDMEuler",
    "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM",
    "LMSDiscrete", "PNDM", "SASolver", "TCD", "UniPCMultistep",
]  # fmt: skip
SAMPLE_ONLY = ["DDIMInverse", "IPNDM"]  # these can't add noise to a picture
TASKS = [("text", 1.0), *(("img2img", strength) for strength in (0.25, 0.5, 0.75, 1.0)), ("inpaint", 0.5), ("inpaint", 1.0)]
STEPS = 6


@pytest.fixture(scope="module")
def parts(tokenizer) -> dict:
    """Random networks on latents of 8 x 8, as small as can be."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4, block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=2,
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
        block_out_channels=(4, 8), norm_num_groups=2, latent_channels=4, sample_size=16, scaling_factor=0.18215,
    )  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=77, projection_dim=16, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    networks = {"vae": vae, "unet": unet, "text_encoder": CLIPTextModel(config)}
    for network in networks.values():
        network.requires_grad_(False).eval()
    return {**networks, "tokenizer": tokenizer}


PICTURE = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
MASK = np.zeros((1, 16, 16), bool)
MASK[:, :, 8:] = True


def build(name: str, **settings) -> SchedulerMixin:
    return getattr(diffusers, name).from_config({**SETTINGS, **NEEDED.get(name, {}), **settings})


def theirs(parts: dict, own, sampler: str, task: str, strength: float) -> np.ndarray | None:
    """The pipeline's picture; None where it raises or is not finite."""
    kinds = {
        "text": StableDiffusionPipeline,
        "img2img": StableDiffusionImg2ImgPipeline,
        "inpaint": StableDiffusionInpaintPipeline,
    }
    images = torch.from_numpy(PICTURE).permute(0, 3, 1, 2) / 127.5 - 1
    masks = torch.from_numpy(MASK)[:, None].float()
    more = {
        "text": {},
        "img2img": {"image": images, "strength": strength},
        "inpaint": {"image": images, "mask_image": masks, "strength": strength, "height": 16, "width": 16},
    }
    try:
        left_out = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = kinds[task](**parts, scheduler=own, **left_out)
        config, other = pipe.scheduler.config, SAMPLERS.get(sampler)  # the pipeline has mended some settings
        if other in (DPMSolverMultistepScheduler, UniPCMultistepScheduler) and type(own) is not other:
            pipe.scheduler = other.from_config(config, solver_order=2, final_sigmas_type="zero")
        elif other and type(own) is not other:
            pipe.scheduler = other.from_config(config, **({} if "clip_sample" in config else {"clip_sample": False}))
        pipe.set_progress_bar_config(disable=True)
        how = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "generator": generators([1]), "output_type": "np"}
        pictures = pipe(["a mug"], **more[task], **how).images
    except Exception:  # whatever the library says
        return None
    return (pictures * 255).round().astype(int) if np.isfinite(pictures).all() else None


def ours(parts: dict, own, sampler: str, task: str, strength: float) -> np.ndarray | str:
    """Our picture, or the sentence."""
    models = Models(**parts, scheduler=own)
    how = {"steps": STEPS, "sampler": sampler, "guidance_scale": 3.0, "progress": False}
    try:
        if task == "text":
            return sample(models, ["a mug"], [1], **how).astype(int)
        if task == "img2img":
            return img2img(models, PICTURE, ["a mug"], [1], strength, **how).astype(int)
        return inpaint(models, PICTURE, MASK, ["a mug"], [1], strength, paste=False, **how).astype(int)
    except UserError as error:
        sentence = str(error)
        assert sentence.endswith(".") and "\n" not in sentence, sentence
        return sentence


def compare(parts: dict, name: str, sampler: str, task: str, strength: float, **settings) -> str:
    """The word "equal", or the sentence where one may stand; AssertionError for anything else."""
    what = f"{name} {settings or ''} {sampler} {task} {strength}"
    expected = theirs(parts, build(name, **settings), sampler, task, strength)
    found = ours(parts, build(name, **settings), sampler, task, strength)
    if isinstance(found, str):
        own = build(name, **settings)
        flow = "Flow" in name or own.config.get("use_flow_sigmas")
        without_betas = sampler != "own" and not own.config.get("beta_schedule")
        too_many = own.config.get("num_train_timesteps", STEPS) < STEPS
        assert expected is None or flow or without_betas or too_many, f"{what}: {found}"
        return found
    assert expected is not None, f"{what}: a picture where the library has none"
    assert found.max() > 0, f"{what}: all black"
    assert np.abs(found - expected).max() <= 1, f"{what}: differs by {np.abs(found - expected).max()} of 255"
    return "equal"


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_every_exported_scheduler(parts, name):
    if getattr(getattr(diffusers, name), "_backends", None):
        with pytest.raises(ImportError):  # a stand-in: loading such a checkpoint names the package, see test_checkpoints.py
            build(name)
        return
    found = {(sampler, task): "equal" for sampler in ("own", *SAMPLERS) for task in TASKS}
    for sampler, task in found:
        found[sampler, task] = compare(parts, name, sampler, *task)
    short = name.removesuffix("Scheduler")
    own = {task: found["own", task] for task in TASKS}
    if short in WHOLE:
        assert set(own.values()) == {"equal"}, own
    if short in SAMPLE_ONLY:
        assert own.pop(("text", 1.0)) == "equal" and all("can't edit" in sentence for sentence in own.values()), own


@pytest.mark.parametrize(
    "name", ["EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "PNDM", "LCM", "EDMEuler", "SASolver"]
)
def test_a_few_schedulers(parts, name):
    """Of each kind one: with sigmas, that draws noise, of order 2, with steps of its own, distilled, without betas."""
    for task in (("text", 1.0), ("img2img", 0.5), ("inpaint", 0.5)):
        assert compare(parts, f"{name}Scheduler", "own", *task) == "equal"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_samplers_on_another_schedule(parts, sampler):
    for task in TASKS:
        assert compare(parts, "LMSDiscreteScheduler", sampler, *task) == "equal"


CHANGES = [
    {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}, {"timestep_spacing": "leading"},
    {"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}, {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}, {"use_lu_lambdas": True}, {"rescale_betas_zero_snr": True},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    {"thresholding": True}, {"final_sigmas_type": "sigma_min"}, {"final_sigmas_type": "zero"}, {"solver_order": 1},
    {"solver_order": 3}, {"algorithm_type": "sde-dpmsolver++"}, {"algorithm_type": "dpmsolver"},
    {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, {"algorithm_type": "sde-dpmsolver"},
    {"solver_type": "heun"}, {"solver_type": "bh1"}, {"euler_at_final": True}, {"lower_order_final": False},
    {"skip_prk_steps": True}, {"clip_sample": False}, {"steps_offset": 1},
    {"beta_schedule": "linear"}, {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": torch.linspace(0.001, 0.02, 1000).tolist()}, {"set_alpha_to_one": False},
    {"variance_type": "fixed_large"}, {"variance_type": "learned_range"}, {"interpolation_type": "log_linear"},
    {"timestep_type": "continuous"}, {"num_train_timesteps": 100}, {"num_train_timesteps": 4}, {"predict_x0": False},
    {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, {"sigma_min": 0.1}, {"sigma_schedule": "karras"},
    {"original_inference_steps": 4}, {"lambda_min_clipped": -5.1},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{name}Scheduler" for name in WHOLE if not name.startswith("KDPM2")])
def test_every_setting_of_a_scheduler(parts, name):
    taken = inspect.signature(getattr(diffusers, name)).parameters
    found = []
    for settings in CHANGES:
        if not set(settings) <= set(taken):
            continue
        try:
            build(name, **settings)
        except (ValueError, NotImplementedError):
            continue  # no checkpoint can hold this
        for task in (("text", 1.0), ("img2img", 0.5), ("inpaint", 0.5)):
            found.append(compare(parts, name, "own", *task, **settings))
    assert found.count("equal") > len(found) / 2, found


@pytest.mark.parametrize(
    "name, sampler, settings, says",
    [
        ("DDPMScheduler", "ddim", {"num_train_timesteps": 5}, "6 steps are more than the 5 that"),
        ("DDPMScheduler", "dpm++", {"num_train_timesteps": 5}, "6 steps are more than the 5 that"),
        ("LCMScheduler", "own", {"original_inference_steps": 4}, "can't be made with LCMScheduler .*number of steps"),
        ("FlowMatchEulerDiscreteScheduler", "own", {}, "flow matching"),
        ("UniPCMultistepScheduler", "ddim", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, "flow matching"),
        ("EDMEulerScheduler", "ddim", {"beta_schedule": None}, "no schedule of betas for 'ddim'"),
        ("RePaintScheduler", "own", {}, "another kind of model"),
        ("DDPMScheduler", "own", {"variance_type": "learned_range"}, "predicts the variance too"),
        ("PNDMScheduler", "own", {"prediction_type": "sample"}, "PNDMScheduler can't sample this checkpoint"),
        ("DDIMScheduler", "own", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, "not finite"),
    ],
)
def test_what_a_schedule_cannot_do(parts, name, sampler, settings, says):
    found = ours(parts, build(name, **settings), sampler, "text", 1.0)
    assert isinstance(found, str)
    assert re.search(says, found), found
    if name == "DDIMScheduler":  # the control: the same schedule with v, which zero noise-to-signal is made for
        assert compare(parts, name, sampler, "text", 1.0, **settings, prediction_type="v_prediction") == "equal"
