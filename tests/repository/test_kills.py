"""A few kills of tests/kills.py, which a person runs long: docs/kills.md has the counts."""

from tests.kills import kill


def test_a_command_that_was_killed_and_is_run_again_leaves_the_bytes_of_an_undisturbed_run(tmp_path):
    rows = kill(tmp_path, ["dvc repro inputs", "studies inputs", "studies tune"], 5, 0, ["inputs"])
    assert sum(row["kills"] for row in rows.values()) == 5 and not any(row["wrong"] for row in rows.values())
