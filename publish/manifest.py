"""A manifest of what a run made, in the form of CODECHECK's codecheck.yml, with a checksum for every file."""

import hashlib
from pathlib import Path

from ruamel.yaml import YAML

SPECIFICATION = "https://codecheck.org.uk/spec/config/1.0/"
PAPER = {
    "title": "Tune-A-Video: One-Shot Tuning of Image Diffusion Models for Text-to-Video Generation",
    "authors": [{"name": name} for name in ("Jay Zhangjie Wu", "Yixiao Ge", "Xintao Wang", "Stan Weixian Lei",
                "Yuchao Gu", "Yufei Shi", "Wynne Hsu", "Ying Shan", "Xiaohu Qie", "Mike Zheng Shou")],
    "reference": "https://arxiv.org/abs/2212.11565",
}  # fmt: skip
LISTED = ("*.json", "*.png", "*.jpg", "*.ipynb")  # of a section: verdicts, charts, strips, the executed notebook


def write_manifest(out: Path, titles: dict[str, str]) -> None:
    """Write `out`/metrics/codecheck.yml: what belongs to each section of `titles`, by its path in `out`.

    No date and no checker: whoever checks a run adds theirs.
    """
    files = [
        {"file": path.relative_to(out).as_posix(), "comment": title, "sha256": _digest(path)}
        for name, title in titles.items()
        for path in sorted(path for pattern in LISTED for path in out.rglob(pattern))
        if path.stem == name or path.parent.name == name
    ]
    yaml = YAML()
    yaml.width = 120
    yaml.dump({"version": SPECIFICATION, "paper": PAPER, "manifest": files}, out / "metrics" / "codecheck.yml")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
