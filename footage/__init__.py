"""Real footage for the pipeline: fetched, captioned and listed as `clips`; and the TGVE benchmark's layout."""

from tav import interrupt

interrupt.watch_imports()
