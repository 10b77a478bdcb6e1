"""Notebooks whose cells run in the process of the tests: a kernel of its own takes ten seconds to start and import.

tests/repository/test_dvc.py executes every notebook in a kernel, as the stages do.
"""

import sys

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbformat.v4 import new_output
from papermill.engines import Engine


class Here(Engine):
    """A papermill engine. What a cell prints comes before what it displays."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **_) -> None:
        main = sys.modules["__main__"]
        try:
            cls._run(nb_man, InteractiveShell.instance())
        finally:
            sys.modules["__main__"] = main  # in whose place a shell puts its own, which no process can be started from

    @staticmethod
    def _run(nb_man, shell: InteractiveShell) -> None:
        shell.reset()
        for index, cell in enumerate(nb_man.nb.cells):
            if cell.cell_type != "code":
                continue
            nb_man.cell_start(cell, index)
            with capture_output() as captured:
                result = shell.run_cell(cell.source, store_history=True)
            cell.execution_count = result.execution_count
            said = {"stdout": captured.stdout, "stderr": captured.stderr}
            cell.outputs = [new_output("stream", name=name, text=text) for name, text in said.items() if text]
            shown = captured.outputs
            cell.outputs += [new_output("display_data", data=out.data, metadata=out.metadata or {}) for out in shown]
            if error := result.error_before_exec or result.error_in_exec:
                name = type(error).__name__
                cell.outputs.append(new_output("error", ename=name, evalue=str(error), traceback=[]))
                nb_man.cell_exception(cell, index, exception=error)
                return
            nb_man.cell_complete(cell, index)
