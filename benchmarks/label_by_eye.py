"""What does a reader see in 100 generated pictures? Labelled blind, without the prompts, and set beside both judges.

python benchmarks/label_by_eye.py sheets     # numbered pictures in runs/label_by_eye, and a file to write the labels into
python benchmarks/label_by_eye.py compare    # the labels in benchmarks/results/labels_by_eye.json beside the judges

Half of the pictures are of trained pairs, half of held-out ones ("held_out_test"), in an order that tells nothing. A label is
"object, material, background"; "?" stands for what can't be told, and counts as no agreement.
"""

import argparse
import json
import random

from machine import RESULTS, ROOT, describe

COUNT, FIRST_SEED = 100, 500_000
SHEETS = ROOT / "runs" / "label_by_eye"
LABELS = RESULTS / "labels_by_eye.json"


def asked() -> list[tuple[str, str, str]]:
    """What the pictures should show, in the order of their numbers."""
    from ldm_tutorial.measure.pictures import expected_prompts

    trained = expected_prompts("train", 247)[::5]  # every fifth pair
    wanted = trained + expected_prompts("held_out_test", COUNT - len(trained))
    random.Random("label by eye").shuffle(wanted)
    return wanted


def generated():
    """The pictures uint8 [100, 64, 64, 3] by the shipped weights, in the default way."""
    from ldm_tutorial.checkpoints import load_models
    from ldm_tutorial.curios import plain
    from ldm_tutorial.measure.pictures import sample_many

    return sample_many(load_models(), [plain(*w) for w in asked()], FIRST_SEED)


def weights() -> str:
    """The SHA-256 of the U-Net that drew: labels are of its pictures and of no other's."""
    from ldm_tutorial.files import WEIGHTS, read_checksums

    return read_checksums(WEIGHTS, "unet/diffusion_pytorch_model.safetensors")["unet/diffusion_pytorch_model.safetensors"]


def write_sheets() -> None:
    """Numbered pictures without their prompts, 20 a sheet, and a file for the labels."""
    from ldm_tutorial.notebook.figures import pictures as sheet_of

    SHEETS.mkdir(parents=True, exist_ok=True)
    drawn = generated()
    for first in range(0, COUNT, 20):
        numbers = [f"{first + k + 1}" for k in range(20)]
        sheet = sheet_of(list(drawn[first : first + 20]), numbers, columns=5, size=1.92)
        sheet.save(SHEETS / f"sheet_{first // 20 + 1}.png")
    empty = {"weights": weights(), "how": "", "labels": {f"{k + 1}": "" for k in range(COUNT)}}
    file = SHEETS / "labels_by_eye.json"
    file.write_text(json.dumps(empty, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {COUNT // 20} sheets to {SHEETS}: write what you see into {file.name} there, then copy it to {LABELS}")


def read_labels(content: dict) -> list[tuple[str, ...]]:
    """The labels in the order of the numbers, each (object, material, background).

    Raises:
        SystemExit: when one is missing or names nothing that there is.
    """
    from ldm_tutorial.curios import BACKGROUNDS, MATERIALS, OBJECTS

    found = []
    for number in range(1, COUNT + 1):
        label = tuple(part.strip() for part in content["labels"].get(f"{number}", "").split(","))
        known = len(label) == 3 and all(
            part == "?" or part in names for part, names in zip(label, (OBJECTS, MATERIALS, BACKGROUNDS), strict=True)
        )
        if not known:
            raise SystemExit(
                f"label {number} is {', '.join(label)!r}: write object, material, background, or ? for one of them"
            )
        found.append(label)
    return found


def compare() -> dict:
    """How often eye, judges and prompts say the same, and the numbers of the pictures on which they do not."""
    import torch

    from ldm_tutorial.measure.judge import load_judge, names_of, predict
    from ldm_tutorial.measure.metrics import rate

    content = json.loads(LABELS.read_text(encoding="utf-8"))
    eye = read_labels(content)
    if content["weights"] != weights():
        raise SystemExit("The labels are of pictures by other weights: make new sheets, and label them.")
    pictures = generated()
    said = {
        "eye": eye,
        "judge": names_of(predict(load_judge(), pictures)),
        "second judge": names_of(predict(load_judge("second"), pictures)),
        "prompt": asked(),
    }
    found = {}
    for one, other in (
        ("eye", "judge"),
        ("eye", "second judge"),
        ("judge", "second judge"),
        ("eye", "prompt"),
        ("judge", "prompt"),
    ):
        pairs = list(zip(said[one], said[other], strict=True))
        same = torch.tensor([[a == b for a, b in zip(x, y, strict=True)] for x, y in pairs])
        differing = [i + 1 for i in range(COUNT) if not same[i].all()]
        found[f"{one}, {other}"] = {
            "object and material": rate(same[:, :2].all(1)),
            "background": rate(same[:, 2]),
            "differing": differing,
        }
        for i in differing:
            print(f"{i:4d}  {one}: {', '.join(said[one][i - 1])} | {other}: {', '.join(said[other][i - 1])}")
    for names, numbers in found.items():
        both, background = numbers["object and material"], numbers["background"]
        print(
            f"{names}: object and material the same in {both['value']:.0%} ({both['low']:.0%} to {both['high']:.0%}),"
            f" background in {background['value']:.0%}, of {both['n']}"
        )
    LABELS.write_text(json.dumps(content | {"compared": found, "machine": describe()}, indent=1) + "\n", encoding="utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sheets", "compare"])
    write_sheets() if parser.parse_args().what == "sheets" else compare()


if __name__ == "__main__":
    main()
