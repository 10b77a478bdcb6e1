import pytest
from papermill.engines import NBClientEngine, papermill_engines
from transformers.utils import logging

from tests.here import Here


@pytest.fixture
def cells_run_here():
    """Notebooks are executed in this process, see `Here`; without bars, as in their kernels."""
    papermill_engines.register(None, Here)
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
    papermill_engines.register(None, NBClientEngine)
