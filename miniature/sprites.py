"""Cut the world's sprites out of three emoji sets; run once, `python -m miniature sprites --art FOLDER`."""

import io
import json
from pathlib import Path

import cairosvg
import cv2
import numpy as np
from PIL import Image

from miniature.world import OBJECTS, SPRITE, SPRITES

FLUENT, NOTO, CONTRAST = "fluent-emoji-3d", "noto", "fluent-emoji-high-contrast"


def main(art: Path) -> None:
    """Write one webp per style and object.

    art: a folder with the npm packages `@lobehub/fluent-emoji-3d` 1.1.0, `@iconify-json/noto` 1.2.9 and
    `@iconify-json/fluent-emoji-high-contrast` 1.2.6 unpacked in it (each in a folder that ends with name and version).
    """
    folder = {name: next(art.glob(f"*{name}-[0-9]*")) / "package" for name in (FLUENT, NOTO, CONTRAST)}
    for name, thing in OBJECTS.items():
        sprite = {
            "3d": Image.open(min((folder[FLUENT] / "assets").glob(f"{thing.code}*"), key=_plainest)).convert("RGBA"),
            "cartoon": _icon(folder[NOTO], thing.code),
            "line": _inked(_icon(folder[CONTRAST], thing.code)),
        }
        for style, picture in sprite.items():
            path = SPRITES / style / f"{name}.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            _fit(picture).save(path, quality=92, method=6, exact=True)


def _plainest(path: Path) -> tuple[int, str]:
    """Sort key: the emoji without a skin tone or gender comes first."""
    return len(path.name), path.name


def _icon(package: Path, code: str, size: int = 256) -> Image.Image:
    icons, names = (json.loads((package / f"{part}.json").read_text()) for part in ("icons", "chars"))
    name = names.get(code) or names[f"{code}-fe0f"]
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    box = icons.get("width", 16), icons.get("height", 16)
    space = "http://www.w3.org/"
    svg = (
        f'<svg xmlns="{space}2000/svg" xmlns:xlink="{space}1999/xlink" viewBox="0 0 {box[0]} {box[1]}" color="#262330">'
        f"{icons['icons'][name]['body']}</svg>"
    )
    png = cairosvg.svg2png(bytestring=svg.encode(), output_width=size, output_height=size)
    return Image.open(io.BytesIO(png)).convert("RGBA")


def _inked(glyph: Image.Image) -> Image.Image:
    """Fill what the ink encloses with paper, so that the place's lines do not run through the object."""
    ink = np.pad(np.asarray(glyph), ((2, 2), (2, 2), (0, 0)))
    outside = (ink[..., 3] < 128).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2)
    alpha = ink[..., 3:] / 255
    paper = np.array([252, 249, 240])
    colour = ink[..., :3] * alpha + paper * (1 - alpha)
    inside = cv2.GaussianBlur(np.where(outside == 2, 0, 255).astype(np.uint8), (3, 3), 0)
    return Image.fromarray(np.dstack([colour, np.maximum(inside, ink[..., 3])]).round().astype(np.uint8))


def _fit(picture: Image.Image) -> Image.Image:
    """Crop to what is drawn and fit the longer side into the sprite's square, with a margin of two pixels."""
    picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 24)).getbbox())
    factor = (SPRITE - 4) / max(picture.size)
    picture = picture.resize([max(1, round(side * factor)) for side in picture.size], Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SPRITE, SPRITE))
    square.paste(picture, ((SPRITE - picture.width) // 2, (SPRITE - picture.height) // 2))
    return square
