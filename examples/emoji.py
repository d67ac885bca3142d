"""About 1,900 real captioned pictures to train on: the Twemoji graphics, from an unpacked npm package.

    npm pack emoji-datasource-twitter && tar xzf emoji-datasource-twitter-*.tgz
    python examples/emoji.py package emoji
    ldm train all --data emoji --out emoji-model

Twemoji graphics: Copyright Twitter, Inc. and other contributors, CC-BY 4.0. Package: Cal Henderson, MIT.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

CREDITS = """The pictures are Twemoji graphics, Copyright Twitter, Inc. and other contributors, licensed under CC-BY 4.0
(https://creativecommons.org/licenses/by/4.0/). They are unchanged. Names and kinds come from the npm package
emoji-datasource-twitter {version} by Cal Henderson (MIT licence), from which the pictures were taken as well.
"""


def main(package: Path, out: Path) -> None:
    if not (package / "emoji.json").exists():
        sys.exit(f"{package} is not the unpacked package: run `npm pack emoji-datasource-twitter` and `tar xzf` first.")
    out.mkdir(parents=True)
    rows = []
    for emoji in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
        picture = package / "img" / "twitter" / "64" / emoji["image"]
        if emoji["has_img_twitter"] and picture.exists():
            name = (emoji["name"] or emoji["short_name"]).replace("_", " ").lower()
            shutil.copyfile(picture, out / picture.name)
            rows.append((picture.name, f"{name}, {emoji['subcategory'].replace('-', ' ')}"))
    with open(out / "metadata.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("file_name", "text"), *rows])
    version = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
    (out / "CREDITS").write_text(CREDITS.format(version=version), encoding="utf-8")
    print(f"wrote {len(rows)} pictures and metadata.csv to {out}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/emoji.py PACKAGE_FOLDER OUT_FOLDER")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
