"""What params.yaml names, by digest: models, and the clips with what they show. All other stages depend on it."""

import json

from measures.clips import ClipEntry
from studies.digests import digest_of_files, digest_of_model, digest_of_truth
from studies.results import RESULTS, replacing
from studies.settings import Params


def inputs(params: Params) -> None:
    """Writes results/inputs/{models, clips, objects}.json.

    So a replaced file is noticed wherever it lies, and what params.yaml does not name is nobody's business. Edits of
    params.yaml are not written, as what is done once per clip does not depend on them; but for the first one of each
    clip, and what it is sampled with, where tuning stops by measure.
    """
    models = {"model": params.model, "lora": params.lora, **params.score.model_dump(), **params.control}
    drawing = params.conditions.model_dump()
    models |= {f"conditions.{kind}": model for kind, model in drawing.items() if kind in params.control}
    of_peers = {peer: settings.get("model") for peer, settings in params.peers.items()}
    models |= {peer: model for peer, model in of_peers.items() if isinstance(model, str)}
    several = params.with_clips(params.objects).clips
    noted = {
        "models": {name: {"is": model, "digest": digest_of_model(model)} for name, model in models.items()},
        "clips": {name: _noted(entry) | _watched(params, entry) for name, entry in params.clips.items()},
        "objects": {name: _noted(entry) | {"edits": entry.edits} for name, entry in several.items()},
    }
    with replacing(RESULTS / "inputs") as folder:
        for name, content in noted.items():
            (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def _noted(entry: ClipEntry) -> dict:
    path = entry.source.path
    digests = {"digest": digest_of_files(path), "truth": digest_of_truth(path)}
    return entry.model_dump(exclude={"edits"}) | digests


def _watched(params: Params, entry: ClipEntry) -> dict:
    watched = {"watched": entry.first_edit, "guidance_scale": params.edit.guidance_scale}
    return watched if params.tune.stop == "measure" else {}
