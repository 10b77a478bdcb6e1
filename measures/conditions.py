"""What a control is shown of a clip: drawn from its frames, or from what is known of it (its truth)."""

import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from pickle import UnpicklingError

import cv2
import numpy as np
import torch
from einops import rearrange, repeat
from huggingface_hub import hf_hub_download
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForDepthEstimation

from measures.truth import Truth
from tav.clip import to_pictures
from tav.errors import InputError, loading

FROM_TRUTH = ("mask", "pose")
KINDS = ("edges", "depth", "openpose", *FROM_TRUTH)
HEAD, HAND, CENTRE = (255, 60, 60), (60, 220, 60), (90, 120, 255)  # colours of the keypoints and of their limbs
BODY = "body_pose_model.pth"


def draw_edges(picture: np.ndarray) -> np.ndarray:
    """Canny's edges of a picture, (h, w, 3) uint8 -> (h, w) of 0 and 255; thresholds 100 and 200 as in ControlNet."""
    return cv2.Canny(picture, 100, 200)


def draw_pose(things, size: int = 64) -> np.ndarray:
    """Keypoints of things (centre x, y, longer side, angle, facing; see `Truth`): (size, size, 3) uint8 on black.

    A red limb goes from the centre half the longer side up, a green one half of it ahead, both turned by the angle, so
    that a map tells place, size, and which way is up and which ahead. Later things are drawn over earlier ones.
    """
    drawn = np.zeros((size, size, 3), np.uint8)
    for x, y, side, angle, facing in things:
        across, down = np.cos(np.radians(angle)) * side / 2, np.sin(np.radians(angle)) * side / 2
        points = np.array([(x, y), (x + down, y - across), (x + facing * across, y + facing * down)])
        centre, head, hand = (tuple(map(int, point)) for point in np.round((points * size - 0.5) * 16))
        for end, colour in ((head, HEAD), (hand, HAND)):
            cv2.line(drawn, centre, end, colour, 2, cv2.LINE_AA, 4)
            cv2.circle(drawn, end, 2 * 16, colour, cv2.FILLED, cv2.LINE_AA, 4)
        cv2.circle(drawn, centre, 2 * 16, CENTRE, cv2.FILLED, cv2.LINE_AA, 4)
    return drawn


def edges(frames: Tensor) -> Tensor:
    """White edges of frames f 3 h w in [0, 1]: f 3 h w in [0, 1]."""
    drawn = np.stack([draw_edges(picture) for picture in to_pictures(frames)])
    return repeat(torch.from_numpy(drawn) / 255, "f h w -> f c h w", c=3)


@torch.no_grad()
def depth(frames: Tensor, model: str) -> Tensor:
    """How near frames f 3 h w in [0, 1] are, near is bright: f 3 h w in [0, 1].

    model: a folder or Hub id of relative, inverse depth in transformers format, such as DPT (Ranftl et al., arXiv
        2103.13413) or Depth Anything; a metric one gives distance, which would be bright where it is far. It runs on
        the frames' device.

    ControlNet's annotator makes the nearest point of each picture white and its farthest black. Here this is done once
    for the whole clip: a thing that comes near would otherwise darken all that stands still behind it, and the map
    would flicker. Raises InputError if the model cannot be had.
    """
    processor, estimator = _depth_model(model)
    estimator.to(frames.device)
    near = []
    for picture in to_pictures(frames):
        predicted = estimator(**processor(picture, return_tensors="pt").to(frames.device))
        resized = processor.post_process_depth_estimation(predicted, target_sizes=[picture.shape[:2]])
        near.append(resized[0]["predicted_depth"].float().cpu())
    estimator.cpu()  # it is kept for the next clip, and the GPU's memory is for the clip's model
    near = torch.stack(near) - min(map(torch.min, near))
    return repeat(near / near.max().clamp_min(1e-6), "f h w -> f c h w", c=3)


def openpose(frames: Tensor, model: str) -> Tensor:
    """The limbs of the people in frames f 3 h w in [0, 1], bodies only, in OpenPose's colours: f 3 h w in [0, 1].

    By controlnet_aux, which makes ControlNet's maps, on the frames' device. model: a folder or Hub id that holds
    body_pose_model.pth (OpenPose's licence: not for commercial use). Its own detection size, the shorter side 512, is
    kept whatever the clip's size. Raises InputError if library or weights cannot be had.
    """
    detector = _body_detector(model)
    detector.body_estimation.to(frames.device)
    size = frames.shape[:1:-1]  # w, h
    drawn = [detector(picture, output_type="np") for picture in to_pictures(frames)]
    drawn = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in drawn])
    return rearrange(torch.from_numpy(drawn) / 255, "f h w c -> f c h w")


def mask(truth: Truth) -> Tensor:
    """White where a thing is: f 3 h w in [0, 1]."""
    return repeat(truth.mask.float(), "f h w -> f c h w", c=3)


def pose(truth: Truth) -> Tensor:
    """The keypoints of every frame's things: f 3 h w in [0, 1]."""
    things = torch.cat([truth.things, truth.facing[..., None]], -1).tolist()
    drawn = np.stack([draw_pose(frame, truth.mask.shape[-1]) for frame in things])
    return rearrange(torch.from_numpy(drawn) / 255, "f h w c -> f c h w")


def check_kind(kind: str) -> None:
    """Raises InputError for a kind of condition that there is not."""
    if kind not in KINDS:
        known = f"{', '.join(KINDS[:-1])} or {KINDS[-1]}"
        raise InputError(f"there is no control of kind {kind}: use {known} in params.yaml (edges are Canny's)")


def condition(kind: str, frames: Tensor, truth: Truth | None, models: Mapping[str, str]) -> Tensor:
    """What a control of this kind is shown of a clip's frames f 3 h w in [0, 1]: f 3 h w in [0, 1], on the CPU.

    models: of the kinds "depth" and "openpose", the folder or Hub id of what draws them.
    Raises InputError for a kind that there is not, one of FROM_TRUTH without truth, or a model that cannot be had.
    """
    check_kind(kind)
    if kind in FROM_TRUTH:
        if truth is None:
            raise InputError(f"a {kind} is drawn from a clip's truth, and this clip has none beside it: use edges")
        return mask(truth) if kind == "mask" else pose(truth)
    if kind == "edges":
        return edges(frames)
    return depth(frames, models["depth"]) if kind == "depth" else openpose(frames, models["openpose"])


@cache
def _depth_model(model: str):
    with loading(model, "give conditions.depth a folder, or a Hub id and a network"):
        # no code that comes with weights is run
        processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=False)
        estimator, info = AutoModelForDepthEstimation.from_pretrained(
            model, trust_remote_code=False, output_loading_info=True
        )
        # Nothing goes through the first fusion's first layer, which published DPTs leave out.
        missing = [key for key in info["missing_keys"] if "fusion_stage.layers.0.residual_layer1." not in key]
        if missing:
            raise ValueError(f"{len(missing)} weights are missing")
    return processor, estimator.eval()


@cache
def _body_detector(model: str):
    try:
        with warnings.catch_warnings():  # that libraries of its other detectors are missing or old
            warnings.simplefilter("ignore")
            from controlnet_aux.open_pose import Body, OpenposeDetector
    except ImportError as error:
        raise InputError('openpose needs controlnet_aux: pip install ".[conditions]"') from error
    with loading(model, "give conditions.openpose a folder, or a Hub id and a network"):
        path = Path(model) / BODY if Path(model).is_dir() else hf_hub_download(model, BODY)
        try:
            return OpenposeDetector(Body(path))  # read by torch.load, which takes tensors only
        except UnpicklingError as error:
            raise InputError(f"{BODY} of {model} holds more than weights, which is not loaded: get another") from error
