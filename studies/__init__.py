"""The stages that compare, a module per section of the paper; notebooks score and draw what they leave in results/."""

from tav import interrupt

interrupt.watch_imports()
