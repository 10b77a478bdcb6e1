"""params.yaml for another scale, in one command: params/miniature.yaml under an overlay that names what it changes."""

from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from measures.clips import Section
from studies.results import write_whole
from studies.settings import Params, read_yaml
from tav.errors import InputError

FOLDER, BASE, LAST = Path("params"), "miniature", "last"
UNDER = "over"  # the setting of an overlay that names another one to lay it over


def use(preset: str) -> None:
    """Makes a preset the params.yaml; a params.yaml that is none of the presets is kept as params/last.yaml."""
    presets, now = sorted(path.stem for path in FOLDER.glob("*.yaml")), Path("params.yaml")
    if preset not in presets:
        raise InputError(f"params has no {preset}.yaml: there are {', '.join(presets) or 'no presets here'}")
    kept = FOLDER / f"{preset}.yaml"
    wanted = kept.read_bytes() if preset == LAST else compose(preset)  # before params/last.yaml is written anew
    if now.is_file() and now.read_bytes() not in [text.encode() for text in _composed(presets)]:
        write_whole(FOLDER / f"{LAST}.yaml", now.read_bytes())
        print(f"what params.yaml was is in params/{LAST}.yaml: `python -m studies use {LAST}` brings it back")
    write_whole(now, wanted)


def _composed(presets: list[str]) -> Iterator[str]:
    """The texts of presets, but for those that are broken: they are for whoever asks for them."""
    for name in presets:
        with suppress(InputError):
            if name != LAST:
                yield compose(name)


def compose(preset: str) -> str:
    """The text of a params.yaml: the base's with the settings, and the comment at the top, of an overlay.

    Sections take single settings; what maps names of the user's (clips, variants, ...) is taken whole.
    """
    path = FOLDER / f"{preset}.yaml"
    if not path.is_file():
        raise InputError(f"{path} does not exist: run this from the folder that holds params.yaml")
    if preset in (BASE, LAST):
        return path.read_text()
    yaml = YAML()
    yaml.width = 4096  # a prompt is one line
    yaml.preserve_quotes = True
    if not read_yaml(path):
        raise InputError(f"{path} is empty: take it away, or put settings into it")
    overlay = yaml.load(path)
    settings = yaml.load(compose(overlay.pop(UNDER, BASE)))
    for name, value in overlay.items():
        if name not in Params.model_fields:
            raise InputError(f"{path}: {name} is not a setting: params.yaml takes {', '.join(Params.model_fields)}")
        kind = Params.model_fields[name].annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            settings[name].update(value)
        else:
            settings[name] = value
    settings.ca.comment = overlay.ca.comment
    text = StringIO()
    yaml.dump(settings, text)
    return text.getvalue()
