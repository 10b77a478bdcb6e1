"""What `import tav` gives, and what it costs."""

import subprocess
import sys

import pytest

import tav


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_package_has_what_it_names_and_nothing_else():
    assert all(getattr(tav, name).__module__.startswith("tav.") for name in tav.__all__)
    with pytest.raises(ImportError, match="cannot import name 'load_pipelin'"):
        exec("from tav import load_pipelin")


@pytest.mark.parametrize("first", ["import tav.tune", "from tav.tune import TUNED", "import tav"])
def test_tune_is_the_function_whatever_was_imported_before(first):
    assert run(f"{first}\nfrom tav import tune\nimport tav\nprint(callable(tune), tav.tune is tune)") == "True True\n"


def test_reading_settings_and_errors_loads_no_models():
    loaded = run(
        "import sys, studies.settings, tav.errors\nprint([m for m in ('torch', 'diffusers') if m in sys.modules])"
    )
    assert loaded == "[]\n"
