"""What git and readers see of a run: figures, executed notebooks, the report, the tables of README and docs/."""

from tav import interrupt

interrupt.watch_imports()
