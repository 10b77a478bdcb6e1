"""Section 5.2: the methods of baselines/, on the same image model, clips, prompts, seed and steps."""

from torch import Tensor

from peers import METHODS, defaults
from studies.settings import Inflate, Params
from studies.stages import RESULTS, label, load_model, replacing
from tav.clip import read_frames, write_frames
from tav.errors import InputError


def baseline(params: Params, method: str) -> None:
    """Edits all clips as a peer method does, from the image model, into results/baseline/<method>/<clip>/<edit>."""
    pipe = load_image_model(params)
    with replacing(RESULTS / "baseline" / method) as folder:
        for name, entry in params.clips.items():
            clip = read_frames(RESULTS / "tune" / name / "source") * 2 - 1
            for edit, prompt in entry.edits.items():
                label(pipe, f"{method} {name} {edit}")
                write_frames(folder / name / edit, edit_as(method, pipe, params, clip, entry.caption, prompt))


def load_image_model(params: Params):
    """The model as it is before it is inflated, which is what peer methods start from."""
    image_model = Inflate(norm="frame", attention="own", temporal=False, temporal_conv=False)
    return load_model(params.model_copy(update={"inflate": image_model}))


def edit_as(method: str, pipe, params: Params, clip: Tensor, caption: str, prompt: str) -> Tensor:
    """A clip f 3 h w in [-1, 1] edited by a peer method, f 3 h w in [0, 1]."""
    settings = peer_settings(params, method)
    return METHODS[method](pipe, clip, caption, prompt, **settings)


def peer_settings(params: Params, method: str) -> dict:
    """A peer method's settings over those of `edit`; InputError if there is no such method, or no such setting."""
    if method not in params.baselines or method not in METHODS:
        raise InputError(f"baselines has no method {method}: there are {', '.join(METHODS)}, each with its settings")
    settings, known = params.baselines[method], {"guidance_scale": None} | defaults(method)
    if unknown := [name for name in settings if name not in known]:
        raise InputError(f"baselines.{method} takes {', '.join(known)}, not {', '.join(unknown)}")
    common = {"steps": params.edit.steps, "seed": params.tune.seed, "negative_prompt": params.edit.negative_prompt}
    return common | {"guidance_scale": params.edit.guidance_scale} | settings
