"""Cut the world's sprites out of four emoji sets and one game's people: `python -m miniature sprites --art FOLDER`."""

import io
import json
import re
import shutil
from pathlib import Path

import cairosvg
import cv2
import numpy as np
from PIL import Image

SPRITES = Path("data/sprites")
SPRITE, MARGIN = 112, 2  # pixels: a sprite's square, what stays empty at its edges
FINE = 4  # drawings are cut at this many times the size and reduced at the end
FRAMES, CHIN = 8, 0.5  # a person: pictures of the walk, what is above this height is no clothing
PACKAGES = {
    "noto": "iconify-json-noto-1.2.9",
    "noto-v1": "iconify-json-noto-v1-1.2.5",
    "fxemoji": "iconify-json-fxemoji-1.2.2",
    "fluent": "iconify-json-fluent-emoji-flat-1.2.6",
    "people": "arcade-3.3.3",
}
# A line that begins with a word: object, kind, seen in training or not, coats. Then its drawings, `SET:ICON`, with
#   .N    another drawing from the same set      <      mirror: the set's drawing faces left
#   @X,Y  where a hat sits, in hundredths        -HEX   leave out the parts of this fill
#   ^     only the largest piece                 =HEX   the body has this colour (else: the commonest one)
#   ~     the body has the given colours only, not their lighter and darker shades too
TABLE = """
dog animal seen brown golden grey white black
  noto:dog<@58,4 fxemoji:dogside<@80,20 fluent:dog<@84,26
cat animal seen orange brown grey white black
  noto:cat<@64,16 noto.2:black-cat<@70,15 fluent:cat<@81,18
rabbit animal seen brown golden grey white black
  noto:rabbit<@63,30 noto-v1:rabbit<@54,38 fluent:rabbit<@76,26
pig animal seen pink brown grey white black
  noto:pig<@70,14 fxemoji:pigside<@78,28 fluent:pig<@77,16
turtle animal seen green brown golden grey
  noto:turtle<@79,30 fxemoji:turtle<@84,24 fluent:turtle<@89,43
penguin animal seen black grey blue brown
  noto:penguin<@57,3 noto-v1:penguin<@52,3 fxemoji:penguin@50,3=606464
duck animal seen brown golden grey white black
  noto:duck<~@59,3=84544C=B49074 noto-v1:duck<~@66,3=7C7C7C=B89078 fluent:duck<~@66,3=D0D0D0=989898=A46850
cow animal seen brown golden grey white black
  noto:cow<@76,17 noto-v1:cow<@80,12 fluent:cow<~@80,10=D0D0D0=E4E4E4
car vehicle seen red blue green yellow white
  noto:automobile<@46,20 fxemoji:automobile<@41,23 fluent:automobile<@41,18
bus vehicle seen red blue green yellow orange
  noto:bus<~@50,18=F4D8AC=FCB800=FC6010=FCA010=B8A074 fxemoji:bus<~@50,16=E4E4DC=6CB41C=4C8024
  fluent:bus<~@50,13=E4E4E4=FCB02C
tractor vehicle seen red blue green yellow orange
  noto:tractor<~@30,12=00A844=2C7C30=74DC88=0C8C3C=5C6068 fxemoji:tractor<@30,10 fluent:tractor<@32,11
scooter vehicle seen red blue green yellow white
  noto:motor-scooter<@31,43 noto-v1:motor-scooter<@30,34 fluent:motor-scooter<@41,32
sailboat vehicle seen red blue green yellow white
  noto:sailboat@56,3 fxemoji:sailboat<~@66,5-D7F4F7-00BEEA-00A6C1=FC443C=AC743C=D09860
  fluent:sailboat<~@59,3-00a6ed=FC8054=FCD43C=FC9C2C
person person seen red blue green yellow white
  woman-1:female_adventurer~@51,4=74A4C0=6494B0=CC8A54 woman-2:female_person~@49,4=38B474=24A260=585CAC
  man-1:male_adventurer~@49,11=3CBC78=2CA468=CC8A54=DC9458 man-2:male_person~@51,4=E89C5C=EC9C5C=CC8444=585CAC
tiger animal unseen orange golden grey white
  noto:tiger<@79,16=FC9410=FC681C fxemoji:tigerside<@86,22 fluent:tiger<@80,15=FC802C=FC6420
crocodile animal unseen green brown golden grey
  noto:crocodile<@60,68 noto-v1:crocodile<@62,36 fxemoji:crocodile@74,48
whale animal unseen blue grey white black
  noto:whale<@77,38 fxemoji:whale<@72,37 fluent:whale<@68,28
rooster animal unseen brown golden grey white black
  noto:rooster<@75,6 fxemoji:rooster<@77,6 fluent:rooster<~@77,5=A46850=6C4434
ram animal unseen white grey brown golden black
  noto:ram<@75,8 fxemoji:ram<@80,22 fluent:ram<@77,5
snail animal unseen brown golden grey pink green
  noto:snail<~@73,5=A05C40=4C342C=D07854 fxemoji:snail<@90,10 fluent:snail<~@84,4=A46850=6C4434
train vehicle unseen red blue green yellow black
  noto:locomotive<@23,27=F44034=007868 fxemoji:steamlocomotive<~@25,9=FC443C=545858
  fluent:locomotive<~@20,6=F82C60=606060
rocket vehicle unseen red blue green yellow white
  noto:rocket~@93,5=B0D8E0=80ACC0=00A8F4=0074BC=38CCFC fxemoji:rocket@94,5 fluent:rocket~@94,5=F4F4F4
"""
BOX = {"left": 0, "top": 0, "width": 16, "height": 16}  # what the packages leave out
FRONT = "tree noto:deciduous-tree evergreen noto:evergreen-tree rock fluent:rock hut noto:hut cactus fluent:cactus"
WEAR = "hat noto:top-hat balloon fxemoji:balloon"
TOKEN = re.compile(r"(?P<set>[\w-]+?)(?P<more>\.\d)?:(?P<icon>[\w-]+?)(?P<marks>[<^~]*)(?:@(?P<head>\d+,\d+))?")


def main(art: Path) -> None:
    """Write the pictures and sprites.json; `art` holds the packages unpacked, each in a folder called like PACKAGES."""
    for old in (path for path in SPRITES.iterdir() if path.is_dir() and path.name != "licences"):
        shutil.rmtree(old)
    objects: dict[str, dict] = {}
    for line in TABLE.strip().splitlines():
        if not line.startswith(" "):
            name, kind, seen, *colours = line.split()
            objects[name] = {"kind": kind, "seen": seen == "seen", "colours": colours, "drawings": {}}
            continue
        for token in line.split():
            drawing, entry = _draw(art, name, token)
            objects[name]["drawings"][drawing] = entry
    (SPRITES / "sprites.json").write_text(json.dumps({"objects": objects}, indent=1) + "\n")
    for folder, table in (("front", FRONT), ("wear", WEAR)):
        for name, token in zip(*[iter(table.split())] * 2, strict=True):
            picture = _fit([_pieces(_icon(art, *token.split(":")))], standing=folder == "wear")[0]
            _save(picture, SPRITES / folder / f"{name}.png")


def _draw(art: Path, name: str, token: str) -> tuple[str, dict]:
    """Write one drawing and its body; returns its name and its entry of sprites.json."""
    plain, *options = re.split(r"(?=[-=][0-9A-Fa-f]{6}\b)", token)
    mark = TOKEN.fullmatch(plain)
    if mark["set"] in PACKAGES:
        without = [option[1:] for option in options if option[0] == "-"]
        pictures = [_pieces(_icon(art, mark["set"], mark["icon"], without), largest="^" in mark["marks"])]
    else:
        images = art / PACKAGES["people"] / "arcade/resources/assets/images/animated_characters" / mark["icon"]
        paths = [next(images.glob(f"*_walk{frame}.png")) for frame in range(FRAMES)]
        pictures = [np.asarray(Image.open(path).convert("RGBA")) for path in paths]
    pictures = _fit([picture[:, ::-1] if "<" in mark["marks"] else picture for picture in pictures])
    seeds = [bytes.fromhex(option[1:]) for option in options if option[0] == "="]
    drawing = mark["set"] + (mark["more"] or "").replace(".", "-")
    for frame, picture in enumerate(pictures):
        stem = SPRITES / name / (drawing + (f".{frame}" if len(pictures) > 1 else ""))
        _save(picture, stem.with_name(f"{stem.name}.png"))
        body = _body(picture, seeds, narrow="~" in mark["marks"])
        if len(pictures) > 1:
            body[: int(len(body) * CHIN)] = 0
        _save(body, stem.with_name(f"{stem.name}.body.png"))
    head = [int(place) / 100 for place in (mark["head"] or "50,5").split(",")]
    return drawing, {"frames": len(pictures), "head": head, "source": f"{mark['set']}/{mark['icon']}"}


def _icon(art: Path, package: str, name: str, without: list[str] | None = None) -> np.ndarray:
    icons = json.loads((art / PACKAGES[package] / "package/icons.json").read_text())
    icon = icons["icons"][icons.get("aliases", {}).get(name, {}).get("parent", name)]
    box = [icon.get(key, icons.get(key, usual)) for key, usual in BOX.items()]
    body = re.sub(rf'<path fill="#({"|".join(without)})"[^>]*/>', "", icon["body"]) if without else icon["body"]
    space, view = "http://www.w3.org/", " ".join(map(str, box))
    svg = f'<svg xmlns="{space}2000/svg" xmlns:xlink="{space}1999/xlink" viewBox="{view}">{body}</svg>'
    png = cairosvg.svg2png(bytestring=svg.encode(), output_width=FINE * 128, output_height=FINE * 128)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def _pieces(picture: np.ndarray, largest: bool = False) -> np.ndarray:
    """Leave out what is drawn apart from the thing: specks, or all but the largest piece."""
    _, label, stats, _ = cv2.connectedComponentsWithStats((picture[..., 3] > 24).astype(np.uint8))
    area = np.concatenate([[0], stats[1:, cv2.CC_STAT_AREA]])
    kept = area >= area.max() * (1 if largest else 0.03)
    return picture * kept[label][..., None].astype(np.uint8)


def _fit(pictures: list[np.ndarray], standing: bool = False) -> list[np.ndarray]:
    """Crop to what is drawn (in any frame) and fit the longer side into the square, at FINE times its size.

    standing: what is lowest is put at the middle of the lower edge.
    """
    drawn = np.max([picture[..., 3] for picture in pictures], 0) > 24
    (top, bottom), (left, right) = (np.flatnonzero(drawn.any(axis))[[0, -1]] + [0, 1] for axis in (1, 0))
    factor = FINE * (SPRITE - 2 * MARGIN) / max(bottom - top, right - left)
    x, y = (left + right) / 2, (top + bottom) / 2
    if standing:
        x = np.flatnonzero(drawn[bottom - 1]).mean() + 0.5
        factor = FINE * (SPRITE - 2 * MARGIN) / max(bottom - top, 2 * (right - x), 2 * (x - left))
        y = bottom - (SPRITE / 2 - MARGIN) * FINE / factor
    half = FINE * SPRITE / 2
    move = np.float32([[factor, 0, half - factor * x], [0, factor, half - factor * y]])
    size = (FINE * SPRITE, FINE * SPRITE)
    fitted = []
    for picture in pictures:
        solid = np.float32(picture) * np.dstack([np.float32(picture[..., 3:]) / 255] * 3 + [np.ones(drawn.shape)])
        solid = cv2.warpAffine(solid.astype(np.float32), move, size, flags=cv2.INTER_LINEAR)
        solid[..., :3] *= 255 / np.maximum(solid[..., 3:], 1)
        fitted.append(solid.clip(0, 255).round().astype(np.uint8))
    return fitted


def _body(picture: np.ndarray, seeds: list[bytes], narrow: bool) -> np.ndarray:
    """How much each pixel belongs to the body, 0 to 255: the seeds' hues, by default the one that covers most."""
    lab = cv2.cvtColor(np.float32(picture[..., :3]) / 255, cv2.COLOR_RGB2LAB)
    opaque = picture[..., 3] > 128
    if seeds:
        centres = cv2.cvtColor(np.float32([list(seed) for seed in seeds])[None] / 255, cv2.COLOR_RGB2LAB)[0]
        weight = np.max([_near(lab, centre, narrow) for centre in centres], 0)
    else:
        cv2.setRNGSeed(0)
        stop = (cv2.TERM_CRITERIA_MAX_ITER + cv2.TERM_CRITERIA_EPS, 30, 0.1)
        _, _, centres = cv2.kmeans(lab[opaque][::7], 8, None, stop, 3, cv2.KMEANS_PP_CENTERS)
        weights = (_near(lab, centre, narrow) for centre in centres if centre[0] > 25)
        weight = max(weights, key=lambda weight: weight[opaque].sum())
    return cv2.GaussianBlur(cv2.medianBlur(np.uint8(255 * weight * opaque), 2 * FINE + 1), (0, 0), FINE / 2)


def _near(lab: np.ndarray, seed: np.ndarray, narrow: bool) -> np.ndarray:
    """0 to 1: is it the seed's colour; unless narrow, shades of its hue count too, and for a grey other greys."""
    if narrow:
        return np.clip(2 - np.linalg.norm(lab - seed, axis=-1) / 9, 0, 1)
    chroma, own = np.hypot(lab[..., 1], lab[..., 2]), np.hypot(seed[1], seed[2])
    if own < 14:
        apart = np.hypot(lab[..., 1] - seed[1], lab[..., 2] - seed[2])
        return np.clip(2 - apart / 7, 0, 1) * np.clip(3 - np.abs(lab[..., 0] - seed[0]) / 14, 0, 1)
    hue = np.abs((np.arctan2(lab[..., 2], lab[..., 1]) - np.arctan2(seed[2], seed[1]) + np.pi) % (2 * np.pi) - np.pi)
    return np.clip(2 - np.degrees(hue) / 16, 0, 1) * np.clip(chroma / own * 5 - 1, 0, 1)


def _save(picture: np.ndarray, path: Path) -> None:
    """Write it at its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture)
    if image.mode == "RGBA":
        image = image.convert("RGBa")  # so that the edge takes no colour from where nothing is drawn
    image = image.resize((SPRITE, SPRITE), Image.Resampling.BOX)
    (image.convert("RGBA") if image.mode == "RGBa" else image).save(path, optimize=True)
