"""How a run ends without being a bug, and how what libraries raise becomes that."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from textwrap import shorten
from zipfile import BadZipFile

from safetensors import SafetensorError


class InputError(ValueError):
    """What the user gave cannot be used; the message is one line that says what to do."""


class NumericalError(ArithmeticError):
    """The computation left the finite numbers, such as a loss that is NaN."""


# What libraries raise for files that are missing, broken or of something else, and for a network that is not there.
UNUSABLE = (OSError, ValueError, LookupError, RuntimeError, EOFError, UnpicklingError, BadZipFile, SafetensorError)
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def loading(what: object, advice: str) -> Iterator[None]:
    """Turns one of UNUSABLE, raised while `what` is loaded here, into an InputError that ends with `advice`.

    An InputError stays as it is, running out of memory too, and so does a mistake in a call (TypeError).
    """
    try:
        yield
    except UNUSABLE as error:
        if isinstance(error, InputError) or is_out_of_memory(error):
            raise
        raise InputError(f"cannot load {what} ({one_line(error)}): {advice}") from error


def check_finite(what: str, tensors: Iterable) -> None:
    """Raises NumericalError if one of the tensors holds a NaN or an infinity, which no result may."""
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise NumericalError(f"{what} left the finite numbers: lower the learning rate or the guidance scale")


def one_line(message: object) -> str:
    """A message without line breaks, of at most 200 characters."""
    return shorten(" ".join(str(message).split()), 200, placeholder="...")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this says that the memory, or a GPU's, did not suffice."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY)
