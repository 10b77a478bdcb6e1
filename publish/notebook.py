"""Run a percent notebook with parameters and write it so that the same run always gives the same bytes."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import jupytext
import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from studies.results import make_it
from studies.settings import Params
from tav.errors import InputError, NumericalError

# The kernel inherits these: a progress bar or a set's order would differ from run to run, and so would a warning that
# names this machine's folders.
KERNEL_ENVIRONMENT = {"TQDM_DISABLE": "1", "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore:IProgress not found"}
MISSING = ("FileNotFoundError", "NotADirectoryError")
KINDS = dict.fromkeys(("InputError", *MISSING), InputError)
KINDS |= {"NumericalError": NumericalError, "MemoryError": MemoryError}


def run_notebook(source: str | Path, folder: str | Path, parameters: Mapping | None = None) -> Path:
    """Execute the percent notebook `source` into `folder`/<name>.ipynb and return that path.

    `parameters` replace those of the cell tagged `parameters`; `out`, which every notebook has, is set to `folder`.
    The executed notebook opens with its answer and holds no times, no random ids and no paths of this machine. Raises
    InputError for a missing notebook or an unknown parameter. When a cell fails, <name>.failed.ipynb keeps the outputs
    up to there, and the cell's error is raised again as one line.
    """
    source, folder = Path(source), Path(folder)
    if not source.is_file():
        raise InputError(f"no notebook at {source}: the notebooks are the .py files of notebooks/")
    notebook = jupytext.read(source, fmt="py:percent")
    known = papermill.inspect_notebook(notebook)
    parameters = {"out": folder.as_posix(), **(parameters or {})}
    if unknown := [name for name in parameters if name not in known]:
        raise InputError(f"{source.name} has no parameter {', '.join(unknown)}: it has {', '.join(known) or 'none'}")

    folder.mkdir(parents=True, exist_ok=True)
    executed, failed = folder / f"{source.stem}.ipynb", folder / f"{source.stem}.failed.ipynb"
    executed.unlink(missing_ok=True)
    os.environ.update(KERNEL_ENVIRONMENT)
    try:
        # Written under the failed name first: an interrupted run must not look like a finished one.
        papermill.execute_notebook(
            notebook,
            failed,
            parameters,
            progress_bar=False,
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--log-level=CRITICAL"],  # else a kernel says how to connect to it
        )
    except PapermillExecutionError as error:
        reason = f"{error.ename}: {' '.join(str(error.evalue).split())}"
        if error.ename in MISSING and (found := re.search(r"'(results/[^']+)'", reason)):
            reason = f"{found[1]} does not exist: {make_it(found[1])}"
        kind = KINDS.get(error.ename, RuntimeError)
        raise kind(f"{source.name} stopped in cell {error.exec_count}: {reason} (see {failed})") from None
    except DeadKernelError:
        raise InputError(f"{source.name} stopped as its kernel was killed: free some memory (see {failed})") from None
    notebook = nbformat.read(failed, as_version=4)
    nbformat.write(settle(led_by_answer(notebook)), executed)
    failed.unlink()
    return executed


def led_by_answer(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Move the cell tagged `answer`, which needs all others, to where a reader begins: below the first."""
    answers = [cell for cell in notebook.cells if "answer" in cell.metadata.get("tags", [])]
    others = [cell for cell in notebook.cells if cell not in answers]
    notebook.cells = [*others[:1], *answers, *others[1:]]
    return notebook


def execute_notebook(params: Params, name: str) -> None:
    """The notebook stage: notebooks/<name>.py into results/notebooks/<name>.

    Its kernel has one thread, as whatever makes pieces side by side: two kernels of two threads on two cores take
    several times as long, and scores would depend on the number of cores.
    """
    if params.processes != 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    run_notebook(Path("notebooks") / f"{name}.py", Path("results/notebooks") / name)


def settle(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Replace what differs between two equal runs: cell ids become indices, and papermill's records go."""
    notebook.metadata["papermill"] = {"parameters": notebook.metadata.get("papermill", {}).get("parameters", {})}
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
        for record in ("papermill", "execution"):
            cell.metadata.pop(record, None)
    return notebook
