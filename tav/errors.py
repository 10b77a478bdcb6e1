"""The two ways in which a run ends without being a bug."""


class InputError(ValueError):
    """What the user gave cannot be used; the message is one line that says what to do."""


class NumericalError(ArithmeticError):
    """The computation left the finite numbers, such as a loss that is NaN."""
