"""Write reports/: what git shows of a run, as pages that open from disk with no network."""

import base64
import html
import json
import math
import platform
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import nbformat
from jinja2 import Environment, PackageLoader, StrictUndefined
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter
from ruamel.yaml import YAML
from safetensors import safe_open
from torch.nn.functional import interpolate

from measures.clips import ClipEntry
from measures.evidence import expected, needed
from measures.tables import METHOD
from publish import figures
from publish.findings import counted, grounds, is_check, main_claims, measured, standing
from publish.manifest import write_manifest
from publish.player import read_scores, write_player
from studies.benchmark import kept
from studies.results import reading
from studies.settings import Params
from studies.sources import kept_frames
from tav.clip import write_clip

LONGER_SIDE = 192  # pixels of a clip in the report, whatever it was made at
EVIDENCE = "evidence"  # the chart of what a notebook's verdicts rest on
OVERVIEW = 3  # clips in the picture of the README
SHOWN = {
    "frames": "frame consistency",
    "text": "text alignment",
    "success": "edit success",
    "motion": "motion correlation",
}
PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "accelerate", "open_clip_torch", "av", "dvc")


def write_report(params: Params, results: str | Path = "results", out: str | Path = "reports") -> Path:
    """Write `out`/index.html and what it links to from the results of the other stages; returns its path.

    README.md says the same in short, to who reads the repository's pages.
    notebooks/ gets every executed notebook as .ipynb and .html, figures/ and metrics/ what they wrote, clips/ an mp4 of
    every source and edit, player/ the frames that the page's player shows. metrics/values.json holds numbers alone:
    what `dvc exp show` can put in columns. metrics/codecheck.yml lists what each section made, with checksums. The same
    results give the same bytes: no dates, no paths of this machine.
    """
    results, out = Path(results), Path(out)
    for part in ("notebooks", "figures", "metrics", "clips", "player"):
        shutil.rmtree(out / part, ignore_errors=True)
        (out / part).mkdir(parents=True)
    names = sorted(path.stem for path in Path("notebooks").glob("*.py"))
    notebooks = [_notebook(name, results / "notebooks" / name, out) for name in names]
    claims = [row for notebook in notebooks for row in notebook["rows"]]
    scores = read_scores(results / "notebooks/02_results/scores.csv")
    page = {
        "params": params,
        "counted": counted(claims),
        "standing": standing(kept("scores", params)[0]),
        "findings": [row | {"grounds": grounds(row)} for row in main_claims(claims)],
        "player": write_player(params, results, out),
        "settings": _flat(params.model_dump(mode="json", exclude={"model", "clips", "processes"})),
        "notebooks": notebooks,
        "clips": [_clip(name, entry, params, results, out) for name, entry in params.clips.items()],
        "model": _model(params.model),
        "quality": _quality(Path("miniature/reports/gates.json")),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "frozen": _frozen(Path("dvc.yaml")),
        "side": LONGER_SIDE,
        "shown": SHOWN,
        "scores": {key[1:]: row for key, row in scores.items() if key[0] == METHOD},
    }
    (out / "metrics" / "claims.json").write_text(json.dumps(claims, indent=2, ensure_ascii=False) + "\n")
    values = {notebook["name"]: {row["name"]: row["value"] for row in notebook["rows"]} for notebook in notebooks}
    (out / "metrics" / "values.json").write_text(json.dumps(values, indent=1) + "\n")
    (out / "figures" / "overview.webp").write_bytes(_overview(params, results))
    write_manifest(out, {notebook["name"]: notebook["title"] for notebook in notebooks if notebook["executed"]})
    _render("report.md", out / "README.md", **page)
    return _render("index.html", out / "index.html", **page)


def _render(template: str, path: Path, **values) -> Path:
    environment = Environment(
        loader=PackageLoader("publish"),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"measured": measured, "expected": expected, "needed": needed}
    environment.tests["check"] = is_check
    path.write_text(environment.get_template(template).render(**values))
    return path


def _notebook(name: str, folder: Path, out: Path) -> dict:
    """Publish one executed notebook; a notebook that was not executed is named, with nothing else."""
    source, metrics = folder / f"{name}.ipynb", folder / "metrics.json"
    if not source.exists():
        return {"name": name, "executed": False, "title": name, "question": "", "rows": [], "charts": {}}
    with reading(folder):
        rows, executed = json.loads(metrics.read_text()), json.loads(source.read_text())
        if not isinstance(rows, dict) or not isinstance(executed, dict) or "cells" not in executed:
            raise ValueError("a notebook with its metrics.json has another format")
        notebook = nbformat.read(source, as_version=4)
    shutil.copy(source, out / "notebooks")
    shutil.copy(metrics, out / "metrics" / f"{name}.json")
    (out / "figures" / name).mkdir()
    if (folder / "figures").exists():  # a notebook may have had nothing to draw
        shutil.copytree(folder / "figures", out / "figures" / name, dirs_exist_ok=True)
    opening = "\n".join(notebook.cells[0].source.splitlines())
    title = opening.splitlines()[0].lstrip("# ")
    question = re.search(r"\*\*Question\.\*\*\s*(.+?)(?:\n\n|$)", opening, re.DOTALL)
    _link_pictures(notebook, name, sorted((out / "figures" / name).iterdir()))
    for cell in notebook.cells:  # what a notebook folds, imports and the like, a page leaves out
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata["transient"] = {"remove_source": True}
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    page = {"name": name, "title": title, "body": body, "code_style": HtmlFormatter().get_style_defs(".highlight")}
    _render("notebook.html", out / "notebooks" / f"{name}.html", **page)
    return {
        "name": name,
        "executed": True,
        "title": title,
        "question": " ".join(question[1].split()) if question else "",
        "rows": [{"section": name, "name": key, **row} for key, row in rows.items()],
        "charts": _charts(folder / "figures", rows),
    }


def _charts(folder: Path, rows: dict) -> dict[str, str]:
    """The charts of a notebook, what its verdicts rest on first, each with the words for who does not see it."""
    paths = sorted(folder.glob("*.png"), key=lambda path: (path.stem != EVIDENCE, path.stem))
    sharp = [of if (of := path.with_suffix(".svg")).exists() else path for path in paths]
    found = ". ".join(f"{row['claim']}: {row['verdict']}" for row in rows.values())
    return {path.name: found if path.stem == EVIDENCE else path.stem.replace("-", " ") for path in sharp}


def _link_pictures(notebook: nbformat.NotebookNode, name: str, pictures: list[Path]) -> None:
    """Replace embedded pictures by links to the same bytes in figures/: a page must not carry them a second time."""
    links = {base64.b64encode(path.read_bytes()).decode(): f"../figures/{name}/{path.name}" for path in pictures}
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        data, metadata = output.get("data", {}), output.get("metadata", {})
        for kind in ("image/png", "image/jpeg"):
            if link := links.get("".join(data.get(kind, "").split())):
                width = metadata.get(kind, {}).get("width", "")
                data.clear()
                alt = html.escape(Path(link).stem.replace("-", " "))
                data["text/html"] = f'<img src="{link}" alt="{alt}" width="{width}" loading="lazy">'
        for encoded, link in links.items():
            if encoded in data.get("text/html", ""):
                data["text/html"] = re.sub(r"data:image/webp;base64,[^\"]+", link, data["text/html"])


def _clip(name: str, entry: ClipEntry, params: Params, results: Path, out: Path) -> dict:
    """Write the source and every edit of a clip as mp4 at the report's size."""
    (out / "clips" / name).mkdir()
    views = [{"name": "source", "prompt": entry.caption, "folder": results / "tune" / name / "source"}]
    for edit, prompt in entry.edits.items():
        views.append({"name": edit, "prompt": prompt, "folder": results / "edit" / name / edit})
    for view in views:
        view["video"] = f"clips/{name}/{view['name']}.mp4"
        write_clip(out / view["video"], _resized(kept_frames(params, view.pop("folder"))), params.clip.fps)
    moving = f"figures/02_results/{name}.webp"
    return {"name": name, "path": entry.source.path, "views": views, "moving": moving * (out / moving).exists()}


def _resized(frames):
    """Frames f 3 h w at the report's size: enlarged or reduced bicubically, proportions kept."""
    scale = LONGER_SIDE / max(frames.shape[-2:])
    size = [round(side * scale / 2) * 2 for side in frames.shape[-2:]]
    return interpolate(frames, size, mode="bicubic", antialias=scale < 1).clamp(0, 1)


def _overview(params: Params, results: Path) -> bytes:
    """The picture of the README, which moves: the first clips of params.yaml, each beside its edits."""
    clips = []
    for name, entry in list(params.clips.items())[:OVERVIEW]:
        clip = {f"source: {entry.caption}": kept_frames(params, results / "tune" / name / "source")}
        clip |= {prompt: kept_frames(params, results / "edit" / name / edit) for edit, prompt in entry.edits.items()}
        clips.append(clip)
    return figures.animate_clips(clips, params.clip.fps)


def _model(model: str) -> dict:
    """What can be said of a model from its folder: the sizes of its parts. Of a Hub id only its name is known."""
    folder, facts = Path(model), {}
    if not folder.is_dir():
        return {"name": model, "facts": facts}
    for part in ("unet", "vae", "text_encoder"):
        count = 0
        for weights in sorted((folder / part).glob("*.safetensors")):
            with safe_open(weights, "pt") as tensors:
                count += sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
        facts[part] = f"{count / 1e6:.3g} M parameters"
    return {"name": model, "facts": facts}


def _quality(path: Path) -> dict:
    """The measured quality of the miniature models, flattened; empty where they are not the ones that drew."""
    return _flat(json.loads(path.read_text())) if path.exists() else {}


def _flat(settings: dict, above: str = "") -> dict:
    """Nested settings as {"tune.steps": 120}."""
    flat = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def _frozen(file: Path) -> list[str]:
    """The stages that `dvc repro` leaves as they are."""
    stages = YAML(typ="safe").load(file).get("stages", {}) if file.exists() else {}
    return [name for name, stage in stages.items() if (stage.get("do") or stage).get("frozen")]
