import nbformat
import pytest

from publish.notebook import run_notebook
from tav.errors import InputError

HEADER = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A small notebook

# %% tags=["parameters"]
out = "results"
width = 2

"""


@pytest.fixture
def small(tmp_path):
    def write(cells):
        path = tmp_path / "small.py"
        path.write_text(HEADER + cells)
        return path

    return write


def test_a_notebook_runs_twice_to_the_same_bytes(small, tmp_path):
    out = tmp_path / "out"
    source = small(
        "# %%\nprint(out, width)\nprint({'one', 'two', 'three'})\n\n"
        "# %%\nimport matplotlib.pyplot as plt\nplt.plot(range(width))\nplt.show()\n"
    )
    first = run_notebook(source, out, {"width": 7}).read_bytes()
    assert run_notebook(source, out, {"width": 7}).read_bytes() == first
    assert [path.name for path in out.iterdir()] == ["small.ipynb"]
    notebook = nbformat.read(out / "small.ipynb", as_version=4)
    assert notebook.cells[-2].outputs[0].text.startswith(f"{out} 7\n")
    assert notebook.metadata.papermill == {"parameters": {"out": str(out), "width": 7}}
    assert [cell.id for cell in notebook.cells] == [f"cell-{index}" for index in range(len(notebook.cells))]


def test_an_unknown_parameter_is_refused(small, tmp_path):
    with pytest.raises(InputError, match="small.py has no parameter height: it has out, width"):
        run_notebook(small("# %%\n1\n"), tmp_path / "out", {"height": 3})
    assert not (tmp_path / "out").exists()


def test_a_missing_notebook_is_refused(tmp_path):
    with pytest.raises(InputError, match="no notebook at"):
        run_notebook(tmp_path / "none.py", tmp_path / "out")


def test_a_failing_cell_leaves_the_failed_notebook_and_one_line(small, tmp_path):
    source = small("# %%\nprint('so far')\n\n# %%\nraise ValueError('two\\nlines')\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / "small.ipynb").write_text("an earlier result")
    with pytest.raises(RuntimeError, match="small.py stopped in cell .*: ValueError: two lines") as caught:
        run_notebook(source, out)
    assert "\n" not in str(caught.value)
    assert "so far" in (out / "small.failed.ipynb").read_text()
    assert not (out / "small.ipynb").exists()


def test_bad_input_found_in_a_cell_is_still_bad_input(small, tmp_path):
    source = small("# %%\nfrom tav.errors import InputError\nraise InputError('no clip at x.mp4')\n")
    with pytest.raises(InputError, match="no clip at x.mp4"):
        run_notebook(source, tmp_path / "out")


def test_an_executed_notebook_opens_with_its_answer(small, tmp_path):
    source = small('# %% tags=["answer"]\n1 + 1\n\n# %%\n2\n')
    notebook = nbformat.read(run_notebook(source, tmp_path / "out"), as_version=4)
    assert [cell.source for cell in notebook.cells][:2] == ["# A small notebook", "1 + 1"]
    assert notebook.cells[1].outputs[0].data["text/plain"] == "2" and notebook.cells[-1].source == "2"
