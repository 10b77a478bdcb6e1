"""The clips: scenes that move, with truth, captions and edits; `python -m miniature clips` writes them to data/."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain, product
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from ruamel.yaml import YAML
from torch import Tensor
from torch.nn.functional import interpolate

from miniature.moves import FRAMES, GROUPS, WORDS, crossing, move, random_clip, word
from miniature.places import PLACES
from miniature.scenes import (
    BARE,
    COLOURS,
    GREY_COLOURS,
    MOST,
    MOTIONS,
    SIZE,
    STYLES,
    WEARS,
    Drawn,
    Renderer,
    Scenes,
    atlas,
    describe,
    drawings,
    fronts,
    grain,
    names,
    objects,
    parse,
    random_scenes,
)

DATA = Path("data")
FPS, SEED = 8, 2118
LAYOUTS = 2000  # the first clip's layout; every clip has one of its own
WALK = "walk"  # in a list of motions: "straight" of a person
LISTS = {  # the motions of a list's clips, of seen and of unseen objects
    "evaluation": (
        [*GROUPS["path"][:9], *[WALK] * 3, "hop", "sway", "stretch", "hop", "pan", "zoom", "pan", "hide", "hide"],
        [*GROUPS["path"], "straight", "turn", "hop", "sway", "stretch", "sway", "pan", "zoom", "zoom", "hide", "hide"],
    ),
    "development": (
        ["arc", "closer", "zigzag", WALK, "stretch", "pan"],
        ["straight", "loop", "turn", "hop", "zoom", "hide"],
    ),
}
SEVERAL = "several"  # an edit of object, place and style at once
# what a fourth edit of every third clip is about: in each half of the clips both kinds, at once or of the looks alone
FOURTH = [SEVERAL, SEVERAL, "colour", "hat", SEVERAL, SEVERAL, "colour", "balloon", SEVERAL, SEVERAL, "hat", "colour",
          SEVERAL, "colour"]  # fmt: skip
SHARPENED = 6  # times: then a sixth of the difference is left where it was greatest, and nothing elsewhere
CHROMA = "chroma-qp-offset=-9"  # its pixels are as large as a model's, which see its errors in full
POSE = ("x", "y", "size", "angle", "squash", "shear")  # in the order of Scenes.pose
OCCLUSIONS = (0, 25, 50, 75)  # per cent of a thing that is hidden at most, in clips of several things
FEW = (1, 50, True), (2, 0, False), (2, 50, True), (2, 75, False), (3, 25, True), (3, 75, False)  # for the default run


def main() -> None:
    """Write the clips and their lists: evaluation.yaml, default.yaml (six of them), development.yaml, several.yaml and
    objects.yaml (six of these)."""
    clips, lists = [], {}
    for name, halves in LISTS.items():
        first, fair = len(clips), Fair(np.random.default_rng([SEED, len(lists)]))
        for motions in zip(*halves, strict=True):
            for motion, seen in zip(motions, (True, False), strict=True):
                clips.append(_clip(fair, motion, seen, clips))
        lists[name] = clips[first:]
    _fourth(lists["evaluation"])
    fair = Fair(np.random.default_rng([SEED, len(lists)]))
    cells = list(product(range(1, MOST + 1), OCCLUSIONS, (True, False)))
    lists["several"] = [_crossing(fair, *cell, LAYOUTS + len(clips) + number) for number, cell in enumerate(cells)]
    few = [clip for cell, clip in zip(cells, lists["several"], strict=True) if cell in FEW]
    for old in (DATA / "clips").glob("*"):
        old.unlink()
    for clip in chain(*lists.values()):
        write(clip)
    for name, clips in lists.items():
        _write_list(DATA / f"{name}.yaml", clips, about=True)
    _write_list(DATA / "objects.yaml", few)
    short = [{**clip, "edits": dict(list(clip["edits"].items())[:3])} for clip in _default(lists["evaluation"])]
    _write_list(DATA / "default.yaml", short)


class Fair:
    """Chooses at random among what it has chosen least."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.used = rng, Counter()

    def order(self, what: str, among: Iterable[str]) -> list[str]:
        """The least used first."""
        return sorted(map(str, self.rng.permutation(list(among))), key=lambda one: self.used[what, one])

    def __call__(self, what: str, among: Iterable[str]) -> str:
        return self.take(what, self.order(what, among)[0])

    def take(self, what: str, choice: str) -> str:
        self.used[what, choice] += 1
        return choice


def _clip(fair: Fair, motion: str, seen: bool, before: list[dict]) -> dict:
    """A clip of one thing that differs from those before, with an edit each of object, place and style."""
    third = len(before) // 2 % 3 == (2 if seen else 1)
    kind = "person" if motion == WALK else "vehicle" if third else "animal"
    taken = {thing["object"] for clip in before if clip["motion"] == motion for thing in clip["things"]}
    name = fair("object", [name for name in names(seen) if objects()[name].kind == kind and name not in taken])
    group = WALK if motion == WALK else next(group for group, own in GROUPS.items() if motion in own)
    layout = LAYOUTS + len(before)
    motion, style, places = "straight" if motion == WALK else motion, fair("style", STYLES), fair.order("place", PLACES)
    for attempt in range(200):  # until the thing stands out from where it is, and hides where it is to
        place = places[attempt // 10 % len(places)]
        look = random_clip(fair.rng, motion, range(layout, layout + 1), [name])
        look = _in(look, style, place, says_colour=len(before) % 8 in (1, 4))
        worn = fair.rng.integers(len(WEARS)) if len(before) % 12 in (3, 8) else BARE
        look = look.with_(wears=np.full((FRAMES, MOST), worn))
        if motion == "hide":  # the five things that can stand in front take turns
            front = fair.order("front", fronts())[attempt // 20 % len(fronts())]
            look = look.with_(front=np.full(FRAMES, fronts().index(front)))
        if _stands_out(look) and (motion != "hide" or _comes_out(_drawn(look).share[:, 0])):
            break
    else:
        raise RuntimeError(f"no picture of a {name} in which it can be seen well")
    fair.take("place", place)
    if motion == "hide":
        fair.take("front", front)
    said = word(motion, look)
    number = sum(clip["things"][0]["object"] == name and clip["motion"] == motion for clip in before) + 1
    title = f"{name}-{motion if group == 'camera' else said.replace(' ', '-')}" + f"-{number}" * (number > 1)
    clip = _truth(title, group, motion, look)
    return {**clip, "edits": _edits(fair, clip, ("object", "place", "style"))}


def _in(look: Scenes, style: str, place: str, says_colour: bool = False) -> Scenes:
    """The same things elsewhere, their colours said or not."""
    n, says = len(look), look.says.copy()
    says[..., 0] |= says_colour
    says[..., 0] &= says_colour | (look.count > 1)[:, None]  # two alike keep their colours' names
    says[..., 1] = False
    return look.with_(
        style=np.full(n, list(STYLES).index(style)), place=np.full(n, list(PLACES).index(place)), says=says
    )


def _drawn(look: Scenes) -> Drawn:
    """Frames of one clip, without grain."""
    return Renderer(layouts=range(look.layout[0], look.layout[0] + 1))(look)


def _stands_out(look: Scenes) -> bool:
    """Whether all things differ in colour from what is behind them, that is not full of lines, and nor are they."""
    frames = look[[0, FRAMES // 2]]
    drawn, empty = _drawn(frames), _drawn(frames.with_(count=0 * frames.count)).pictures
    lines = (empty[..., 1:] - empty[..., :-1]).abs().amax(1).mean()
    change = (drawn.pictures - empty).abs().amax(1)
    parts = [drawn.visible[:, k] > 0.5 for k in range(look.count[0])]
    white = (drawn.pictures.amin(1) > 0.75) & bool(look.style[0] == list(STYLES).index("neon"))  # lines upon lines
    clear = all(change[part].mean() > 0.28 and white[part].float().mean() < 0.4 for part in parts)
    return bool(lines < 0.055 and clear)


def _comes_out(share: Tensor) -> bool:
    """Whether a thing of these visible shares, frame by frame, is hidden and is seen before and after."""
    return bool(share.min() < 0.4 and share[0] > 0.6 and share[-1] > 0.6)


def _edits(fair: Fair, clip: dict, kinds: Iterable[str]) -> dict[str, str]:
    """Prompts by what they change: the first thing's object, the place, the style."""
    source, prompts = parse(clip["caption"]), {}
    things, first = source["things"], source["things"][0]
    for kind in kinds:
        if kind == "object":
            others = [name for name in names(True) if name not in {thing.object for thing in things}]
            alike = [name for name in others if first.colour in objects()[name].colours]
            new = fair("new object", alike or others)
            colour = first.colour if alike else None  # which no other object has
            prompts[kind] = _asking(clip, things=[replace(first, object=new, colour=colour), *things[1:]])
        else:
            among = [other for other in (PLACES if kind == "place" else STYLES) if other != source[kind]]
            prompts[kind] = _asking(clip, **{kind: fair(f"new {kind}", among)})
    return prompts


def _asking(clip: dict, **new) -> str:
    """The clip's caption with something new in it; going straight has another word for each kind."""
    said = parse(clip["caption"]) | new
    said["motion"] = WORDS[clip["motion"]][objects()[said["things"][0].object].kind]
    return describe(**said)


def _fourth(clips: list[dict]) -> None:
    """Every third clip also gets an edit of object, place and style at once or of what its thing looks like."""
    fair = Fair(np.random.default_rng([SEED, 5]))
    for clip, kind in zip(clips[2::3], FOURTH, strict=True):
        (thing,), shown = parse(clip["caption"])["things"], clip["things"][0]
        if kind == SEVERAL:
            single = {what: parse(prompt) for what, prompt in clip["edits"].items()}
            new = {"things": single["object"]["things"], **{what: single[what][what] for what in ("place", "style")}}
            clip["edits"][SEVERAL] = _asking(clip, **new)
            continue
        if kind == "colour":
            others = [colour for colour in objects()[thing.object].colours if colour != shown["colour"]]
            hues = [colour for colour in others if colour not in GREY_COLOURS]
            thing = replace(thing, colour=fair("colour", hues or others))
        else:
            thing = replace(thing, wears=next(wear for wear in (kind, *WEARS) if wear != shown["wears"]))
        clip["edits"]["attribute"] = _asking(clip, things=[thing])


def _crossing(fair: Fair, number: int, occlusion: int, seen: bool, layout: int) -> dict:
    """A clip of `number` things that pass each other, or of one that passes something in front, so that of one of
    them at most `occlusion` per cent is hidden: looked for with the renderer. With an edit each of object and place."""
    alike = number > 1 and 2 * (number - 2) + seen == OCCLUSIONS.index(
        occlusion
    )  # one at each: of one object, by colour
    style = fair("style", STYLES)
    for attempt in range(40):
        chosen = fair.order("object", names(seen))[attempt % 3 :][:number]
        chosen = chosen[:1] * number if alike else chosen
        place = fair.order("place", PLACES)[attempt % 4]
        look = _in(_several(fair.rng, chosen, layout), style, place)
        look = min(_ways(fair.rng, look), key=lambda ways: abs(_hidden(ways) - occlusion / 100))
        if abs(_hidden(look) - occlusion / 100) < 0.05 and _stands_out(look):
            break
    else:
        raise RuntimeError(f"no {occlusion} % of {chosen} can be hidden")
    for name in set(chosen):
        fair.take("object", name)
    fair.take("place", place)
    present = dict.fromkeys([*chosen, *([fronts()[look.front[0]]] if number == 1 else [])])
    group, motion = ("cross", "cross") if number > 1 else ("hide", "straight")
    clip = _truth(f"{number}-{'-'.join(present)}-{occlusion}", group, motion, look)
    return {**clip, "occlusion": occlusion, "edits": _edits(fair, clip, ("object", "place"))}


def _several(rng: np.random.Generator, chosen: Sequence[str], layout: int) -> Scenes:
    """The look of the chosen objects, one frame after the other, all in different colours where they are alike."""
    while True:
        parts = [random_scenes(rng, 1, [name], range(layout, layout + 1)) for name in chosen]
        if len({(name, *part.colour[0, :1]) for name, part in zip(chosen, parts, strict=True)}) == len(chosen):
            break
    own = {what: np.concatenate([getattr(part, what)[:, :1] for part in (parts + parts[:1] * MOST)[:MOST]], 1)
           for what in ("drawing", "colour", "paint")}  # fmt: skip
    n, alike = len(chosen), len(chosen) > len(set(chosen))
    word = WORDS["cross" if n > 1 else "straight"][objects()[chosen[0]].kind]
    look = parts[0].with_(
        **own, count=np.array([n]), wears=np.full((1, MOST), BARE), says=np.full((1, MOST, 2), [alike, False]),
        motion=np.array([MOTIONS.index(word)]),
    )  # fmt: skip
    return look[np.zeros(FRAMES, int)]


def _ways(rng: np.random.Generator, look: Scenes) -> Iterable[Scenes]:
    """The same things on many ways past each other, or past what stands in front."""
    count, way = look.count[0], int(rng.choice([-1, 1]))
    plain = move("straight", rng)
    if count > 1:
        for uneven in (0, 0.15, 0.3):
            for apart in np.linspace(0, 1, 14):
                yield look.with_(**plain | crossing(count, apart, uneven, way))
        return
    front = rng.permutation(len(fronts()))[0]
    for size in (0.45, 0.6, 0.75):
        for y in np.linspace(0.5, 1.15, 12):
            place = {"front": np.full(FRAMES, front), "front_pose": np.tile([0.5, y, size], (FRAMES, 1))}
            yield look.with_(**plain | place)


def _hidden(look: Scenes) -> float:
    """The largest part of any thing that is not seen in some frame."""
    flat = look.with_(style=0 * look.style)  # the style that is drawn fastest
    return 1 - float(_drawn(flat).share[:, : look.count[0]].min())


def _truth(name: str, group: str, motion: str, look: Scenes) -> dict:
    """All that is known of a clip, as its JSON file has it."""
    things = [
        {
            "object": shown.object,
            "drawing": drawings()[look.drawing[0, k]][1],
            "colour": shown.colour,
            "paint": look.paint[0, k].round(4).tolist(),
            "wears": shown.wears,
        }
        for k, shown in enumerate(look.things(0))
    ]
    walks = atlas("cpu").frames[look.drawing[0]] > 1
    frames = [
        {
            "things": [
                {
                    **dict(zip(POSE, look.pose[frame, k].round(4).tolist(), strict=True)),
                    "phase": round(look.phase[frame, k] * walks[k], 4),
                    "facing": int(look.facing[frame, k]),
                }
                for k in range(len(things))
            ],
            "view": look.view[frame].round(4).tolist(),
            "front": None if look.front[frame] == BARE else look.front_pose[frame].round(4).tolist(),
        }
        for frame in range(len(look))
    ]
    return {
        "name": name,
        "caption": look.captions()[0],
        "style": list(STYLES)[look.style[0]],
        "place": list(PLACES)[look.place[0]],
        "layout": int(look.layout[0]),
        "light": look.light[0].round(4).tolist(),
        "motion": motion,
        "group": group,
        "seen": all(objects()[thing["object"]].seen for thing in things),
        "fps": FPS,
        "occluder": None if look.front[0] == BARE else fronts()[look.front[0]],
        "things": things,
        "frames": frames,
    }


def scenes(clip: dict) -> Scenes:
    """What a clip's truth says, frame by frame, to be drawn again."""
    n, said, things = len(clip["frames"]), parse(clip["caption"]), clip["things"]
    more = range(MOST - len(things))  # places of things that are not there

    def each(values: list) -> np.ndarray:
        return np.tile(np.array(values + values[:1] * len(more)), (n,) + (1,) * np.ndim(values))

    def every(*what: str) -> np.ndarray:
        rows = [[[thing[key] for key in what] for thing in frame["things"]] for frame in clip["frames"]]
        return np.array([row + row[:1] * len(more) for row in rows])

    return Scenes(
        style=np.full(n, list(STYLES).index(clip["style"])),
        place=np.full(n, list(PLACES).index(clip["place"])),
        layout=np.full(n, clip["layout"]),
        view=np.array([frame["view"] for frame in clip["frames"]]),
        light=np.tile(clip["light"], (n, 1)),
        count=np.full(n, len(things)),
        drawing=each([drawings().index((thing["object"], thing["drawing"])) for thing in things]),
        colour=each([list(COLOURS).index(thing["colour"]) for thing in things]),
        paint=each([thing["paint"] for thing in things]),
        facing=every("facing")[..., 0],
        wears=each([list(WEARS).index(thing["wears"]) if thing["wears"] else BARE for thing in things]),
        phase=every("phase")[..., 0],
        pose=every(*POSE),
        front=np.full(n, fronts().index(clip["occluder"]) if clip["occluder"] else BARE),
        front_pose=np.array([frame["front"] or [0.5, 0.5, 0.5] for frame in clip["frames"]]),
        motion=np.full(n, MOTIONS.index(said["motion"])),
        says=each([[thing.colour is not None, thing.wears is not None] for thing in said["things"]]),
    )


def as_asked(clip: dict, prompt: str) -> Scenes:
    """A clip as a prompt asks for it, drawn by hand so to speak: what no model can do better.

    The same motion; a new object in the first of its drawings, in the colour that was there if the prompt names no
    other and the object has it, else in the first of its own.
    """
    look, said = scenes(clip), parse(prompt)
    drawing, colour, paint, wears = (part.copy() for part in (look.drawing, look.colour, look.paint, look.wears))
    for k, (wanted, shown) in enumerate(zip(said["things"], clip["things"], strict=True)):
        palette = objects()[wanted.object].colours
        new = wanted.colour or (shown["colour"] if shown["colour"] in palette else palette[0])
        if wanted.object != shown["object"]:
            drawing[:, k] = drawings().index((wanted.object, objects()[wanted.object].drawings[0]))
        if new != shown["colour"]:
            colour[:, k], paint[:, k] = list(COLOURS).index(new), COLOURS[new]
        if wanted.wears:
            wears[:, k] = list(WEARS).index(wanted.wears)
    where = _in(look, said["style"], said["place"])
    return where.with_(drawing=drawing, colour=colour, paint=paint, wears=wears)


def write(clip: dict) -> None:
    """Write NAME.mp4, its truth NAME.json, and NAME.masks.png: a row per thing, a column per frame, visible white."""
    path = DATA / "clips" / clip["name"]
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = render(clip)
    encode(path.with_suffix(".mp4"), drawn.canvas)
    sheet = torch.cat(list(drawn.visible[:, : len(clip["things"])]), 2).flatten(0, 1).numpy()
    cv2.imwrite(f"{path}.masks.png", (sheet > 0.5) * np.uint8(255), [cv2.IMWRITE_PNG_BILEVEL, 1])
    for frame, shares in zip(clip["frames"], drawn.share.tolist(), strict=True):
        for thing, share in zip(frame["things"], shares, strict=False):
            thing["share"] = round(share, 4)
    edits = {name: {"prompt": prompt, "asks": _asks(prompt)} for name, prompt in clip["edits"].items()}
    text = json.dumps({**clip, "edits": edits, "frames": 0}, indent=1)
    frames = ",\n  ".join(json.dumps(frame) for frame in clip["frames"])
    path.with_suffix(".json").write_text(text.replace('"frames": 0', f'"frames": [\n  {frames}\n ]') + "\n")


def render(clip: dict) -> Drawn:
    """A clip's frames as its video shows them: `pictures` and `canvas` with the same grain.

    A reader makes a canvas smaller by a filter that mixes neighbours and would take a seventh of the finest grain, so a
    canvas is sharpened until it is read as the picture that models learn from, but for bright lines on black, which
    cannot be sharper. `pictures` are what is read.
    """
    look = scenes(clip)
    drawn = _drawn(look)
    film = grain(len(look), torch.Generator().manual_seed(clip["layout"]))
    pictures, canvas = (drawn.pictures + film).clamp(0, 1), drawn.canvas
    for _ in range(SHARPENED):
        lost = pictures - _as_read(canvas)
        canvas = (canvas + lost.repeat_interleave(2, 2).repeat_interleave(2, 3)).clamp(0, 1)
    return Drawn(_as_read(canvas), canvas, drawn.visible, drawn.share)


def _as_read(canvas: Tensor) -> Tensor:
    """A canvas at a model's size, as `tav.read_clip` makes it smaller."""
    return interpolate(canvas, size=SIZE, mode="bilinear", antialias=True)


def encode(path: Path, frames: Tensor) -> None:
    """Write frames n 3 h w in [0, 1] as H.264 that ordinary players show; what a model sees of it is close to them."""
    options = {"crf": "17", "tune": "psnr", "preset": "slow", "threads": "1", "x264-params": CHROMA}
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(FPS), options=options)
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv420p"
        for picture in (frames * 255).round().byte().permute(0, 2, 3, 1).numpy():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def _asks(prompt: str) -> dict:
    """What a prompt asks for, as truth files have it."""
    said = parse(prompt)
    return {"style": said["style"], "place": said["place"], "things": [vars(thing) for thing in said["things"]]}


def _default(clips: list[dict]) -> list[dict]:
    """Six of the evaluation's clips: three of seen objects, three of unseen ones, half of them paths."""
    wanted = [("path", True), ("path", False), ("camera", True), ("deform", False), (WALK, True), ("path", False)]
    chosen: list[dict] = []
    for group, seen in wanted:
        left = [clip for clip in clips if (clip["group"], clip["seen"]) == (group, seen) and clip not in chosen]
        shown = Counter(clip["motion"] for clip in chosen) + Counter(clip["style"] for clip in chosen)
        chosen.append(min(left, key=lambda clip: shown[clip["motion"]] + shown[clip["style"]]))
    return chosen


def _write_list(path: Path, clips: list[dict], about: bool = False) -> None:
    """Captions and edits under `clips`, as in the repository's params.yaml; under `about` the facts of each clip."""
    listed = {
        clip["name"]: {
            "source": {"path": f"data/clips/{clip['name']}.mp4", "start": 0, "stride": 2},
            "caption": clip["caption"],
            "edits": clip["edits"],
        }
        for clip in clips
    }
    facts = {
        clip["name"]: {
            "objects": [thing["object"] for thing in clip["things"]],
            "kind": objects()[clip["things"][0]["object"]].kind,
            **{what: clip[what] for what in ("seen", "group", "motion", "style", "place", "occlusion") if what in clip},
        }
        for clip in clips
    }
    yaml = YAML()
    yaml.width = 120
    yaml.dump({"clips": listed, **({"about": facts} if about else {})}, path)
