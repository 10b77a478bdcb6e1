"""A captioned picture world whose truth is known, and the small models that are trained in it."""
