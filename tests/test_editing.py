"""Editing: the same pictures as diffusers' own pipelines make, what is outside a mask kept, and `ldm edit`."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image

from ldm_tutorial.checkpoints import load_checkpoint
from ldm_tutorial.editing import edit_latents, img2img, inpaint, read_picture
from ldm_tutorial.errors import UserError
from ldm_tutorial.models import load_models
from ldm_tutorial.sampling import generators, sample_latents
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


def test_a_later_start_is_the_rest_of_the_run(models):
    """Latents seen after two steps, put in again with skip=2, end where the whole run ends."""
    seen = {}
    z = sample_latents(models, PROMPTS, [1, 2], callback=lambda i, t, z: seen.update({i: z}), **FEW)
    torch.testing.assert_close(sample_latents(models, PROMPTS, [1, 2], latents=seen[1], skip=2, **FEW), z)
    steps = []
    sample_latents(models, PROMPTS, [1, 2], latents=seen[1], skip=2, callback=lambda i, t, z: steps.append(i), **FEW)
    assert steps == [2, 3, 4]


def test_a_callback_may_replace_the_latents(models):
    kept = torch.full((2, 8, 16, 16), 0.25)
    z = sample_latents(models, PROMPTS, [1, 2], callback=lambda i, t, z: kept if i == 4 else None, **FEW)
    assert z is kept


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
        ({"strength": 0}, "strength 0 won't do"),
        ({"strength": 1.1}, "strength 1.1 won't do"),
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


# --- files ----------------------------------------------------------------------------------------------------------


def test_pictures_of_every_kind_are_read(tmp_path):
    rgb = Image.fromarray(shot(64, 1)[0])
    rgb.save(tmp_path / "plain.png")
    picture, place, note = read_picture(tmp_path / "plain.png", 64)
    assert np.array_equal(picture, np.asarray(rgb)) and place is None and note == ""
    exif = rgb.getexif()
    exif[0x0112] = 6  # the camera was turned
    rgb.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "turned.png", 64)[0], np.rot90(np.asarray(rgb), -1))
    rgb.convert("L").save(tmp_path / "grey.png")
    grey = read_picture(tmp_path / "grey.png", 64)[0]
    assert (grey[..., 0] == grey[..., 2]).all()
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png", 64)[0] == 255).all()
    rgb.resize((128, 96)).save(tmp_path / "wide.jpg")
    Image.new("L", (2000, 40)).save(tmp_path / "strip.png")
    with pytest.raises(UserError, match="2000 x 40 pixels: give a smaller or squarer one"):
        read_picture(tmp_path / "strip.png", 64)
    picture, _, note = read_picture(tmp_path / "wide.jpg", 64)
    assert picture.shape == (64, 64, 3) and "128 x 96" in note and note.endswith(".")


def test_masks_are_read_and_cut_like_their_pictures(tmp_path):
    Image.new("RGB", (128, 64)).save(tmp_path / "a.png")
    mask = np.zeros((64, 128), np.uint8)
    mask[:, 64:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert np.array_equal(read_picture(tmp_path / "a.png", 64, tmp_path / "mask.png")[1], half()[0])
    layer = Image.new("RGBA", (128, 64))  # strokes on a clear layer: what is not painted stays
    layer.paste("white", (64, 0, 128, 64))
    layer.save(tmp_path / "layer.png")
    assert np.array_equal(read_picture(tmp_path / "a.png", 64, tmp_path / "layer.png")[1], half()[0])


# --- ldm edit -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ldm(ldm, monkeypatch, tmp_path):
    """Runs `ldm ...` in a folder with a picture and masks: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(shot(64, 1)[0]).save("a.png")
    Image.fromarray(half()[0].astype(np.uint8) * 255).save("mask.png")
    Image.new("L", (64, 64)).save("empty.png")
    Image.new("L", (32, 64), "white").save("small.png")
    (tmp_path / "text.png").write_text("no picture")
    return ldm


def test_edit(ldm, tiny_folder, models, tmp_path):
    more = ["--seed", 3, "--steps", 5, "--model", tiny_folder]
    status, out, said = ldm("edit", "a.png", "a golden mug", "--out", "new/b.png", "--strength", "0.5", *more)
    assert (status, out) == (0, "wrote new/b.png\n"), said
    expected = img2img(models, shot(64, 1), ["a golden mug"], [3], 0.5, **FEW)[0]
    found = np.asarray(Image.open(tmp_path / "new" / "b.png")).astype(int)
    assert np.abs(found - expected).max() <= 1
    status, out, _ = ldm("edit", "a.png", "a golden mug", "--mask", "mask.png", "--guidance", 2, *more)
    assert (status, out) == (0, "wrote edited.png\n")
    expected = inpaint(models, shot(64, 1), half(64, 1), ["a golden mug"], [3], guidance_scale=2, **FEW)[0]
    found = np.asarray(Image.open(tmp_path / "edited.png")).astype(int)
    assert np.abs(found - expected).max() <= 1


def test_edit_fits_the_picture_and_says_so(ldm, tiny_folder, tmp_path):
    Image.new("RGB", (200, 90), "red").save(tmp_path / "wide.jpg")
    status, _, said = ldm("edit", "wide.jpg", "a golden mug", "--steps", 2, "--model", tiny_folder)
    assert status == 0 and "200 x 90" in said
    assert Image.open(tmp_path / "edited.png").size == (64, 64)


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["none.png", "a mug"], "no picture 'none.png'"),
        (["text.png", "a mug"], "can't be read"),
        (["a.png", " "], "empty"),
        (["a.png", "a mug", "--mask", "none.png"], "no mask 'none.png'"),
        (["a.png", "a mug", "--mask", "text.png"], "can't be read"),
        (["a.png", "a mug", "--mask", "small.png"], "32 x 64 pixels, the picture 64 x 64"),
        (["a.png", "a mug", "--mask", "empty.png"], "is empty"),
        *((["a.png", "a mug", "--strength", bad], f"strength '{bad}'") for bad in ("0", "1.5", "-1", "x", "nan")),
        (["a.png", "a mug", "--strength", "0.3", "--steps", "2"], "no step at all"),
        (["a.png", "a mug", "--seed", "-1"], "seed"),
        (["a.png", "a mug", "--guidance", "x"], "guidance"),
        (["a.png", "a mug", "--out", "b.jpg"], "'b.jpg'"),
        (["a.png", "a mug", "--out", "a.png"], "picture itself"),
        (["a.png", "a mug", "--model", "no/such/folder"], "no/such/folder"),
        (["a.png", "a mug", "--model", "stabilityai/sd-turbo"], "not on this machine"),
    ],
)
def test_edit_says_what_is_wrong(ldm, tiny_folder, tmp_path, arguments, named):
    before = sorted(tmp_path.iterdir())
    model = [] if "--model" in arguments else ["--model", tiny_folder]
    status, out, said = ldm("edit", *arguments, *model)
    assert status == 2 and out == "" and named in said and said.startswith("ldm: ") and said.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
