"""What people bring along: a clip that is edited in one command, and frames of any tool that are scored."""

from tav import interrupt

interrupt.watch_imports()
