"""The notebook that people start with, executed from its own cells."""

from pathlib import Path

import jupytext
import papermill

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples/colab/start.py"


def test_the_notebook_is_that_of_its_source():
    source, notebook = jupytext.read(SOURCE), jupytext.read(SOURCE.with_suffix(".ipynb"))
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [(c.cell_type, c.source) for c in source.cells]
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_it_runs_in_a_checkout_and_shows_the_clip_beside_its_edits(tmp_path):
    few = {"tuning_steps": 2, "sampling_steps": 2, "out": str(tmp_path / "start.webp")}
    done = papermill.execute_notebook(
        SOURCE.with_suffix(".ipynb"), tmp_path / "done.ipynb", few, cwd=ROOT, progress_bar=False
    )
    shown = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert any("loss of the first steps" in output.get("text", "") for output in shown)
    assert any("data:image/webp" in output.get("data", {}).get("text/html", "") for output in shown)
    assert (tmp_path / "start.webp").stat().st_size > 0
