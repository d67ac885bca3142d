"""Editing: the same pictures as diffusers' own pipelines make, and what is outside a mask kept."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline

from ldm_tutorial.checkpoints import load_checkpoint, load_models
from ldm_tutorial.editing import edit_latents, img2img, inpaint
from ldm_tutorial.errors import UserError
from ldm_tutorial.sampling import generators
from tests.test_checkpoints import build, one_sentence, pipeline

PROMPTS = ["a golden mug", "a duck"]
FEW = {"steps": 5, "progress": False}


@pytest.fixture(scope="module")
def models(tiny_folder):
    return load_models(tiny_folder, "cpu")


@pytest.fixture(scope="module", params=["sd15", "sd21v", "turbo"])
def other(request, tokenizer, tmp_path_factory):
    """(folder, its models) of a tiny checkpoint of Stable Diffusion's layout."""
    folder = build(request.param, tmp_path_factory.mktemp("edit") / request.param, tokenizer)
    return folder, load_checkpoint(folder, device="cpu")


def shot(size: int = 64, n: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def half(size: int = 64, n: int = 2) -> np.ndarray:
    mask = np.zeros((n, size, size), bool)
    mask[:, :, size // 2 :] = True
    return mask


# --- diffusers' own pipelines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_img2img_is_the_librarys(other, strength):
    folder, models = other
    pipe = pipeline(folder, StableDiffusionImg2ImgPipeline)
    how = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "latent"}
    images = torch.from_numpy(shot()).permute(0, 3, 1, 2) / 127.5 - 1
    theirs = pipe(PROMPTS, images, strength=strength, generator=generators([1, 2]), **how).images
    mine = edit_latents(models, shot(), PROMPTS, [1, 2], strength, sampler="own", **FEW)
    torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=2e-4)
    other_noise = edit_latents(models, shot(), PROMPTS, [3, 4], strength, sampler="own", **FEW)
    assert (mine - other_noise).abs().max() > 0.01


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_inpaint_is_the_librarys(other, strength):
    folder, models = other
    pipe = pipeline(folder, StableDiffusionInpaintPipeline)
    how = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "latent", "height": 64, "width": 64}
    images = torch.from_numpy(shot()).permute(0, 3, 1, 2) / 127.5 - 1
    masks = torch.from_numpy(half())[:, None].float()
    theirs = pipe(PROMPTS, images, masks, strength=strength, generator=generators([1, 2]), **how).images
    mine = edit_latents(models, shot(), PROMPTS, [1, 2], strength, masks=half(), sampler="own", **FEW)
    torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=2e-4)
    whole = edit_latents(models, shot(), PROMPTS, [1, 2], strength, sampler="own", **FEW)
    assert (mine - whole)[..., :4].abs().max() > 0.01  # the mask matters


# --- what editing means ---------------------------------------------------------------------------------------------


def test_on_step_only_watches(models):
    seen = []
    z = edit_latents(models, shot(), PROMPTS, [1, 2], 0.6, on_step=lambda i, t, z: seen.append((i, z.clone())), **FEW)
    assert [i for i, _ in seen] == [2, 3, 4] and torch.equal(seen[-1][1], z)
    again = edit_latents(models, shot(), PROMPTS, [1, 2], 0.6, on_step=lambda i, t, z: torch.zeros_like(z), **FEW)
    assert torch.equal(again, z)


def test_little_strength_keeps_much(models):
    clean = models.encode(torch.from_numpy(shot()).permute(0, 3, 1, 2) / 127.5 - 1)
    far = [(edit_latents(models, shot(), PROMPTS, [1, 2], s, **FEW) - clean).std() for s in (0.2, 0.6, 1.0)]
    assert far[0] < far[1] < far[2]


def test_outside_the_mask_all_stays(models):
    images, masks = shot(), half()
    made = inpaint(models, images, masks, PROMPTS, [1, 2], **FEW)
    assert made.shape == (2, 64, 64, 3) and made.dtype == np.uint8
    assert np.array_equal(made[~masks], images[~masks]) and (made[masks] != images[masks]).mean() > 0.5
    decoded = inpaint(models, images, masks, PROMPTS, [1, 2], paste=False, **FEW)
    assert np.array_equal(made[masks], decoded[masks]) and not np.array_equal(decoded[~masks], images[~masks])
    z = edit_latents(models, images, PROMPTS, [1, 2], 1.0, masks=masks, **FEW)
    kept = models.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1, generators([1, 2]))
    assert torch.equal(z[..., :8], kept[..., :8])
    floats = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1  # the other form of pictures
    assert np.array_equal(inpaint(models, floats, torch.from_numpy(masks), PROMPTS, [1, 2], **FEW), made)


def test_another_size(models):
    assert img2img(models, shot(96, 1), PROMPTS[:1], [1], **FEW).shape == (1, 96, 96, 3)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"strength": 0}, "strength 0 must be"),
        ({"strength": 1.1}, "strength 1.1 must be"),
        ({"strength": float("nan")}, "strength nan"),
        ({"strength": 0.1}, "no step at all"),
        ({"seeds": [1]}, "2 pictures need as many"),
        ({"images": shot(66)}, "multiples of 4"),
        ({"images": shot()[0]}, "not of shape"),
        ({"masks": half(32)}, "pictures need .2, 64, 64."),
        ({"masks": np.zeros((2, 64, 64))}, "mask is empty"),
    ],
)
def test_bad_calls(models, options, says):
    with pytest.raises(UserError, match=says) as error:
        edit_latents(models, **{"images": shot(), "prompts": PROMPTS, "seeds": [1, 2], **FEW, **options})
    one_sentence(error)
