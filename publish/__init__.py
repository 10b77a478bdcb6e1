"""What git and readers see of a run: figures, executed notebooks, the report and the README's tables."""
