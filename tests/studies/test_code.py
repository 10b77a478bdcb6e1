"""What changes the digest of code, and what does not."""

from pathlib import Path

import pytest

from studies import code

USED = '''"""A module."""
import math

LIMIT = 3


def helper(x):
    """Helps."""
    return x + LIMIT


def unused(x):
    return x


class Kind:
    """A kind."""

    size: int = 2

    def grow(self):
        return helper(self.size)
'''
MAKER = """from tav.used_here import Kind, helper


def make(x: int) -> int:
    # says something
    return other(helper(x))


def other(x):
    return Kind().grow() + x
"""


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """The digest of `make` after its two modules are written anew."""
    monkeypatch.syspath_prepend(tmp_path)
    places = {"tav.used_here": tmp_path / "tav/used_here.py", "tav.maker": tmp_path / "tav/maker.py"}
    monkeypatch.setattr(code, "find_spec", lambda name: Spec(places[name]) if name in places else None)

    def forget() -> None:
        for cached in (code.digest_of_code, code._read, code._is_module):
            cached.cache_clear()

    def of(used=USED, maker=MAKER) -> str:
        forget()
        for place, text in zip(places.values(), (used, maker), strict=True):
            place.parent.mkdir(exist_ok=True)
            place.write_text(text)
        return code.digest_of_code("tav.maker.make")

    yield of
    forget()


class Spec:
    submodule_search_locations = None

    def __init__(self, origin: Path):
        self.origin = origin


def test_comments_docstrings_annotations_layout_and_code_that_is_not_used_change_nothing(digest):
    same = digest()
    assert digest(USED.replace('    """Helps."""\n', '    """Helps a lot."""\n    # more\n\n')) == same
    assert digest(USED.replace('"""A kind."""', '"""Another kind."""')) == same
    assert digest(USED.replace("    return x\n", "    return 2 * x\n")) == same
    assert digest(maker=MAKER.replace("x: int) -> int", "x: float)")) == same
    assert digest(USED + "\n\ndef more():\n    return 1\n") == same


@pytest.mark.parametrize(
    "old, new", [("LIMIT = 3", "LIMIT = 4"), ("x + LIMIT", "x - LIMIT"), ("int = 2", "int = 3"), ("(self.size)", "(1)")]
)
def test_whatever_is_used_changes_it_wherever_it_stands(digest, old, new):
    assert digest(USED.replace(old, new)) != digest()


def test_a_function_beside_it_counts_only_if_it_is_used(digest):
    assert digest(maker=MAKER.replace("+ x", "- x")) != digest()


def test_the_real_makers_reach_what_they_are_made_of():
    found: dict[str, str] = {}
    code._follow("studies.method", "make_weights", found)
    for name in ("tav.tune.tune", "tav.model.tuned_parameters", "tav.checkpoint.save_tuned"):
        assert name in found
    assert not [name for name in found if name.startswith(("measures.", "peers."))]
    scores: dict[str, str] = {}
    code._follow("measures.evaluate", "Evaluator", scores)
    for name in ("measures.motion.warp_error", "measures.score.ClipScorer", "measures.truth.truth_scores"):
        assert name in scores
    assert not [name for name in scores if name.startswith(("tav.tune", "tav.model", "studies."))]
