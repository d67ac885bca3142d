"""Write the model card and the data card from what was measured, so that they cannot say anything else.

ldm evaluate --json ldm_tutorial/weights/evaluation.json --sheet ldm_tutorial/weights/sheet.png
python benchmarks/cards.py
"""

import json

from ldm_tutorial.curios import BACKGROUNDS, MATERIALS, OBJECTS, pairs
from ldm_tutorial.curios.captions import common_words
from ldm_tutorial.evaluation import GOALS, reached, table
from ldm_tutorial.models import WEIGHTS

FOLDER = WEIGHTS.parent
RENDERS = 32_768  # what the shipped weights learned from


def parameters(part: str) -> float:
    """Millions of numbers in one part's files: fp16, two bytes each."""
    return sum(f.stat().st_size for f in (WEIGHTS / part).glob("*.safetensors")) / 2e6


def checksums() -> str:
    rows = []
    for file in sorted(FOLDER.rglob("checksums.json")):
        for name, digest in json.loads(file.read_text()).items():
            if name.endswith(".safetensors"):
                rows.append(f"    {digest[:16]}  {(file.parent / name).relative_to(FOLDER).as_posix()}")
    return "\n".join(rows)


def model_card() -> str:
    found = json.loads((FOLDER / "evaluation.json").read_text())
    missed = [what for key, (what, sign, goal) in GOALS.items() if sign and not reached(found[key]["value"], sign, goal)]
    if found["frechet"]["value"] > 3 * found["frechet_real"]["value"]:
        missed.append("Fréchet distance at most 3 times that between renders")
    numbers = "\n".join("    " + line for line in table(found).splitlines())
    how = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found["frechet"]["sampler"].items())
    return f"""# Model card: curios-64

**What.** A small text-to-image latent diffusion model, 64 x 64 pixels, in the layout of a `StableDiffusionPipeline`: `AutoencoderKL` (latents 8 x 16 x 16,
{parameters("vae"):.2f} M parameters), `UNet2DConditionModel` (v-prediction, cosine schedule, {parameters("unet"):.2f} M) and a `CLIPTextModel` ({parameters("text_encoder"):.2f} M) that began as the text half of `clip/`
and learned on together with the U-Net. `clip/` is a whole `CLIPModel`. Beside it: `judge/`, the classifier that measures (trained on renders of all pairs, never on
generated pictures), and `companions/`, the small models that the notebooks compare with. Tensors are fp16 safetensors, computed in float32.

**How made.** `benchmarks/training.md` says how, with commands, versions, times and losses; `ldm train all` makes a sibling from nothing. Data: DATA_CARD.md.

**Licence.** MIT, as the code.

**Numbers.** `ldm evaluate --json ldm_tutorial/weights/evaluation.json`; this page is made from that file. Judged pictures were painted with: {how}.
This was chosen with other seeds of some of the same prompts, held-out pairs included (benchmarks/training.md).

{numbers}

**Limits.** {("Goals not reached: " + "; ".join(missed) + ".") if missed else "Every goal is reached."} One object a picture, {len(OBJECTS)} objects, {len(MATERIALS)} materials,
{len(BACKGROUNDS)} backgrounds; other words have no effect. It knows no people, no places and no real photographs. `sheet.png` shows one picture a pair, not selected,
pairs never trained on framed.

**Checksums** (SHA-256, first 16 digits; whole ones in each `checksums.json`, compared on load):

{checksums()}
"""


def data_card() -> str:
    every, held = len(pairs("all")), len(pairs("held_out"))
    return f"""# Data card: Curios

**What.** Pictures of impossible objects, 64 x 64 pixels, made by a program (`ldm_tutorial/curios`): {len(OBJECTS)} objects x {len(MATERIALS)} materials x {len(BACKGROUNDS)} backgrounds,
camera, light and texture different in each, with captions in many wordings and an exact mask of the object. The shipped weights learned from {RENDERS:,} of them;
any number can be rendered: `ldm render --count 1000 --split train --out curios`.

**Splits.** {every - held} of the {every} pairs of object and material are for training and, in other views, for validation; {held} are held out of all training, *avocado armchair* among them.
The judge alone has seen renders of all pairs.

**Captions.** Made by a program from wordings written by hand and a list of {len(common_words()):,} common English words. About two thirds name the background.

**Objects.** {", ".join(OBJECTS)}.

**Materials.** {", ".join(MATERIALS)}.

**Backgrounds.** {", ".join(BACKGROUNDS)}.

**Where from.** Nothing was photographed, collected or downloaded; there are no people and no personal data in it. **Licence.** MIT, as the code.

**Limits.** One object in the middle of an empty room. What a model learns here says little about photographs: it is a world to understand a method in.
"""


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(model_card(), encoding="utf-8")
    (FOLDER / "DATA_CARD.md").write_text(data_card(), encoding="utf-8")
    print(f"wrote README.md and DATA_CARD.md in {FOLDER.name}/")
