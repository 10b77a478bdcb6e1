"""A whole run in small, in a folder of its own: one clip with one edit, one peer, one notebook, the report's parts."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from ruamel.yaml import YAML

from publish.notebook import execute_notebook
from studies.inputs import inputs
from studies.peers import edit_by_peers
from studies.settings import Params, load_params
from studies.stages import edit, invert, tune
from tav import interrupt

NEEDED = ("notebooks", "models", "data", "dvc.yaml")
NOTEBOOK, PEER = "02_results", "sdedit"
STEPS = 20  # of tuning: enough to see that it runs


def smoke(params: Params) -> None:
    """Runs the stages on the first clip of params.yaml and its first edit; results of the project stay as they are."""
    name, entry = next(iter(params.clips.items()))
    first = dict([next(iter(entry.edits.items()))])
    settings = params.model_dump(mode="json")
    settings["clips"] = {name: entry.model_dump(mode="json") | {"edits": first}}
    settings["peers"] = {PEER: params.peers.get(PEER, {})}
    settings["tune"]["steps"] = min(STEPS, params.tune.steps)
    project, source = Path.cwd(), settings["clips"][name]["source"]
    source["path"] = os.path.abspath(source["path"])
    for model in ("model", "lora"):
        if settings[model] and Path(settings[model]).exists():
            settings[model] = os.path.abspath(settings[model])
    with interrupt.unwinding(), TemporaryDirectory() as folder:
        for needed in (path for path in NEEDED if (project / path).exists()):
            Path(folder, needed).symlink_to(project / needed)
        YAML(typ="safe").dump(settings, Path(folder, "params.yaml"))
        os.chdir(folder)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(project), os.environ.get("PYTHONPATH", "")])
        try:
            small = load_params()
            for stage in (inputs, tune, invert, edit, edit_by_peers):
                stage(small)
                print(f"ok   {stage.__name__}")
            execute_notebook(small, NOTEBOOK)
            rows = json.loads(Path("results/notebooks", NOTEBOOK, "metrics.json").read_text())
            print(f"ok   {NOTEBOOK}: {len(rows)} rows of evidence")
        finally:
            os.chdir(project)
