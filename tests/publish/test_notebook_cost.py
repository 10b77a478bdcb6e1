"""The notebook of the cost, on figures whose growth is known."""

import json
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from benchmarks.cost import COMPARED, multiply_adds
from publish.notebook import run_notebook
from tav.model import ATTENTION

pytestmark = pytest.mark.usefixtures("cells_run_here")

ROOT = Path(__file__).parents[2]
OUT = Path("results/notebooks/07_cost")


@pytest.fixture
def measured(workplace, set_params, monkeypatch):
    """results/cost of a machine on which ST-Attn grows as m and full attention as m², with a little noise."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = workplace / "results/cost"
    folder.mkdir(parents=True)
    names = ["loading the model", "reading", "encoding", "tuning step", "inversion step", "sampling step", "decoding"]
    times = [1, 1, 1, 120, 25, 25, 1]
    steps = [
        {"step": name, "seconds": 0.1, "peak GB": 1.0, "own GB": 0.1, "times": n}
        for name, n in zip(names, times, strict=True)
    ]
    steps[0] |= {"peak GB": None, "own GB": None}
    pd.DataFrame(steps).to_csv(folder / "steps.csv", index=False)
    power = {"sparse-causal": 1, "full": 2}
    shapes = [(m, 64, 64) for m in (2, 4, 8, 16, 32)] + [(8, side, side) for side in (32, 48, 96, 128)]
    tuning = [
        {"attention": kind, "frames": m, "height": h, "width": w, "seconds": 1e-6 * m ** power[kind] * h * w}
        | {"peak GB": 1 + m / 100, "own GB": m / 100}
        for kind in COMPARED for m, h, w in shapes
    ]  # fmt: skip
    pd.DataFrame(tuning).to_csv(folder / "tuning.csv", index=False)
    layer = [
        {"attention": kind, "frames": m, "tokens": 16, "seconds": 1e-3 * m ** power.get(kind, 1), "peak GB": 1.0}
        | {"own GB": m / 100, "multiply-adds": multiply_adds(kind, m, 16)}
        for kind in ATTENTION for m in (2, 4, 8)
    ]  # fmt: skip
    pd.DataFrame(layer).to_csv(folder / "attention.csv", index=False)
    exponents = {}
    for what in ("tuning step", "attention layer"):
        for kind, value in power.items():
            exponents |= {f"seconds, {what}, {kind}": [value - 0.02, value, value + 0.03]}
            exponents |= {f"memory, {what}, {kind}": [1.0]}
    machine = {"backend": "cpu", "device": "2 threads of a processor", "threads": 2, "torch": "2", "model": "a model"}
    record = machine | {"clip": [8, 64, 64], "laps": 3, "channels": 320, "heads": 8, "exponents": exponents}
    (folder / "cost.json").write_text(json.dumps(record))
    Path("dvc.yaml").write_text("stages: {}\n")
    shutil.copytree(ROOT / "notebooks", "notebooks")
    return folder


def verdicts() -> dict[str, str]:
    run_notebook("notebooks/07_cost.py", OUT)
    return {name: row["verdict"] for name, row in json.loads((OUT / "metrics.json").read_text()).items()}


def change(folder: Path, name: str, values: list[float]) -> None:
    record = json.loads((folder / "cost.json").read_text())
    record["exponents"][name] = values
    (folder / "cost.json").write_text(json.dumps(record))


def test_growth_as_the_paper_says_holds_and_the_notebook_runs_again_to_the_same_bytes(measured):
    found = verdicts()
    assert len(found) == 6 and set(found.values()) == {"holds"}
    files = {path: path.read_bytes() for path in OUT.rglob("*") if path.is_file()}
    assert {path.name for path in files if path.suffix == ".png"} == {
        "frames.png", "memory.png", "pixels.png", "attention.png"
    }  # fmt: skip
    verdicts()
    assert {path: path.read_bytes() for path in OUT.rglob("*") if path.is_file()} == files
    notebook = nbformat.read(OUT / "07_cost.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    tables = [output["data"]["text/plain"] for output in outputs if "text/plain" in output.get("data", {})]
    assert not [table for table in tables if "2684" in table and "inversion step" in table]  # apart from ours


def test_another_growth_turns_the_verdicts(measured):
    change(measured, "seconds, attention layer, sparse-causal", [1.98, 2.0, 2.03])
    change(measured, "seconds, attention layer, full", [0.98, 1.0, 1.03])
    change(measured, "seconds, tuning step, sparse-causal", [0.9, 1.3, 1.6])
    change(measured, "memory, tuning step, sparse-causal", [1.5])
    layer = pd.read_csv(measured / "attention.csv")
    layer.loc[layer["attention"] == "full", "multiply-adds"] += 1
    layer.to_csv(measured / "attention.csv", index=False)
    assert verdicts() == {
        "seconds_attention_layer_sparse_causal": "fails",
        "seconds_attention_layer_full": "fails",
        "seconds_tuning_step_sparse_causal": "undecided",
        "memory_tuning_step_sparse_causal": "fails",
        "multiply_adds_sparse_causal": "holds",
        "multiply_adds_full": "fails",
    }


def test_what_was_not_measured_stays_open(measured):
    tuning = pd.read_csv(measured / "tuning.csv")
    tuning[~((tuning["attention"] == "full") & (tuning["frames"] == 32))].to_csv(measured / "tuning.csv", index=False)
    record = json.loads((measured / "cost.json").read_text())
    del record["exponents"]["seconds, tuning step, sparse-causal"]
    (measured / "cost.json").write_text(json.dumps(record))
    assert verdicts()["seconds_tuning_step_sparse_causal"] == "undecided"
