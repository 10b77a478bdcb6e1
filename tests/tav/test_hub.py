"""A Hub id where the Hub cannot be reached, at a port that nobody listens to, and where somebody answers."""

import os
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from tav import hub

ROOT = Path(__file__).parents[2]
LOAD = """
import time
from studies.digests import digest_of_model
from tav.errors import InputError
from tav.pipeline import load_pipeline

started = time.monotonic()
try:
    digest_of_model("owner/name")
    load_pipeline("owner/name")
except InputError as error:
    print(error)
print(time.monotonic() - started)
"""


@pytest.fixture
def closed():
    """A port of this machine that nobody listens to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def environment(endpoint: str, home: Path) -> dict[str, str]:
    return os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}


def test_without_a_network_a_hub_id_is_refused_at_once_in_one_line(closed, tmp_path):
    command = [sys.executable, "-c", LOAD]
    done = subprocess.run(command, env=environment(closed, tmp_path), capture_output=True, text=True, check=True)
    message, seconds = done.stdout.splitlines()
    assert f"cannot be fetched from the Hub ({closed}: " in message and message.endswith("check name and network")
    assert float(seconds) < 3 and done.stderr == ""


def test_a_stage_whose_model_cannot_be_fetched_says_one_line(closed, tmp_path, workplace, set_params):
    set_params({"model": "owner/name"})
    command = [sys.executable, "-m", "studies", "tune"]
    done = subprocess.run(command, env=environment(closed, tmp_path / "home"), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "check name and network" in done.stderr


@pytest.mark.parametrize("status", [200, 404, 503])
def test_where_somebody_answers_the_hub_is_asked(monkeypatch, status):
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # which a test before may have found out
    hub.unreachable.cache_clear()
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub.unreachable() == "" and not constants.HF_HUB_OFFLINE
    hub.unreachable.cache_clear()
