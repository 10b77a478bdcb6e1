"""Section 4: ControlNets and T2I-Adapters over tuned models, with no further training."""

import hashlib
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from measures.conditions import FROM_TRUTH, condition
from measures.truth import truth_beside
from studies.settings import Params, settings_of
from studies.stages import (
    RESULTS,
    fingerprint,
    guidance,
    label,
    load_model,
    random_noise,
    replacing,
    result,
    start_noise,
)
from tav.checkpoint import load_tuned, read_safetensors
from tav.clip import read_frames, write_frames
from tav.control import load_control, sample_controlled


def next_clip(params: Params, name: str) -> str:
    """The clip whose condition a clip is drawn under: the next in params.yaml, for the last one the first."""
    names = list(params.clips)
    return names[(names.index(name) + 1) % len(names)]


def control_clips(params: Params) -> None:
    """Samples the tuned clips under every kind of params.control, into results/control/<kind>/<whose>/<clip>/<edit>.

    own: every edit from the clip's inverted noise, under the clip's own condition. other: the first edit from random
    noise, as inverted noise has the clip's own motion, under the next clip's condition; of the kind none, without one.
    Conditions go to <kind>/condition/<clip>. What was drawn before an interruption is not drawn again.
    """
    pipe = load_model(params)
    conditions = {name: _conditions(params, name, pipe.device) for name in params.clips}
    controls = {kind: load_control(model, pipe) for kind, model in params.control.items()}
    weights = [float(p.double().sum()) for control in controls.values() for p in control.state_dict().values()]
    clips = [params.invert.steps, *(fingerprint(params, name) for name in params.clips)]
    inputs = json.dumps([settings_of(params, "control"), clips, weights])
    state = Path(".state/control") / hashlib.sha256(inputs.encode()).hexdigest()[:16]
    for name, entry in params.clips.items():
        load_tuned(pipe, result("tune", name, "tuned"))
        inverted = read_safetensors(result("invert", name, "inverted"))["noise"]
        noise = {"own": start_noise(params, inverted), "other": random_noise(params, inverted)}
        shown = {"own": conditions[name], "other": conditions[next_clip(params, name)]}
        wanted = [("own", kind, edit) for kind in shown["own"] for edit in entry.edits]
        if len(params.clips) > 1:
            wanted += [("other", kind, next(iter(entry.edits))) for kind in ("none", *shown["other"])]
        for whose, kind, edit in wanted:
            if (folder := state / kind / whose / name / edit).exists():
                continue
            label(pipe, f"control {kind} {whose} {name} {edit}")
            task = entry.edits[edit], noise[whose], params.edit.steps
            with replacing(folder) as new:
                if kind == "none":
                    frames = pipe(*task, output_type="pt", **guidance(params)).frames[0]
                else:
                    frames = sample_controlled(pipe, controls[kind], shown[whose][kind], *task, **guidance(params))
                write_frames(new, frames)
        for kind, drawn in conditions[name].items():
            write_frames(state / kind / "condition" / name, drawn)
    with replacing(RESULTS / "control") as folder:
        shutil.copytree(state, folder, dirs_exist_ok=True)
    shutil.rmtree(state)


def _conditions(params: Params, name: str, device: torch.device) -> dict[str, Tensor]:
    """The conditions of a clip's frames as the stage tune kept them; what its truth is needed for only if it has one.

    The models that draw them run on `device`.
    """
    frames = read_frames(result("tune", name, "tuned").with_name("source")).to(device)
    truth = truth_beside(params.clips[name].source, len(frames), tuple(frames.shape[-2:]))
    kinds = [kind for kind in params.control if truth or kind not in FROM_TRUTH]
    return {kind: condition(kind, frames, truth, params.conditions.model_dump()) for kind in kinds}
