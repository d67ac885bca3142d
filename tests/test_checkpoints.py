"""Checkpoints of other origin: tiny random models in the layouts of Stable Diffusion, each beside diffusers' own pipeline."""

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from ldm_tutorial.attention import enlarge, record_attention, word_attention, word_tokens
from ldm_tutorial.checkpoints import KNOWN, load_checkpoint, load_models, save_models
from ldm_tutorial.errors import UserError
from ldm_tutorial.lab import stable_diffusion
from ldm_tutorial.sampling import generators, initial_latents, sample, sample_latents
from ldm_tutorial.storage.folders import choose_weights, complete_weights

PROMPTS = ["a golden mug on a blue background", "a duck"]
SHA = "0123456789abcdef0123456789abcdef01234567"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SCHEDULERS = {  # the settings of the published scheduler_config.json files
    "sd15": ("PNDMScheduler", {**BETAS, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1,
                               "clip_sample": False, "trained_betas": None}),
    "sd21v": ("DDIMScheduler", {**BETAS, "prediction_type": "v_prediction", "set_alpha_to_one": False, "steps_offset": 1,
                                "clip_sample": False, "skip_prk_steps": True, "trained_betas": None}),
    "turbo": ("EulerDiscreteScheduler", {**BETAS, "prediction_type": "epsilon", "timestep_spacing": "trailing",
                                         "interpolation_type": "linear", "set_alpha_to_one": False, "skip_prk_steps": True,
                                         "steps_offset": 1, "trained_betas": None, "use_karras_sigmas": False}),
}  # fmt: skip


def write_tokenizer(tokenizer, folder: Path, pad: str) -> None:
    """vocab.json and merges.txt, as in the published folders."""
    folder.mkdir(parents=True)
    tokenizer.backend_tokenizer.model.save(str(folder))
    tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))


def build(kind: str, folder: Path, tokenizer, variant: str | None = None) -> Path:
    """A tiny random checkpoint (a few ten thousand weights) in the layout of "sd15", "sd21v" or "turbo"."""
    torch.manual_seed(0)
    first = kind == "sd15"
    width, dtype = (16, torch.float16 if variant else torch.float32) if first else (24, torch.float32)
    down = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    unet = UNet2DConditionModel(
        sample_size=8 if kind != "sd21v" else 12, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(8, 8, 16), down_block_types=down,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=width,
        attention_head_dim=2 if first else [1, 2, 4], use_linear_projection=not first, upcast_attention=kind == "sd21v",
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1,
        block_out_channels=(4, 4, 8, 8), norm_num_groups=2, latent_channels=4, sample_size=64, scaling_factor=0.18215,
    )  # fmt: skip
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, hidden_act="quick_gelu" if first else "gelu", projection_dim=width, bos_token_id=0,
        eos_token_id=2, pad_token_id=1,
    ))  # fmt: skip
    for name, part in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        part.to(dtype).save_pretrained(folder / name, variant=variant)
    write_tokenizer(tokenizer, folder / "tokenizer", "<|endoftext|>" if first else "!")
    name, settings = SCHEDULERS[kind]
    (folder / "scheduler").mkdir()
    settings = {"_class_name": name, "_diffusers_version": "0.6.0", **settings}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    index = {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6.0", "scheduler": ["diffusers", name],
        "vae": ["diffusers", "AutoencoderKL"], "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"] if first else [None, None],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"] if first else [None, None],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def pipeline(folder: Path, kind=StableDiffusionPipeline, **more):
    """diffusers' own, without the filter, whose weights no test has."""
    off = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = kind.from_pretrained(str(folder), **off, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def layouts(tokenizer, tmp_path_factory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("layouts")
    return {kind: build(kind, top / kind, tokenizer) for kind in SCHEDULERS}


@pytest.fixture(scope="session")
def tiny_vae(tmp_path_factory) -> Path:
    """An AutoencoderTiny, as taesd is published: a folder of its own."""
    torch.manual_seed(1)
    few = {"encoder_block_out_channels": (4, 4, 4, 4), "decoder_block_out_channels": (4, 4, 4, 4)}
    vae = AutoencoderTiny(**few, num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1))
    vae.save_pretrained(folder := tmp_path_factory.mktemp("taesd"))
    return folder


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text, text
    return text


# --- the same pictures ----------------------------------------------------------------------------------------------

HOW = {  # steps, guidance
    "sd15": {"num_inference_steps": 4, "guidance_scale": 7.5, "negative_prompt": ["a bat"] * 2},
    "sd21v": {"num_inference_steps": 3, "guidance_scale": 5.0},
    "turbo": {"num_inference_steps": 1, "guidance_scale": 0.0},
}


def ours(models, kind: str, prompts=PROMPTS, seeds=(1, 2), **more) -> torch.Tensor:
    how = HOW[kind]
    negative = (how.get("negative_prompt") or [""])[0]
    options = {"steps": how["num_inference_steps"], "guidance_scale": how["guidance_scale"], "negative_prompt": negative}
    return sample_latents(models, list(prompts), list(seeds), sampler="own", progress=False, **options, **more)


@pytest.mark.parametrize("size", [None, (48, 80)])
@pytest.mark.parametrize("kind", HOW)
def test_the_pipelines_own_pictures(layouts, kind, size):
    models, pipe = load_checkpoint(layouts[kind], device="cpu"), pipeline(layouts[kind])
    size = {} if size is None else {"height": size[0], "width": size[1]}
    start = initial_latents(models, generators([1, 2]), **size)
    side = 12 if kind == "sd21v" else 8
    assert start.shape == ((2, 4, 6, 10) if size else (2, 4, side, side))
    z = ours(models, kind, **size)
    theirs = pipe(PROMPTS, latents=start, output_type="latent", **HOW[kind], **size).images
    torch.testing.assert_close(z, theirs, atol=1e-4, rtol=1e-4)
    pixels = pipe.vae.decode(theirs / pipe.vae.config.scaling_factor).sample
    torch.testing.assert_close(models.decode(z), pixels, atol=1e-4, rtol=1e-4)
    assert (z - start).abs().max() > 0.1  # it did something


def test_what_is_read_from_the_checkpoint_matters(layouts):
    """The equalities above would be empty if prediction type, guidance and size changed nothing."""
    models = load_checkpoint(layouts["sd21v"], device="cpu")
    z = ours(models, "sd21v")
    models.scheduler.register_to_config(prediction_type="epsilon")
    assert (ours(models, "sd21v") - z).abs().max() > 0.01
    assert models.factor == 8 and models.latent_shape() == (4, 12, 12)
    assert models.encode_text(PROMPTS).shape == (2, 77, 24)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++", "unipc", "own"])
def test_every_sampler_on_every_layout(layouts, sampler):
    for kind in SCHEDULERS:
        models = load_models(layouts[kind], "cpu")
        z = sample_latents(models, PROMPTS[:1], [1], steps=3, sampler=sampler, progress=False)
        assert z.isfinite().all() and z.shape[1:] == models.latent_shape()


def test_latents_are_not_clipped_like_pixels(layouts):
    """Euler's settings say nothing about clipping, and DDIM's default would hold latents within -1..1."""
    models = load_checkpoint(layouts["turbo"], device="cpu")
    models.unet.conv_out.weight.mul_(0), models.unet.conv_out.bias.fill_(0.0)  # no noise found: the start is the picture
    z = sample_latents(models, PROMPTS[:1], [1], steps=2, sampler="ddim", guidance_scale=1, progress=False)
    assert z.abs().max() > 5


def test_half_precision(layouts, tokenizer, tmp_path):
    folder = build("sd15", tmp_path / "half", tokenizer, variant="fp16")
    assert not (folder / "unet" / "diffusion_pytorch_model.safetensors").exists()
    models = load_checkpoint(folder, device="cpu")  # half the bytes on disk, computed in full
    assert {models.unet.dtype, models.vae.dtype, models.text_encoder.dtype} == {torch.float32}
    full = ours(models, "sd15")
    models = load_checkpoint(folder, dtype=torch.float16, device="cpu")
    assert {models.unet.dtype, models.vae.dtype, models.text_encoder.dtype} == {torch.float16}
    start, z = initial_latents(models, generators([1, 2])), ours(models, "sd15")
    pipe = pipeline(folder, variant="fp16", torch_dtype=torch.float16)
    theirs = pipe(PROMPTS, latents=start, output_type="latent", **HOW["sd15"]).images
    assert start.dtype == z.dtype == theirs.dtype == torch.float16
    torch.testing.assert_close(z, theirs, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(z.float(), full, atol=0.1, rtol=0.1)
    images = models.decode(z)
    assert images.dtype == torch.float32 and images.isfinite().all() and models.encode(images).dtype == torch.float16
    assert sample(models, PROMPTS[:1], [1], steps=2, progress=False).shape == (1, 64, 64, 3)


# --- one part replaced ----------------------------------------------------------------------------------------------


def test_a_tiny_autoencoder_takes_the_place(layouts, tiny_vae):
    models = load_checkpoint(layouts["sd15"], vae=tiny_vae, device="cpu")
    assert isinstance(models.vae, AutoencoderTiny) and models.factor == 8 and models.latent_shape() == (4, 8, 8)
    pipe = pipeline(layouts["sd15"], vae=AutoencoderTiny.from_pretrained(str(tiny_vae)))
    start = initial_latents(models, generators([1, 2]))
    theirs = pipe(PROMPTS, latents=start, output_type="pt", **HOW["sd15"]).images
    images = models.decode(ours(models, "sd15"))
    torch.testing.assert_close((images / 2 + 0.5).clamp(0, 1), theirs, atol=1e-4, rtol=1e-4)
    expected = pipe.vae.encode(images).latents  # no posterior, scaling factor 1
    torch.testing.assert_close(models.encode(images), expected)
    torch.testing.assert_close(models.encode(images, generators([1, 2])), expected, atol=1e-5, rtol=1e-5)


def test_a_shift_is_read_too(layouts):
    models = load_checkpoint(layouts["sd15"], device="cpu")
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    z = models.encode(images)
    models.vae.register_to_config(shift_factor=0.5)
    torch.testing.assert_close(models.encode(images), z - 0.5 * 0.18215)
    torch.testing.assert_close(models.decode(models.encode(images)), models.vae.decode(z / 0.18215).sample)


@pytest.mark.parametrize("whole", [True, False])
def test_another_text_encoder_takes_the_place(layouts, tokenizer, tmp_path, whole):
    """A folder as CLIP is published (both halves), or the one in another checkpoint; its tokenizer comes with it."""
    same = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "projection_dim": 16}
    text = {**same, "vocab_size": len(tokenizer), "max_position_embeddings": 60}
    clip = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**same, "image_size": 32, "patch_size": 16}, projection_dim=16)
    )
    place = tmp_path / "clip"
    if whole:
        clip.save_pretrained(place)
        write_tokenizer(tokenizer, tmp_path / "t", "<|endoftext|>")
        shutil.copytree(tmp_path / "t", place, dirs_exist_ok=True)
    else:
        CLIPTextModel(clip.config.text_config).save_pretrained(place / "text_encoder")
        write_tokenizer(tokenizer, place / "tokenizer", "<|endoftext|>")
    models = load_checkpoint(layouts["sd15"], text_encoder=place, device="cpu")
    assert models.encode_text(PROMPTS).shape == (2, 60, 16)  # as long as its own positions
    if whole:
        expected = clip.text_model(models.tokenize(PROMPTS)).last_hidden_state
        torch.testing.assert_close(models.encode_text(PROMPTS), expected, atol=1e-5, rtol=1e-5)
    assert ours(models, "sd15").isfinite().all()


def test_parts_that_do_not_fit(layouts, tiny_folder, tiny_vae, tmp_path, tokenizer):
    few = tmp_path / "few"
    config = CLIPTextConfig.from_pretrained(str(layouts["sd15"] / "text_encoder"))
    config.vocab_size = 100
    CLIPTextModel(config).save_pretrained(few / "text_encoder")
    write_tokenizer(tokenizer, few / "tokenizer", "<|endoftext|>")
    for options, says in [
        ({"vae": tiny_folder}, "8 channels, the U-Net reads 4"),
        ({"text_encoder": layouts["turbo"]}, "24 numbers, the U-Net reads 16"),
        ({"text_encoder": tiny_vae}, "can't be loaded: .*AutoencoderTiny|can't be loaded: .*model.safetensors"),
        ({"text_encoder": few}, "different tokens, the text encoder knows 100"),
    ]:
        with pytest.raises(UserError, match=says) as error:
            load_checkpoint(layouts["sd15"], device="cpu", **options)
        one_sentence(error)


def test_saved_again(layouts, tiny_vae, tmp_path):
    models = load_checkpoint(layouts["sd15"], vae=tiny_vae, device="cpu")
    again = load_models(save_models(models, tmp_path / "mine"), "cpu")
    assert type(again.scheduler) is type(models.scheduler) and isinstance(again.vae, AutoencoderTiny)


# --- heat maps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, size", [("sd15", (64, 64)), ("sd21v", (96, 96)), ("turbo", (48, 80))])
def test_heat_maps_on_every_layout(layouts, kind, size):
    models = load_checkpoint(layouts[kind], device="cpu")
    plain = ours(models, kind, height=size[0], width=size[1])
    with record_attention(models.unet) as maps:
        z = ours(models, kind, height=size[0], width=size[1])
    torch.testing.assert_close(z, plain, atol=1e-4, rtol=1e-4)  # looking changes nothing
    assert len({calls[0].shape[2] for calls in maps.values()}) == 3  # two resolutions and the middle
    pixels = size[0] * size[1] // 16**2
    recorded = []
    for calls in maps.values():
        recorded += [call[-2:] for call in calls]  # with guidance the prompts stand last
    for each in recorded:
        assert each.shape[3] == 77
        torch.testing.assert_close(each.sum(3), torch.ones(each.shape[:3]))
    attention = next(each for each in recorded if each.shape[2] == pixels)
    tokens = [word_tokens(models.tokenizer, p, w) for p, w in zip(PROMPTS, ("mug", "duck"), strict=True)]
    heat = enlarge(word_attention(attention, tokens, size[0] / size[1]).mean(1), size)
    assert heat.shape == (2, *size) and heat.min() == 0 and heat.max() <= 1
    with record_attention(models.unet, layers="mid_block") as few:
        ours(models, kind)
    assert set(few) == {name for name in maps if name.startswith("mid_block")}


# --- files as others save them --------------------------------------------------------------------------------------


def weights_of(models) -> torch.Tensor:
    parts = (models.unet, models.vae, models.text_encoder)
    return torch.cat([p.flatten() for part in parts for p in part.parameters()])


@pytest.mark.parametrize("variant, shard", [(None, "20KB"), ("fp16", None), ("fp16", "20KB"), ("non_ema", None)])
def test_shards_and_variants(layouts, tmp_path, variant, shard):
    """Each part saved as the libraries save it, in several files or under another variant's name; the same weights come."""
    plain = load_models(layouts["sd15"], "cpu")
    folder = shutil.copytree(layouts["sd15"], tmp_path / "other")
    for name in ("unet", "vae", "text_encoder"):
        (weights,) = (folder / name).glob("*.safetensors")
        weights.unlink()
        getattr(plain, name).save_pretrained(folder / name, variant=variant, **({"max_shard_size": shard} if shard else {}))
    files = [path.name for path in (folder / "unet").glob("*.safetensors")]
    assert (len(files) > 1) == bool(shard) and all((variant or "model") in name for name in files)
    assert torch.equal(weights_of(load_models(folder, "cpu")), weights_of(plain))
    if shard:
        (folder / "unet" / files[0]).unlink()
        with pytest.raises(UserError, match="no complete safetensors weights.*unet") as error:
            load_models(folder, "cpu")
        one_sentence(error)


def test_which_variant_is_taken():
    files = [f"unet/model{v}.safetensors" for v in ("", ".fp16", ".non_ema")] + ["vae/model.safetensors"]
    files += [f"vae/model.fp16-0000{i}-of-00003.safetensors" for i in (1, 2)]  # the third is missing
    both = ["unet", "vae"]
    assert complete_weights(files, "vae") == {"": ["vae/model.safetensors"]}
    assert choose_weights(files, both) == ("", ["unet/model.safetensors", "vae/model.safetensors"])
    assert choose_weights(files, both, first="fp16") == ("fp16", ["unet/model.fp16.safetensors", "vae/model.safetensors"])
    assert choose_weights(files[1:3], ["unet"])[0] == "fp16" and choose_weights(files[2:3], ["unet"])[0] == "non_ema"
    assert choose_weights([files[1], files[3]], both)[0] == "fp16"  # the autoencoder's plain one stands in
    for lacking in ([files[0]], [files[1], files[4]], ["unet/model.bin", "vae/model.safetensors"]):
        assert choose_weights(lacking, both) is None


def test_configs_without_class_names(layouts, tmp_path):
    """The index of the checkpoint names the classes too."""
    folder = shutil.copytree(layouts["sd15"], tmp_path / "nameless")
    change(folder, "text_encoder/config.json", architectures="-")
    for name in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
        change(folder, name, _class_name="-")
    assert torch.equal(weights_of(load_models(folder, "cpu")), weights_of(load_models(layouts["sd15"], "cpu")))


def test_loading_leaves_the_libraries_settings(layouts, tmp_path):
    import diffusers
    import transformers
    from huggingface_hub import utils as hub

    loggers = (diffusers.utils.logging, transformers.utils.logging)

    def settings() -> list:
        bars = [log.is_progress_bar_enabled() for log in loggers]
        return [*bars, *(log.get_verbosity() for log in loggers), hub.are_progress_bars_disabled()]

    for log in loggers:
        log.enable_progress_bar()  # whatever tests before this one have left
    before = settings()
    assert before[:2] == [True, True]
    models = load_models(layouts["sd15"], "cpu")
    save_models(models, tmp_path / "saved")
    with pytest.raises(UserError):
        load_checkpoint(layouts["sd15"], vae=layouts["sd15"] / "unet")
    assert settings() == before
    hub.disable_progress_bars()
    try:
        load_models(layouts["sd15"], "cpu")
        assert hub.are_progress_bars_disabled()
    finally:
        hub.enable_progress_bars()


# --- what is refused ------------------------------------------------------------------------------------------------


def change(folder: Path, file: str, **values) -> None:
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({k: v for k, v in {**config, **values}.items() if v != "-"}))


@pytest.mark.parametrize(
    "file, values, says",
    [
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "X"]}, "two text"),
        ("model_index.json", {"_class_name": "FluxPipeline", "transformer": ["diffusers", "X"], "unet": "-"}, "transformer"),
        ("model_index.json", {"_class_name": "DDPMPipeline", "vae": "-", "text_encoder": "-"}, "without vae and text_encoder"),
        ("model_index.json", {"text_encoder": ["transformers", "CLIPTextModelWithProjection"]}, "of class CLIPTextModelWithP"),
        ("model_index.json", {"scheduler": ["diffusers", "NoScheduler"]}, "NoScheduler"),
        ("model_index.json", {"scheduler": ["diffusers", "DPMSolverSDEScheduler"]}, "torchsde"),
        ("model_index.json", {"scheduler": ["diffusers", "UNet2DModel"]}, "can't be loaded"),
        ("unet/config.json", {"in_channels": 9}, "reads 9 channels and writes 4"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "more than a text .addition_embed_type"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "more than a text .time_cond"),
    ],
)
def test_other_kinds_of_models(layouts, tmp_path, file, values, says):
    folder = shutil.copytree(layouts["sd15"], tmp_path / "other")
    change(folder, file, **values)
    with pytest.raises(UserError, match=says) as error:
        load_checkpoint(folder, device="cpu")
    one_sentence(error)


def test_code_of_a_checkpoint_is_never_run(layouts, tmp_path):
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom diffusers import *\nclass Own(StableDiffusionPipeline): pass\n"
    for values, place in (({"_class_name": ["own", "Own"]}, "own.py"), ({"unet": ["own", "Own"]}, "unet/own.py")):
        folder = shutil.copytree(layouts["sd15"], tmp_path / place.replace("/", "-"))
        (folder / place).write_text(code)
        change(folder, "model_index.json", **values)
        with pytest.raises(UserError, match="code of its own, which is never run") as error:
            load_checkpoint(folder, device="cpu")
        one_sentence(error)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_names_no_size(layouts, tmp_path):
    folder = shutil.copytree(layouts["sd15"], tmp_path / "sizeless")
    change(folder, "unet/config.json", sample_size=None)
    models = load_models(folder, "cpu")
    with pytest.raises(UserError, match="0 x 0 pixels"):
        sample(models, ["a mug"], [1], progress=False)
    assert sample(models, ["a mug"], [1], height=64, width=48, steps=2, progress=False).shape == (1, 64, 48, 3)


def test_what_is_no_checkpoint(layouts, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text("{")
    (tmp_path / "one.safetensors").write_text("")
    for source, says in [
        (tmp_path, "no model in"),
        (tmp_path / "broken", "no readable model_index.json"),
        ("no such", "no folder 'no such'"),
        (tmp_path / "one.safetensors", "is a single file"),
        ("a/b/c", "no hub id"),
    ]:
        with pytest.raises(UserError, match=says) as error:
            load_checkpoint(source)
        one_sentence(error)
    models = load_checkpoint(layouts["sd15"], device="cpu")
    for size in ((60, 64), (64, 0), (4, 8), (-8, 64)):
        with pytest.raises(UserError, match="multiples of 8") as error:
            sample(models, ["a mug"], [1], height=size[0], width=size[1], progress=False)
        one_sentence(error)


@pytest.mark.parametrize(
    "file, content, says",
    [
        ("vae/diffusion_pytorch_model.safetensors", None, "no complete safetensors weights.*vae.*pickled"),
        ("unet/diffusion_pytorch_model.safetensors", b"\xff{", "can't be loaded: .*unet"),
        ("text_encoder/config.json", b"\xff{", "can't be loaded: .*text_encoder"),
        ("tokenizer/merges.txt", b"\xff{", "can't be loaded"),
        ("tokenizer/merges.txt", None, "can't be loaded: .*merges"),
    ],
)
def test_damaged_files(layouts, tmp_path, file, content, says):
    folder = shutil.copytree(layouts["sd15"], tmp_path / "damaged")
    if content is None:
        (folder / file).rename((folder / file).with_suffix(".bin"))
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        load_checkpoint(folder, device="cpu")
    one_sentence(error)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 3438\n", "pointer of git-lfs"),
        (lambda whole: b"<!DOCTYPE html><html>Access denied</html>", "no safetensors file"),  # "HeaderTooLarge"
        (lambda whole: bytes(len(whole)), "no safetensors file"),
        (lambda whole: whole[:-10], "cut short"),
        (lambda whole: whole[:200], "cut short"),
        (lambda whole: b"", "cut short"),
        (lambda whole: whole + bytes(1200), "1,200 bytes too long"),
    ],
    ids=["pointer", "page", "zeros", "cut", "cut in the header", "empty", "too long"],
)
def test_damaged_weights(layouts, tiny_vae, tmp_path, change, says):
    folder = shutil.copytree(layouts["sd15"], tmp_path / "model")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=f"can't be loaded: unet/{path.name} is .*{says}.*: fetch or copy it again.$"):
        load_checkpoint(folder)
    part = shutil.copytree(tiny_vae, tmp_path / "part")
    path = part / "diffusion_pytorch_model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=f"in '{part}' can't be loaded: {path.name} is .*{says}"):
        load_checkpoint(layouts["sd15"], vae=part)


def test_weights_on_a_disk_that_maps_no_files(layouts, tmp_path, monkeypatch):
    """Some network disks: "No such device", which the library turns into a sentence about the checkpoint."""

    def refuse(*_, **__):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr("mmap.mmap", refuse)
    monkeypatch.setattr("diffusers.models.model_loading_utils.safetensors.torch.load_file", refuse)
    reason = r"the disk can't map .* into memory \(No such device\), .*: copy it to another disk\.$"
    with pytest.raises(UserError, match=f"can't be loaded: {reason}"):
        load_checkpoint(layouts["sd15"])


def test_a_home_folder(layouts, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").symlink_to(layouts["sd15"])
    assert load_checkpoint("~/model").unet is not None


def test_no_tokenizer(layouts, tmp_path):
    """The library would make one of two tokens, without a word."""
    folder = shutil.copytree(layouts["sd15"], tmp_path / "mute")
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink()
    with pytest.raises(UserError, match="tokenizer has no words") as error:
        load_checkpoint(folder, device="cpu")
    one_sentence(error)


# --- the hub --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, id: str, folder: Path, revision: str) -> Path:
    return Path(shutil.copytree(folder, cache / f"models--{id.replace('/', '--')}" / "snapshots" / revision))


def test_every_known_revision_is_a_whole_commit():
    assert {"stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/sd-turbo", "madebyollin/taesd"} <= set(KNOWN)
    for known in KNOWN.values():
        assert len(known.revision) == 40 and int(known.revision, 16) and known.licence


def test_a_fetched_checkpoint_loads_without_network(layouts, cache, tiny_vae):
    id = "stabilityai/sd-turbo"
    put(cache, id, layouts["turbo"], KNOWN[id].revision)
    put(cache, "madebyollin/taesd", tiny_vae, KNOWN["madebyollin/taesd"].revision)
    models = load_checkpoint(id, vae="madebyollin/taesd", device="cpu")
    assert isinstance(models.vae, AutoencoderTiny)
    assert sample(models, ["a mug"], [1], progress=False, **KNOWN[id].options).shape == (1, 64, 64, 3)
    put(cache, "some/body", layouts["sd15"], SHA)
    assert load_checkpoint("some/body", revision=SHA, device="cpu").unet.config.cross_attention_dim == 16


@pytest.mark.parametrize(
    "options, says",
    [
        ({"source": "stabilityai/sd-turbo"}, "is not on this machine: download=True"),
        ({"source": "stabilityai/sd-turbo", "download": True}, "HF_HUB_OFFLINE"),
        ({"source": "some/body"}, "name its revision.*is not on this machine"),
        ({"source": "some/body", "download": True}, "HF_HUB_OFFLINE"),
        ({"source": "some/body", "revision": "main"}, "'main'.*40 figures of one commit"),
        ({"source": f"some/body@{SHA}"}, f"'some/body' with revision {SHA} is not on this machine"),
        ({"source": "madebyollin/taesd"}, "is a part"),
    ],
)
def test_nothing_is_fetched_unasked(cache, options, says):
    with pytest.raises(UserError, match=says) as error:
        load_checkpoint(**options)
    one_sentence(error)
    assert not cache.exists()


def test_half_a_download_is_no_checkpoint(layouts, cache):
    id = "stabilityai/sd-turbo"
    there = put(cache, id, layouts["turbo"], KNOWN[id].revision)
    weights = there / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    with pytest.raises(UserError, match="not on this machine"):
        load_checkpoint(id)
    weights.symlink_to("../../blobs/gone")  # as it is left where a cache was copied without its links' targets
    with pytest.raises(UserError, match="not on this machine"):
        load_checkpoint(id)


SMALL = ["*.json", "*.txt"]


@pytest.fixture
def online(monkeypatch, cache, layouts):
    """A hub of our own: ``files`` are what it lists, ``sha`` its current revision; what is fetched is noted in ``asked``."""
    import huggingface_hub as hub

    class Hub:
        files, asked, error, sha, source = [], [], None, SHA, layouts["turbo"]

        def model_info(self, id, revision=None):
            if self.error:
                raise self.error
            siblings = [SimpleNamespace(rfilename=name) for name in self.files]
            return SimpleNamespace(sha=revision or self.sha, siblings=siblings)

    real = hub.snapshot_download

    def snapshot_download(id, revision, local_files_only=False, allow_patterns=None):
        if local_files_only:
            return real(id, revision=revision, local_files_only=True)
        Hub.asked.append((id, revision, allow_patterns))
        place = cache / f"models--{id.replace('/', '--')}" / "snapshots" / revision
        weights = allow_patterns != SMALL
        shutil.copytree(
            Hub.source, place, dirs_exist_ok=True, ignore=None if weights else shutil.ignore_patterns("*.safetensors")
        )
        return str(place)

    Hub.asked.clear()
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "HfApi", Hub)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return Hub


def listing(layout: Path, *more: str) -> list[str]:
    return [f.relative_to(layout).as_posix() for f in layout.rglob("*") if f.is_file()] + list(more)


def test_only_what_is_needed_is_fetched(online, layouts, monkeypatch):
    junk = ["sd.ckpt", "sd.safetensors", "unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors", "README.md",
            "unet/diffusion_pytorch_model.non_ema.safetensors", "run.py"]  # fmt: skip
    half = [
        f"{p}.fp16.safetensors" for p in ("vae/diffusion_pytorch_model", "unet/diffusion_pytorch_model", "text_encoder/model")
    ]
    plain = [name.replace(".fp16", "") for name in half]
    monkeypatch.setattr(online, "files", listing(layouts["turbo"], *junk))
    load_checkpoint("stabilityai/sd-turbo", download=True, device="cpu")
    turbo = ("stabilityai/sd-turbo", KNOWN["stabilityai/sd-turbo"].revision)
    assert online.asked == [(*turbo, SMALL), (*turbo, plain)]
    load_checkpoint("stabilityai/sd-turbo", download=True, device="cpu")  # it is there now
    assert len(online.asked) == 2
    monkeypatch.setattr(online, "files", listing(layouts["turbo"], *junk, *half))
    load_checkpoint("some/body", revision=SHA, download=True, device="cpu")
    assert online.asked[2:] == [("some/body", SHA, SMALL), ("some/body", SHA, half)]


def test_no_gigabytes_for_another_kind_of_model(online, layouts, monkeypatch, tmp_path):
    xl = shutil.copytree(layouts["turbo"], tmp_path / "xl")
    change(xl, "model_index.json", _class_name="StableDiffusionXLPipeline", text_encoder_2=["transformers", "X"])
    monkeypatch.setattr(online, "source", xl)
    monkeypatch.setattr(online, "files", listing(xl))
    with pytest.raises(UserError, match="two text encoders, like SDXL"):
        load_checkpoint("some/body", download=True)
    assert [asked for _, _, asked in online.asked] == [SMALL]


def test_the_current_revision_is_looked_up_printed_and_used(online, layouts, monkeypatch, capsys):
    monkeypatch.setattr(online, "files", listing(layouts["turbo"]))
    load_checkpoint("some/body", download=True, device="cpu")
    assert {(id, revision) for id, revision, _ in online.asked} == {("some/body", SHA)}
    assert f"some/body@{SHA}" in capsys.readouterr().err
    later = SHA[::-1]
    monkeypatch.setattr(online, "sha", later)
    load_checkpoint(f"some/body@{SHA}", download=True, device="cpu")  # named: it stays, and is there
    assert len(online.asked) == 2 and capsys.readouterr().err == ""
    load_checkpoint("some/body", download=True, device="cpu")
    assert online.asked[2][1] == later and f"some/body@{later}" in capsys.readouterr().err


def test_what_the_hub_may_answer(online, monkeypatch):
    from huggingface_hub import errors

    def raised(kind):
        error = kind.__new__(kind)
        Exception.__init__(error, "no")
        return error

    for error, says in [
        (raised(errors.GatedRepoError), "accept its licence"),
        (raised(errors.RepositoryNotFoundError), "no 'some/body'"),
        (ConnectionError(), "could not be fetched .ConnectionError"),
        (None, "no complete safetensors"),
    ]:
        monkeypatch.setattr(online, "error", error)
        monkeypatch.setattr(online, "files", ["model_index.json", "unet/diffusion_pytorch_model.bin"])
        with pytest.raises(UserError, match=says) as caught:
            load_checkpoint("some/body", revision=SHA, download=True)
        one_sentence(caught)
    assert [asked for _, _, asked in online.asked] == [SMALL]  # the last one's, to look at


# --- make stable-diffusion ----------------------------------------------------------------------------------------------


def test_three_pictures_and_their_records(layouts, tmp_path, capsys):
    out = tmp_path / "three"
    assert stable_diffusion.main([str(layouts["turbo"]), "--out", str(out)]) == 0
    records = json.loads((out / "pictures.json").read_text())
    assert [record["prompt"] for record in records] == list(stable_diffusion.PROMPTS)
    for record in records:
        assert record["checkpoint"] == "turbo" and record["revision"] is None and record["seed"] == stable_diffusion.SEED
        assert record["seconds"] >= 0 and record["steps"] == 30
        assert set(record["versions"]) == {"diffusers", "transformers", "torch"}
        assert Image.open(out / record["file"]).size == (record["width"], record["height"]) == (64, 64)
    models = load_checkpoint(layouts["turbo"], device="cpu")
    options = {"steps": 30, "guidance_scale": 7.5, "sampler": "own"}
    again = sample(models, [records[1]["prompt"]], [records[1]["seed"]], progress=False, **options)[0]
    assert abs(again.astype(int) - np.asarray(Image.open(out / "2.png")).astype(int)).max() <= 1, "the record makes it again"
    assert "wrote" in capsys.readouterr().out


def test_a_picture_of_the_hub_names_its_whole_revision(online, layouts, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(online, "files", listing(layouts["turbo"]))
    records = stable_diffusion.draw_three("some/body", tmp_path / "three")
    assert {(record["checkpoint"], record["revision"]) for record in records} == {("some/body", SHA)}
    assert f"some/body@{SHA}" in capsys.readouterr().err, "the current revision is looked up and printed"
    monkeypatch.setattr(online, "sha", SHA[::-1])
    assert stable_diffusion.draw_three(f"some/body@{SHA}", tmp_path / "three")[0]["revision"] == SHA, "a named one stays"
    turbo = stable_diffusion.draw_three("stabilityai/sd-turbo", tmp_path / "three")[0]
    assert turbo["revision"] == KNOWN["stabilityai/sd-turbo"].revision and turbo["steps"] == 1


def test_what_is_not_there_is_one_sentence(tmp_path, cache, capsys):
    assert stable_diffusion.main(["some/body", "--out", str(tmp_path / "three")]) == 2
    said = capsys.readouterr().err
    assert "HF_HUB_OFFLINE" in said and said.count("\n") == 1 and not (tmp_path / "three").exists()
    (tmp_path / "file").write_text("")
    assert stable_diffusion.main(["some/body", "--out", str(tmp_path / "file")]) == 2
    assert "Traceback" not in capsys.readouterr().err
