"""A clip's truth as data/ holds it: squares that stand side by side, or pass over those before them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

OBJECTS = "dog", "cat", "pig"


def save_truth(stem: str, centres: list[list[float]], tile: int = 32) -> Path:
    """Writes `stem`.json and `stem`.masks.png. centres: per frame its things' x; a square's side is a fourth."""
    count, side = len(centres[0]), tile // 4
    sheet = np.zeros((count, tile, len(centres), tile), np.uint8)
    for f, xs in enumerate(centres):
        for k, x in enumerate(xs):
            columns = slice(round(x * tile) - side // 2, round(x * tile) + side // 2)
            sheet[:, side : 2 * side, f, columns] = 0
            sheet[k, side : 2 * side, f, columns] = 255
    Image.fromarray(sheet.reshape(count * tile, len(centres) * tile)).save(f"{stem}.masks.png")
    share = (sheet > 0).sum((1, 3)) / side**2
    still = {"y": 0.375, "size": 0.25, "angle": 0.0, "squash": 0.0, "shear": 0.0, "phase": 0.0, "facing": 1}
    frames = [
        {"things": [still | {"x": x, "share": share[k, f]} for k, x in enumerate(xs)], "view": [0, 0, 1]}
        for f, xs in enumerate(centres)
    ]
    looks = {"drawing": "noto", "colour": "brown", "wears": None, "paint": [0.5, 0.3, 0.2]}
    shown = {"style": "cartoon", "place": "snow", "group": "cross" if count > 1 else "hide", "seen": True}
    shown["things"] = [{"object": OBJECTS[k], **looks} for k in range(count)]
    Path(f"{stem}.json").write_text(json.dumps(shown | {"frames": frames}))
    return Path(f"{stem}.mp4")
