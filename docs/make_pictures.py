"""Draw the README's pictures with the shipped model: `python docs/make_pictures.py`."""

from pathlib import Path

from ldm_tutorial.checkpoints import load_models
from ldm_tutorial.notebook.figures import contact_sheet, pictures
from ldm_tutorial.sampling import sample

PROMPTS = [
    "an armchair made of avocado", "a golden rocket on a purple background", "a zebra-striped umbrella on a pink background",
    "a teddy bear made of bricks", "a watermelon bed", "a mug made of orange on an orange background",
    "a flying bat carved from wood", "a chequered cactus",
]  # fmt: skip

if __name__ == "__main__":
    here = Path(__file__).parent
    drawn = sample(load_models(), PROMPTS, list(range(7, 7 + len(PROMPTS))))
    pictures(drawn, PROMPTS, columns=4, size=2).save(here / "strip.png", optimize=True)
    contact_sheet().save(here / "curios.jpg", quality=88)
