"""The judge of the miniature world: what and where, read off one picture; `measures.judge` loads what is trained here.

Only its own seeds and layouts are used, so that it has seen no picture that the other models were trained on. What a
diffusion model paints is unlike drawn pictures, so it learns from what autoencoder and UNet make of them, too.
"""

from functools import cache
from math import inf
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import (
    avg_pool2d,
    binary_cross_entropy_with_logits,
    cross_entropy,
    interpolate,
    one_hot,
    smooth_l1_loss,
)
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from measures.judge import (
    NOTHING,
    OFF,
    SIDE,
    VOTES,
    Judge,
    apart,
    beside,
    cropped,
    find,
    hue,
    places,
    pose_of,
    prepare,
    resize,
    wrapped,
)
from miniature.fit import autocast, digest, fit, made_once, replacing
from miniature.pool import AT_ONCE, Pool
from miniature.scenes import (
    BARE,
    COLOURS,
    GREY_COLOURS,
    MOST,
    PLACES,
    STYLES,
    WEARS,
    Renderer,
    Scenes,
    atlas,
    blur,
    drawings,
    fronts,
    grain,
    objects,
    objects_of,
    random_scenes,
)
from miniature.text import Texts
from miniature.unet import scheduler

LAYOUTS = range(1000, 1064)  # of the places that the judge learns from
FRESH = range(2000, 2016)  # of those it is measured on
HIDDEN, SEEN = 0.15, 0.25  # of which less is seen is not recognised; of which as much is, is asked about
EMPTY = 0.06  # share of crops that show a place where no thing is, if there is such a place
BROKEN = 64  # one picture of so many is of each broken kind
SMEARED, BETWEEN = 24, 12  # one of so many shows a thing that the UNet smears, and one that is between two objects
SEED = 9191  # of the pictures it is measured on
ASTRAY = 0.03, 0.03, 0.1, 8.0, 0.08, 0.06  # how far from the truth the reader's crops are, as a finder errs


@cache
def answers() -> dict[str, list[str]]:
    """What the reader can say, per question, of the thing that its crop shows."""
    return {
        "object": [*objects(), NOTHING],
        "drawing": [f"{name}/{drawing}" for name, drawing in drawings()],
        "style": list(STYLES),
        "place": list(PLACES),
        "facing": ["left", "right"],
        "wears": ["bare", *WEARS],
        "colour": list(COLOURS),
    }


def build() -> nn.ModuleDict:
    """Reader and finder; batch norm throughout, which two cores train several times faster than group norm."""
    asked = [f"{question}:{answer}" for question, known in answers().items() for answer in known]
    backbone = ResNetConfig(num_channels=5, embedding_size=32, hidden_sizes=[32, 64, 96, 128], depths=[2, 1, 1, 1],
                            layer_type="basic", out_features=["stage1", "stage2", "stage3", "stage4"])  # fmt: skip
    reader = ResNetConfig(num_channels=6, embedding_size=32, hidden_sizes=[48, 96, 192, 256], depths=[1, 2, 2, 1],
                          layer_type="basic", id2label=dict(enumerate(asked + OFF)))  # fmt: skip
    finder = UperNetConfig(backbone_config=backbone, hidden_size=32, pool_scales=[1, 2], use_auxiliary_head=False,
                           id2label=dict(enumerate(VOTES)))  # fmt: skip
    return nn.ModuleDict(
        {"reader": ResNetForImageClassification(reader), "finder": UperNetForSemanticSegmentation(finder)}
    )


def scenes(rng: np.random.Generator, n: int) -> Scenes:
    """Half as pictures are composed, the rest as clips move: partly outside, small or large, turned, in each other's
    way, behind what stands in front, or all but gone."""
    drawn = random_scenes(rng, n, list(objects()), LAYOUTS)
    kind = rng.choice(["composed", "moving", "aside", "behind"], n, p=[0.5, 0.35, 0.05, 0.1])
    single = drawn.count == 1
    pose, count = drawn.pose.copy(), np.where(kind == "aside", 1, drawn.count)
    moves = single & np.isin(kind, ["moving", "behind"])
    free = np.stack([rng.uniform(-0.02, 1.02, n), rng.uniform(0.2, 0.85, n), rng.uniform(0.3, 0.9, n)], 1)
    turned = np.where(rng.random(n) < 0.15, rng.uniform(-180, 180, n), rng.normal(0, 25, n))
    bent = (rng.random(n) < 0.4)[:, None] * rng.normal(0, [0.22, 0.2], (n, 2))
    pose[moves, 0] = np.concatenate([free, turned[:, None], bent], 1)[moves]
    near = ~single & (kind == "moving")  # things that pass each other
    pose[near, 1:, :2] = pose[near, :1, :2] + rng.normal(0, [0.22, 0.08], (near.sum(), MOST - 1, 2))
    beyond = pose[:, 0, 2] * rng.uniform(0.3, 0.8, n)
    aside = kind == "aside"
    pose[aside, 0, 0] = np.where(rng.random(n) < 0.5, -beyond, 1 + beyond)[aside]
    behind = kind == "behind"
    front = np.where(behind, rng.integers(len(fronts()), size=n), drawn.front)
    front_pose = drawn.front_pose.copy()
    front_pose[behind, 0] = pose[behind, 0, 0] + rng.normal(0, 0.2, behind.sum())
    return drawn.with_(pose=pose, count=count, front=front, front_pose=front_pose)


class Truth:
    """What the n pictures of a pool show, on its device.

    answers: n MOST questions, numbers of the answers. main: n, which thing shows most. seen: n MOST, whether so much of
    a thing is seen that it can be asked about. things: n MOST 12, what a pixel of each thing should vote for, x and y
    absolute. walks: n MOST, whether it has a walk cycle.
    """

    def __init__(self, pool: Pool) -> None:
        told, share = pool.scenes, pool.share.cpu().numpy()
        area = torch.stack([pool.visible[:, k].sum((1, 2), dtype=torch.float32) for k in range(MOST)], 1).cpu().numpy()
        owner = objects_of(told.drawing)
        columns = {
            "object": np.where(share < HIDDEN, len(objects()), owner),
            "drawing": told.drawing,
            "style": told.style[:, None].repeat(MOST, 1),
            "place": told.place[:, None].repeat(MOST, 1),
            "facing": (told.facing > 0).astype(int),
            "wears": told.wears - BARE,
            "colour": told.colour,
        }
        steps = atlas(str(pool.device)).frames[told.drawing]
        middle = (np.floor(told.phase * steps) + 0.5) / steps  # of the phases that are drawn alike
        turn, step = np.radians(told.pose[..., 3]), 2 * np.pi * middle
        turn, step = (np.stack([np.sin(angle), np.cos(angle)], -1) for angle in (turn, step))
        things = np.concatenate([told.pose[..., :3], turn, told.pose[..., 4:], told.paint, step], -1).astype(np.float32)

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(pool.device)

        self.answers = tensor(np.stack([columns[question] for question in answers()], 2).astype(np.int64))
        self.main, self.things, self.walks = tensor(area.argmax(1)), tensor(things), tensor(steps > 1)
        self.seen = tensor((share >= SEEN) & (np.arange(MOST) < told.count[:, None]))


class Degrading:
    """Makes of drawn pictures what models make of them: a third by the UNet, one by the autoencoder, one not at all;
    some are broken, and some show a thing that nobody could name: a smear, or something between two objects."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        """`folder` holds a pipeline's parts; without a UNet the autoencoder takes its third."""
        self.pool, self.unet, kept = pool, None, {"torch_dtype": torch.float32}
        self.renderer = Renderer(pool.device, LAYOUTS)
        self.vae = AutoencoderKL.from_pretrained(folder / "vae", **kept).to(pool.device).eval()
        self.vae.to(memory_format=torch.channels_last)
        if (folder / "unet").exists():
            self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", **kept).to(pool.device).eval()
            self.unet.to(memory_format=torch.channels_last)
            self.states, self.row = Texts(folder, pool.device).table(pool.scenes.captions())
            self.signal = scheduler().alphas_cumprod.to(pool.device)

    def all(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Every picture of the pool, n 3 64 64 uint8, and which of them are broken and unclear, n each."""
        parts = []
        for start in range(0, len(self.pool), AT_ONCE):
            chosen = np.arange(start, min(start + AT_ONCE, len(self.pool)))
            generator = torch.Generator(self.pool.device).manual_seed(seed * 1_000_003 + start)
            pictures, *states = self.take(chosen, np.random.default_rng([seed, 6, start]), generator)
            parts.append(((pictures * 255).round().byte(), *states))
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))

    @torch.no_grad()
    def take(
        self, chosen: np.ndarray, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The chosen pictures, n 3 64 64 in [0, 1]; which of them are broken beyond recognition, n; and which show
        something that cannot be named, n."""
        pictures, device = self.pool.take(chosen, generator), self.pool.device
        n, k = len(chosen), -(-len(chosen) // BROKEN)
        third, two, scale = n // 3, 2 * (n // 3), self.vae.config.scaling_factor
        unclear = torch.zeros(n, dtype=torch.bool, device=device)
        middle = 2 * k + n // SMEARED
        smeared, between = slice(2 * k, middle), slice(middle, middle + n // BETWEEN)

        def random(count: int) -> Tensor:
            return torch.rand(count, generator=generator, device=device)

        if self.unet:
            unclear[smeared] = True
            others, unclear[between] = self._others(chosen[between], generator)
        with autocast(device):
            latents = scale * self.vae.encode(pictures[:two] * 2 - 1).latent_dist.mode().float()
            noise = torch.randn(latents.shape, generator=generator, device=device)
            changed = latents + 0.4 * random(two)[:, None, None, None] * noise
            if self.unet:
                times = 190 + 260 * random(third)  # from noisier latents it may draw another thing than was there
                times[:k] = 851 + 148 * random(third)[:k]
                times[smeared] = 740 + 110 * random(third)[smeared]
                times[between] = 300 + 300 * random(third)[between]
                empty = random(third) < 0.5
                empty[:k] = empty[smeared] = empty[between] = True
                share = 0.4 + 0.2 * random(third)[between, None, None, None]
                others = scale * self.vae.encode(others * 2 - 1).latent_dist.mode().float()
                latents[between] = share * latents[between] + (1 - share) * others
                changed[:third] = self._foreseen(chosen[:third], latents[:third], noise[:third], times.long(), empty)
            changed[k : 2 * k] = noise[k : 2 * k]
            drawn = self.vae.decode(changed / scale).sample.float() / 2 + 0.5
        pictures[:two] = drawn.clamp(0, 1)
        pictures[-k:] = blur(pictures[-k:], rng.uniform(8, 16))
        pictures[-2 * k : -k] = shuffled(pictures[-2 * k : -k], rng)
        broken = torch.zeros(n, dtype=torch.bool, device=device)
        broken[k : 2 * k] = broken[-2 * k :] = True
        broken[:k] = self.unet is not None
        return pictures, broken, unclear

    def _others(self, chosen: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The chosen pictures with the things of others of them in their things' places, n 3 64 64 in [0, 1], and in
        which of them the first thing is another object, n."""
        scenes = self.pool.scenes[chosen]
        given = {what: np.roll(getattr(scenes, what), 1, 0) for what in ("drawing", "colour", "paint")}
        clean = self.renderer(scenes.with_(**given)).pictures
        differ = objects_of(given["drawing"][:, 0]) != objects_of(scenes.drawing[:, 0])
        return (clean + grain(len(chosen), generator).to(clean)).clamp(0, 1), torch.from_numpy(differ).to(clean.device)

    def _foreseen(self, chosen: np.ndarray, latents: Tensor, noise: Tensor, times: Tensor, empty: Tensor) -> Tensor:
        """What the UNet takes the latents to be when they are noised to `times`; where `empty`, without a caption."""
        row = self.row[torch.from_numpy(chosen).to(self.row.device)]
        text = self.states[torch.where(empty, len(self.states) - 1, row)].float()
        signal = self.signal[times][:, None, None, None]
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        return signal.sqrt() * noisy - (1 - signal).sqrt() * self.unet(noisy, times, text).sample.float()


def shuffled(pictures: Tensor, rng: np.random.Generator, patch: int = 8) -> Tensor:
    """Pictures n c h w whose patches have changed places."""
    rows = pictures.shape[-1] // patch
    parts = rearrange(pictures, "n c (y p) (x q) -> n (y x) c p q", p=patch, q=patch)
    parts = parts[:, torch.from_numpy(rng.permutation(rows * rows)).to(parts.device)]
    return rearrange(parts, "n (y x) c p q -> n c (y p) (x q)", y=rows)


def augment(pictures: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Pictures n 3 h w in [0, 1] in other light, with more grain, a third of them less sharp.

    Brightness and contrast change by about 5 %, saturation by 8 %, hue by less than 4 degrees.
    """
    n, device = len(pictures), pictures.device
    blurred = n // 3
    order = torch.randperm(n, generator=generator, device=device)
    small = resize(pictures[order[:blurred]], int(rng.integers(20, 56)))
    pictures = pictures.index_copy(0, order[:blurred], interpolate(small, pictures.shape[-2:], mode="bilinear"))

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    grey = torch.full((3, 3), 1 / 3, device=device)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device) / 3**0.5  # turns about the greys
    turn = (torch.rand(n, 1, 1, generator=generator, device=device) * 2 - 1) * np.radians(4)
    rotation = grey + turn.cos() * (torch.eye(3, device=device) - grey) + turn.sin() * across
    vivid = 1 + 0.08 * random(n, 1, 1)
    mixed = (1 + 0.05 * random(n, 1, 1)) * (vivid * rotation + (1 - vivid) * grey)
    light = 0.5 + 0.025 * random(n, 1, 1, 1)
    noise = 0.03 * torch.rand(n, 1, 1, 1, generator=generator, device=device) * random(*pictures.shape)
    return (torch.einsum("nij,njhw->nihw", mixed, pictures - 0.5) + light + noise).clamp(0, 1)


class Pictures:
    """Training batches on a device. What there is to know of a pool's pictures, and what models make of them, is made
    once for both networks and all their runs, as that is slow."""

    def __init__(self, settings: dict, folder: Path, device: torch.device) -> None:
        def make(_) -> tuple[dict[str, Tensor], dict[str, str]]:
            pool = Pool(settings["pool"], settings["seed"], device, layouts=LAYOUTS, masks=True, draw=scenes)
            pictures, broken, unclear = Degrading(pool, folder).all(settings["seed"])
            known = {"pictures": pictures, "broken": broken, "unclear": unclear, "visible": pool.visible}
            known |= vars(Truth(pool))
            return {name: tensor.cpu().contiguous() for name, tensor in known.items()}, {}

        of = digest(folder, "vae", "unet")
        (path,) = made_once(f"judge-{of}-{settings['seed']}-{settings['pool']}", 1, make)
        self.known, self.device = {name: tensor.to(device) for name, tensor in load_file(path).items()}, device

    def batch(self, rng: np.random.Generator, generator: torch.Generator, count: int) -> dict[str, Tensor]:
        """`count` pictures, half of them mirrored, n 3 64 64 in [0, 1]; `visible`, n MOST 64 64 in [0, 1], of which
        broken pictures have nothing; things and walks as in `Truth`; crops, n 3 96 96 in [0, 1], and answers,
        n questions, about what they show: any thing that is seen, else what shows most, a place without a thing, or,
        of half of the broken pictures, nothing that was found; what is unclear is no object; off, n 6, what the crops
        are off, see `apart`."""
        device = self.device
        at = torch.from_numpy(rng.integers(len(self.known["pictures"]), size=count)).to(device)
        batch = {name: known[at] for name, known in self.known.items()}
        broken, unclear, pictures = batch.pop("broken"), batch.pop("unclear"), batch.pop("pictures") / 255
        batch["visible"] = batch["visible"] / 255 * ~broken[:, None, None, None]
        turned = torch.arange(count) % 2 == 0
        for name, part in mirrored(pictures[turned], {name: part[turned] for name, part in batch.items()}).items():
            (pictures if name == "pictures" else batch[name])[turned] = part
        pictures, every = augment(pictures, rng, generator), torch.arange(count, device=device)

        def random(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device)

        seen = random(count, MOST) * batch.pop("seen")
        which = torch.where(seen.any(1), seen.argmax(1), batch.pop("main"))
        said, poses = batch["answers"][every, which], pose_of(batch["things"][every, which])
        far = torch.randn(count, 1, generator=generator, device=device).mul(0.5).exp()
        off = far * torch.randn(poses.shape, generator=generator, device=device) * torch.tensor(ASTRAY).to(poses)
        off[:, 2] = poses[:, 2] * (off[:, 2].exp() - 1)
        elsewhere = torch.cat([random(count, 2), 0.3 + 0.4 * random(count, 1), 0 * poses[:, 3:]], 1)
        around = cropped(batch["visible"].sum(1, keepdim=True), elsewhere).mean((1, 2, 3))
        empty = (random(count) < EMPTY) & (around < 0.01)
        true, poses = poses, torch.where(empty[:, None], elsewhere, poses + off)
        batch["off"] = apart(poses, true)
        poses[broken & (every % 4 < 2)] = torch.nan
        said[broken | unclear | empty, 0] = len(objects())
        return batch | {"pictures": pictures, "crops": cropped(pictures, poses), "answers": said}


def mirrored(pictures: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a batch of `Pictures` says of its pictures n 3 h w, and these, when left and right change places."""
    said, things, facing = batch["answers"].clone(), batch["things"].clone(), list(answers()).index("facing")
    said[..., facing] = 1 - said[..., facing]
    things[..., 0] = 1 - things[..., 0]
    things[..., [3, 6]] *= -1  # the sine of the angle, and the shear
    flipped = {"pictures": pictures.flip(-1), "visible": batch["visible"].flip(-1)}
    return batch | flipped | {"answers": said, "things": things}


def train(part: str, settings: dict, folder: Path, device: torch.device, stop_after=inf, seconds=None) -> None:
    """Train "reader" or "finder" and publish it in `folder`/judge. Two processes of one thread each, which take one
    of them each, see half as many pictures again as two threads of one.

    settings: those of `fit`, pool (pictures that are drawn) and warm (start from the published weights). Both have the
    same seed and pool, so that they share what is made once.
    """
    data = Pictures(settings, folder, device)
    torch.manual_seed(settings["seed"])
    model = getattr(Judge.load(folder / "judge", "cpu"), part) if settings["warm"] else build()[part]
    model = model.to(device, memory_format=torch.channels_last)

    def loss(model, rng, generator):
        batch = data.batch(rng, generator, settings["batch"])
        with autocast(device):
            said = called(part, model, batch)
        return (naming if part == "reader" else finding)(said.float(), batch)

    model = fit(part, model, loss, settings, stop_after, seconds)
    settle(part, model, data, settings)
    (folder / "judge").mkdir(exist_ok=True)
    with replacing(folder / "judge" / part) as new:
        model.to("cpu", torch.float16, memory_format=torch.contiguous_format).save_pretrained(new)


def called(part: str, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """What one of the networks says of a batch."""
    if part == "reader":
        return model(beside(batch["pictures"], batch["crops"]).contiguous(memory_format=torch.channels_last)).logits
    return find(model, prepare(batch["pictures"]).contiguous(memory_format=torch.channels_last))


def naming(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The reader's loss: cross entropy per question and smooth L1 on what the crop is off; where nothing can be
    recognised, cross entropy of the object alone."""
    said = batch["answers"]
    *chosen, off = logits.split([*(len(known) for known in answers().values()), len(OFF)], 1)
    known = (said[:, 0] < len(objects())).float()
    total = cross_entropy(chosen[0], said[:, 0])
    for part, column in zip(chosen[1:], said.T[1:], strict=True):
        total = total + (known * cross_entropy(part, column, reduction="none")).sum() / known.sum().clamp(min=1)
    away = smooth_l1_loss(off, batch["off"], beta=0.05, reduction="none").sum(1)
    return total + 5 * (known * away).sum() / known.sum().clamp(min=1)


def finding(maps: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The finder's loss: maps (n, c, 32, 32) against what a batch of `Pictures` shows.

    Cross entropy on whether a pixel shows a thing, and, of pixels that do, smooth L1 on what they vote for.
    """
    thing, *voted = maps.split([1, 3, 2, 2, 3, 2], 1)  # sliced, each costs a gradient
    seen = batch["visible"].sum(1).clamp(max=1)
    presence = binary_cross_entropy_with_logits(resize(thing, SIDE)[:, 0], seen)
    visible = avg_pool2d(batch["visible"], SIDE // maps.shape[-1])
    owner, seen = one_hot(visible.argmax(1), MOST).float(), visible.sum(1).clamp(max=1)
    weight = seen / seen.sum((1, 2), keepdim=True).clamp(min=5)  # every picture counts alike, one nearly empty less
    goal = torch.einsum("nhwk,nkv->nvhw", owner, batch["things"])
    goal = torch.cat([goal[:, :2] - places(maps.shape[-1]).to(goal), goal[:, 2:]], 1).split([3, 2, 2, 3, 2], 1)
    walks = torch.einsum("nhwk,nk->nhw", owner, batch["walks"].float())
    votes = 0
    for votes_of, true, beta, counts in zip(
        voted, goal, (0.02, 0.3, 0.1, 0.05, 0.3), (1, 1, 1, 1, 0.3 * walks), strict=True
    ):
        votes = votes + counts * smooth_l1_loss(votes_of, true, beta=beta, reduction="none").sum(1)
    return 4 * presence + 20 * (weight * votes).sum((1, 2)).mean()


@torch.no_grad()
def settle(part: str, model: nn.Module, data: Pictures, settings: dict, batches: int = 32) -> None:
    """Measure batch norm's means and deviations again: those of training belong to the weights before averaging."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over the batches
    model.train()
    for number in range(batches):
        rng = np.random.default_rng([settings["seed"], 8, number])
        generator = torch.Generator(data.device).manual_seed(number)
        called(part, model, data.batch(rng, generator, settings["batch"]))
    model.eval()


@torch.no_grad()
def measure(models: Path, device: torch.device, count: int = 1000) -> dict:
    """What the judge reads off drawn pictures of one thing each, of all objects and of layouts it has not seen, and off
    the same through the autoencoder; as in `compare`."""
    judge = Judge.load(models / "judge", device)
    vae = AutoencoderKL.from_pretrained(models / "vae", torch_dtype=torch.float32).to(device)

    def single(rng: np.random.Generator, n: int) -> Scenes:
        drawn = random_scenes(rng, n, list(objects()), FRESH)
        return drawn.with_(count=np.ones_like(drawn.count))

    pool = Pool(count, SEED, device, layouts=FRESH, masks=True, draw=single)
    drawn = pool.take(np.arange(count), torch.Generator(device).manual_seed(SEED))
    again = [vae.decode(vae.encode(part * 2 - 1).latent_dist.mode()).sample for part in drawn.split(50)]
    again = (torch.cat(again) / 2 + 0.5).clamp(0, 1)
    return {"drawn": compare(judge, drawn.cpu(), pool), "reconstructed": compare(judge, again.cpu(), pool)}


def compare(judge: Judge, frames: Tensor, pool: Pool) -> dict[str, float]:
    """The judge's readings of a pool's pictures f 3 h w, one thing each, against their truth.

    Per cent right per question; "object there", of what is read at the true place; "nothing", per cent called so,
    wrongly; medians of the errors of hue (of colours that have one) and angle in degrees, of centre and size in per
    cent of the side; "mask", the intersection over union. Pictures whose thing is hidden are left out.
    """
    truth = Truth(pool)
    said, thing = truth.answers[:, 0].cpu(), truth.things[:, 0].cpu()
    known, reading, figures = said[:, 0] < len(objects()), judge.read(frames, pose_of(thing)[:, None]), {}
    for question, column in zip(answers(), said.T, strict=True):
        right = reading.probabilities[question].argmax(1) == column
        figures[question] = 100 * float(right[known].float().mean())
    there = torch.tensor([judge.answers["object"].index(name) for (name,) in reading.told.object]) == said[:, 0]
    figures["object there"] = 100 * float(there[known].float().mean())
    figures["nothing"] = 100 * float((~reading.recognisable[known]).float().mean())
    grey = torch.tensor([name in GREY_COLOURS for name in COLOURS])[said[:, list(answers()).index("colour")]]
    found = reading.things[:, 0]
    errors = {
        "hue": wrapped(hue(reading.colour) - hue(thing[:, 7:10])).abs()[known & ~grey],
        "angle": wrapped(found[:, 3] - pose_of(thing)[:, 3]).abs()[known],
        "centre": 100 * (found[:, :2] - thing[:, :2]).norm(dim=1)[known],
        "size": 100 * (found[:, 2] - thing[:, 2]).abs()[known],
    }
    figures |= {name: float(values.nanmedian()) for name, values in errors.items()}
    mask, seen = reading.mask > 0.5, pool.visible[:, 0].cpu() > 127
    overlap = (mask & seen).sum((1, 2)) / (mask | seen).sum((1, 2)).clamp(min=1)
    figures["mask"] = float(overlap[known].mean())
    return {name: round(value, 3 if name == "mask" else 2) for name, value in figures.items()}
