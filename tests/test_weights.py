"""What is shipped: whole, small, safe, and it draws what it is asked for."""

import json
import subprocess
import sys

import pytest
import torch

from ldm_tutorial.curios import held_out, pairs, plain
from ldm_tutorial.models import WEIGHTS, check_files, load_clip, load_models
from ldm_tutorial.sampling import generators as streams
from ldm_tutorial.sampling import initial_latents, sample, sample_latents

PROMPT = "an armchair made of avocado"


@pytest.fixture(scope="module")
def models():
    return load_models()


def test_files_are_whole_small_and_safetensors_only():
    check_files(WEIGHTS)
    files = [f for f in WEIGHTS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 16e6
    assert {f.suffix for f in files} <= {".safetensors", ".json"}
    listed = set(json.loads((WEIGHTS / "checksums.json").read_text()))
    assert listed == {f.relative_to(WEIGHTS).as_posix() for f in files} - {"checksums.json"}


def test_plain_diffusers_draws_the_same_picture_without_this_package(models, tmp_path):
    """In another process that may not import ldm_tutorial, from the same initial latents."""
    from safetensors.torch import load_file, save_file

    z = initial_latents(models, streams([7]))
    save_file({"z": z.cpu()}, tmp_path / "z.safetensors")
    script = """
import sys; sys.modules["ldm_tutorial"] = None
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
folder, prompt, path, out = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(folder)
z = load_file(path)["z"]
image = pipe(prompt, num_inference_steps=20, guidance_scale=3.0, latents=z, output_type="pt").images
save_file({"image": image.contiguous()}, out)
"""
    arguments = [str(WEIGHTS), PROMPT, str(tmp_path / "z.safetensors"), str(tmp_path / "out.safetensors")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)
    theirs = load_file(tmp_path / "out.safetensors")["image"]
    latents = sample_latents(models, [PROMPT], [7], progress=False)
    ours = (models.decode(latents) / 2 + 0.5).clamp(0, 1).cpu()
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_pictures_match_their_prompts_better_than_other_prompts(models):
    """CLIP names 24 generated pictures among all 288 pairs, held-out and trained ones; chance is 0.3%."""
    clip, every = load_clip(), pairs("all")
    asked = [p for p in every if held_out(*p)][::4] + [p for p in every if not held_out(*p)][::19]
    drawn = sample(models, [plain(*p) for p in asked], list(range(len(asked))), progress=False)
    tokens = models.tokenizer([plain(*p) for p in every], padding=True, return_tensors="pt").to(clip.device)
    pixels = torch.as_tensor(drawn).permute(0, 3, 1, 2).float().to(clip.device) / 127.5 - 1
    with torch.no_grad():
        named = clip(**tokens, pixel_values=pixels).logits_per_image.argmax(1)
    right = sum(every[i] == p for i, p in zip(named.tolist(), asked, strict=True))
    assert right >= 0.5 * len(asked), f"{right} of {len(asked)}"
