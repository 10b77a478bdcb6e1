"""`python -m publish VERB`: what readers see, written from the results in the folder that holds params.yaml."""

import sys

from studies.command import run
from tav import interrupt

VERBS = {
    "reproduce": ("publish.reproduce:reproduce", "", "run every stage that is stale, two at a time on a CPU"),
    "notebook": ("publish.notebook:execute_notebook", "NAME", "execute one of notebooks/ (its name without .py)"),
    "report": ("publish.report:write_report", "", "write reports/ from the results"),
    "smoke": ("publish.smoke:smoke", "", "run one clip, one edit, one peer and one notebook in a folder of their own"),
    "lock": ("publish.lock:mend_lock", "", "put the committed dvc.lock back if a kill cut it off"),
    "verify": ("publish.verify:verify", "", "say whether this clone makes what it shows, one line a check"),
    "readme": ("publish.readme:write_readme", "", "write the generated parts of README.md and docs/"),
}
WITHOUT_SETTINGS = {"lock"}


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code, see `studies.command`."""
    return run("publish", "What readers see of a run: notebooks, report, tables.", VERBS, arguments, WITHOUT_SETTINGS)


if __name__ == "__main__":
    sys.exit(interrupt.run(main))
