"""The tables of README and docs/: they show the files of benchmarks/results, and say where there is none."""

import shutil

import pandas as pd

from benchmarks import tables


def test_what_was_not_measured_says_what_measures_it(tmp_path):
    for table in (tables.changes, tables.options, tables.full_size, tables.peak_memory, tables.beside_released):
        assert table(tmp_path).startswith("Not measured yet: `python -m benchmarks.")


def test_a_change_has_its_seconds_its_pieces_and_its_stages(tmp_path):
    rows = {"change": ["a margin", "nothing at all"], "seconds": [12.6, 3.2], "pieces": [0, 0]}
    rows |= {"stages": ["inputs 02_results report", ""], "machine": "2 threads of a CPU"}
    pd.DataFrame(rows).to_csv(tmp_path / "changes.csv", index=False)
    table = tables.changes(tmp_path)
    assert "| a margin | 13 | 0 | inputs 02_results report |\n| nothing at all | 3 | 0 |  |\n" in table
    assert "Measured on 2 threads of a CPU" in table


def test_the_commands_have_the_minutes_of_the_file(tmp_path):
    assert tables.times(tmp_path).startswith("Not timed yet")
    rows = {"command": ["make reproduce", "make test"], "minutes": [24.6, 9.2], "machine": "two cores"}
    pd.DataFrame(rows).to_csv(tmp_path / "times.csv", index=False)
    assert tables.times(tmp_path) == "On two cores, idle but for this: `make reproduce` 25 min, `make test` 9 min.\n"


def test_a_gpu_that_was_measured_has_no_computed_row(tmp_path):
    shutil.copy(tables.RESULTS / "expected.csv", tmp_path)
    assert "| H100, 80 GB |" in tables.expected(tmp_path) and "**computed**" in tables.expected(tmp_path)
    cpu = pd.read_csv(next(tables.RESULTS.glob("full-size-*.csv")))
    cpu.assign(device="NVIDIA H100 80GB HBM3").to_csv(tmp_path / "full-size-H100.csv", index=False)
    cpu.to_csv(tmp_path / "full-size-cpu.csv", index=False)
    assert "H100" not in tables.expected(tmp_path) and "| A100, 40 GB |" in tables.expected(tmp_path)
    measured = tables.full_size(tmp_path)
    assert measured.count("| load |") == 2 and "Measured on NVIDIA H100 80GB HBM3" in measured


def test_a_number_beside_the_released_codes_says_what_part_of_it_it_is(tmp_path):
    rows = [
        {"frames": 4, "size": 128, "code": code, "step": step, "seconds": seconds, "peak GB": peak}
        for code, seconds, peak in (("released", 4.0, 8.0), ("here", 3.0, 6.0), ("here, bf16", None, None))
        for step in ("tune", "invert", "edit")
    ]
    pd.DataFrame(rows).assign(device="a CPU", torch="2").to_csv(tmp_path / "released-a-CPU.csv", index=False)
    table = tables.beside_released(tmp_path)
    assert "| 4 of 128x128 | released | 4.00 s | 4.00 s | 4.00 s | 50 min | 117 min | 8.0 GB |" in table
    steps = "3.00 s (0.75) | " * 3
    assert f"| 4 of 128x128 | here | {steps}38 min (0.75) | 38 min (0.32) | 6.0 GB (0.75) |" in table
    assert "| 4 of 128x128 | here, bf16 | too much memory |" in table and "Measured on a CPU, torch 2;" in table
