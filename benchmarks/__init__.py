"""Speed, memory and settings, measured: see README.md here."""

from tav import interrupt

interrupt.watch_imports()
