"""params.yaml for another scale, in one command: the miniature, the paper's setting, the released demo."""

import shutil
from pathlib import Path

from tav.errors import InputError


def use(preset: str) -> None:
    """Makes params/<preset>.yaml the params.yaml; one that is none of the presets is kept as params/last.yaml."""
    presets, now = {path.stem: path for path in Path("params").glob("*.yaml")}, Path("params.yaml")
    if preset not in presets:
        raise InputError(f"params has no {preset}.yaml: there are {', '.join(sorted(presets)) or 'no presets here'}")
    wanted = presets[preset].read_bytes()  # before params/last.yaml, which may be the one, is written anew
    if now.is_file() and now.read_bytes() not in [path.read_bytes() for path in presets.values()]:
        shutil.copyfile(now, "params/last.yaml")
        print("what params.yaml was is in params/last.yaml: `python -m studies use last` brings it back")
    now.write_bytes(wanted)
