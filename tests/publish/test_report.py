import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import av
import nbformat
import pandas as pd
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from ruamel.yaml import YAML

from measures.evidence import Interval, decide, write_metrics
from publish import figures
from publish.report import write_report
from studies.settings import load_params
from tav.clip import write_frames

ROOT = Path(__file__).parents[2]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ROWS = {
    "gain": decide("Edits <follow> their prompt", "Gain", Interval(2.0, 1.0, 3.0), at_least=0, unit="dB"),
    "worse": decide("Nothing is lost", "Loss", 3.0, at_most=1),
    "motion": decide("Edits move as the source does", "The path", None),
}


@pytest.fixture
def project(workplace, set_params):
    """The folder of a run whose stages are done: one clip with two edits, one executed notebook, one that was not."""
    torch.manual_seed(0)
    for folder in ("tune/square/source", "edit/square/object", "edit/square/place", "peers/sdedit/square/object"):
        write_frames(Path("results") / folder, torch.rand(4, 3, 32, 48))
    Path("notebooks").mkdir()
    for name in ("02_results", "07_cost"):
        Path(f"notebooks/{name}.py").write_text("")
    folder = Path("results/notebooks/02_results")
    rows = {"source": torch.rand(4, 3, 32, 48)}
    figures.write(figures.strip(rows, [0, 3]), folder / "figures/square.jpg")
    figures.write(figures.curve({"square": [1.0] * 30}), folder / "figures/losses.png")
    (folder / "figures/square.webp").write_bytes(figures.animate(rows))
    pictures = {name: base64.b64encode((folder / "figures" / name).read_bytes()).decode()
                for name in ("square.jpg", "losses.png", "square.webp")}  # fmt: skip
    outputs = [
        new_output("display_data", {"image/jpeg": pictures["square.jpg"]}, metadata={"image/jpeg": {"width": 400}}),
        new_output("display_data", {"image/png": pictures["losses.png"] + "\n"}),
        new_output("display_data", {"text/html": f'<img src="data:image/webp;base64,{pictures["square.webp"]}">'}),
    ]
    opening = new_markdown_cell("# 2. Results\n\n**Question.** Does it\nwork?\n\n**Claim.** Yes.", id="a")
    cells = [opening, new_code_cell("1 + 1", id="b", outputs=outputs, execution_count=1)]
    nbformat.write(new_notebook(cells=cells), folder / "02_results.ipynb")
    write_metrics(folder / "metrics.json", ROWS)
    scores = {"clip": ["square"] * 2, "edit": ["object", "place"], "method": ["Tune-A-Video"] * 2}
    scores |= {"frame consistency": [91.234, 92.0], "text alignment": [27.5, 28.0], "frame accuracy": [100.0, 50.0]}
    pd.DataFrame(scores).to_csv(folder / "scores.csv", index=False)
    set_params({"peers": {"sdedit": {}}})
    of_peers = {"method": ["Tune-A-Video", "SDEdit"], "clip": ["square"] * 2, "edit": ["object"] * 2}
    of_peers |= {"edit success": [0.75, 1.0], "motion correlation": [0.5, float("nan")]}
    Path("results/notebooks/04_baselines").mkdir()
    pd.DataFrame(of_peers).to_csv("results/notebooks/04_baselines/scores.csv", index=False)
    return workplace


def build() -> str:
    return write_report(load_params()).read_text()


def test_every_clip_and_edit_plays_with_its_prompt_and_scores(project):
    page = build()
    assert page.count("<video") == 3
    for view in ("source", "object", "place"):
        with av.open(f"reports/clips/square/{view}.mp4") as clip:
            assert sum(1 for _ in clip.decode(video=0)) == 4
            assert (clip.streams.video[0].width, clip.streams.video[0].height) == (192, 128)  # proportions kept
    for text in ("a circle is moving", "a square is moving on the beach", "frames 91.23", "text 27.50"):
        assert text in page


def test_the_player_has_every_method_of_an_edit_with_what_was_measured_of_it(project):
    data = json.loads(re.search(r'id="player-data">(.*?)</script>', build(), re.DOTALL)[1])
    assert data["frames"] == 4 and [clip["name"] for clip in data["clips"]] == ["square"]
    clip = data["clips"][0]
    assert clip["aspect"] == "48 / 32" and [edit["name"] for edit in clip["edits"]] == ["object", "place"]
    said = {view["method"]: view["said"] for view in clip["edits"][0]["views"]}
    assert said == {"Tune-A-Video": "as asked 75%, motion 0.50", "SDEdit": "as asked 100%"}
    assert [view["method"] for view in clip["edits"][1]["views"]] == ["Tune-A-Video"]  # of which nobody made another
    for strip in (clip["source"], *(view["strip"] for edit in clip["edits"] for view in edit["views"])):
        assert Image.open(Path("reports", strip)).size == (4 * 48, 32)


def test_what_was_found_stands_before_everything_else(project):
    Path("results/notebooks/02_results/metrics.json").unlink()
    write_metrics("results/notebooks/02_results/metrics.json", {"edited_in_motion": ROWS["gain"]} | ROWS)
    page = build()
    assert page.index("Of 4 claims on edits, 2 hold, 1 fail, 1 are undecided.") < page.index('id="side-by-side"')
    found = page[page.index('id="findings"') : page.index('id="side-by-side"')]
    assert 'Edits &lt;follow&gt; their prompt: <b class="holds">holds</b>' in found and "2 dB [1, 3]" in found


def test_claims_stand_with_their_values_and_verdicts(project):
    page = build()
    assert "Edits &lt;follow&gt; their prompt" in page and "2 dB [1, 3]" in page and "at most 1" in page
    for verdict in ("holds", "fails", "undecided"):
        assert f'<td class="verdict {verdict}">{verdict}</td>' in page
    assert json.loads(Path("reports/metrics/02_results.json").read_text()) == ROWS
    claims = json.loads(Path("reports/metrics/claims.json").read_text())
    assert claims == [{"section": "02_results", "name": name, **row} for name, row in ROWS.items()]


def test_the_repositorys_claims_are_those_of_its_executed_notebooks():
    claims = json.loads((ROOT / "reports/metrics/claims.json").read_text())
    metrics = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "reports/metrics").glob("0*.json"))}
    found = [{"section": section, "name": name, **row} for section in metrics for name, row in metrics[section].items()]
    assert claims == found
    assert list(metrics) == sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))


def test_model_settings_seed_and_versions_are_named(project):
    page = build()
    assert "<b>models/tiny</b>" in page and re.search(r"unet [\d.]+ M parameters", page)
    for text in ("tune.learning_rate", "with seed 33", "models/tiny/clip", torch.__version__.split("+")[0]):
        assert text in page
    assert "Measured quality" not in page


def test_the_measured_quality_is_shown_where_there_is_one(project):
    Path("miniature/reports").mkdir(parents=True)
    Path("miniature/reports/gates.json").write_text(json.dumps({"vae": {"psnr": 27.125}}))
    page = build()
    assert "Measured quality" in page and "vae.psnr" in page and "27.1" in page


def test_what_was_skipped_or_frozen_is_said(project):
    assert "No stage is frozen." in build() and "Skipped notebooks: 07_cost." in build()
    Path("dvc.yaml").write_text("stages: {benchmark: {cmd: x, frozen: true}, tune: {foreach: [a], do: {cmd: y}}}")
    assert "Frozen stages, which a run takes as they are: benchmark." in build()


def test_every_link_leads_to_a_file_and_nothing_is_loaded_from_a_network(project):
    build()
    for page in [Path("reports/index.html"), *Path("reports/notebooks").glob("*.html")]:
        text = page.read_text()
        for link in re.findall(r'(?:src|href)="([^"]+)"', text):
            local = not link.startswith(("https://arxiv.org/", "data:,", "#"))
            assert not local or (page.parent / link).exists(), link
        loaded = re.findall(r'(?:src=|<link[^>]*href=|url\(|@import )"?(https?:)?//', text)
        assert not loaded and "mathjax" not in text.lower()


def test_pages_of_notebooks_link_their_pictures_and_the_notebook_keeps_its_own(project):
    build()
    page = Path("reports/notebooks/02_results.html").read_text()
    for name in ("square.jpg", "losses.png", "square.webp"):
        assert f'src="../figures/02_results/{name}"' in page
        assert (Path("reports/figures/02_results") / name).exists()
    assert "base64" not in page
    executed = Path("results/notebooks/02_results/02_results.ipynb")
    assert Path("reports/notebooks/02_results.ipynb").read_bytes() == executed.read_bytes()


def test_the_same_results_give_the_same_bytes_and_nothing_old_stays(project):
    def snapshot():
        build()
        return {path: path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()}

    first = snapshot()
    Path("reports/clips/square/gone.mp4").write_text("of an edit that was removed")
    assert snapshot() == first


def test_the_overview_moves_and_shows_a_clip_beside_its_edits(project):
    build()
    picture = Image.open("reports/figures/overview.webp")
    assert picture.n_frames == 4 and picture.size == (3 * 196 - 4, 128 + 38)  # a source and two edits, words below


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_fits_a_laptop_and_a_phone(project, width):
    """What a browser lays out: nothing runs over the side, and the videos have their pictures."""
    page = build()
    probe = (
        "<script>addEventListener('load', () => setTimeout(() => { for (const part of document.querySelectorAll("
        "'details')) part.open = true; }, 0)); addEventListener('load', () => setTimeout(() => {"
        "document.title = JSON.stringify({"
        "over: document.documentElement.scrollWidth - document.documentElement.clientWidth,"
        "videos: [...document.querySelectorAll('video')].map(v => v.videoWidth),"
        "images: [...document.images].filter(i => i.complete && !i.naturalWidth).length}) }, 1500))</script></body>"
    )
    Path("reports/probe.html").write_text(page.replace("</body>", probe))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},1200"]
    options += ["--virtual-time-budget=5000", "--dump-dom"]
    address = Path("reports/probe.html").resolve().as_uri()
    shown = subprocess.run([BROWSER, *options, address], capture_output=True, text=True, timeout=120, check=True)
    measured = json.loads(re.search(r"<title>(.*?)</title>", shown.stdout)[1])
    assert measured == {"over": 0, "videos": [192, 192, 192], "images": 0}


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_player_shows_the_frame_the_edit_and_the_wipe_that_are_chosen(project):
    page = build()
    probe = """<script>addEventListener("load", () => setTimeout(() => {
      const box = document.getElementById("player"), part = name => box.querySelector(`[name=${name}]`);
      const set = (name, value, event) => { part(name).value = value; part(name).dispatchEvent(new Event(event)); };
      const seen = () => ({
        names: [...box.querySelectorAll("figcaption b")].map(name => name.textContent),
        places: [...new Set([...box.querySelectorAll(".strip")].map(strip => strip.style.backgroundPositionX))],
        wiped: [...new Set([...box.querySelectorAll(".over")].map(over => over.style.clipPath))],
        high: [...box.querySelectorAll(".strip")].every(strip => strip.clientHeight > 40),
        line: box.querySelector(".prompt-line").textContent});
      set("frame", 2, "input"); set("wipe", 40, "input");
      const first = seen();
      set("edit", 1, "change");
      document.title = JSON.stringify([first, seen()]); }, 500))</script></body>"""
    Path("reports/probe.html").write_text(page.replace("</body>", probe))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    address = Path("reports/probe.html").resolve().as_uri()
    shown = subprocess.run([BROWSER, *options, address], capture_output=True, text=True, timeout=120, check=True)
    first, second = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", shown.stdout)[1]))
    assert first["names"] == ["source", "Tune-A-Video", "SDEdit"] and second["names"] == ["source", "Tune-A-Video"]
    for seen in (first, second):
        assert seen["places"] == ["66.6667%"] and seen["wiped"] == ["inset(0px 60% 0px 0px)"] and seen["high"]
    assert "a circle is moving" in first["line"] and "on the beach" in second["line"]


def test_the_manifest_names_what_every_section_made_with_its_checksum(project):
    folder = Path("results/notebooks/02_results")
    write_report(load_params())
    manifest = YAML(typ="safe").load(Path("reports/metrics/codecheck.yml"))["manifest"]
    files = {entry["file"]: entry for entry in manifest}
    assert "notebooks/02_results.ipynb" in files and "metrics/02_results.json" in files
    for entry in manifest:
        assert entry["sha256"] == hashlib.sha256((Path("reports") / entry["file"]).read_bytes()).hexdigest()
    assert {f"figures/02_results/{path.name}" for path in (folder / "figures").glob("*.png")} <= set(files)


def test_the_page_for_repositories_says_the_same_and_every_picture_of_it_is_there(project):
    text = (write_report(load_params()).parent / "README.md").read_text()
    assert "Edits <follow> their prompt" in text and "**undecided**" in text
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert {"figures/overview.webp", "figures/02_results/square.webp"} < set(pictures)
    links = re.findall(r"[^!]\[[^]]+\]\(([^)]+)\)", text)
    assert links and all(Path("reports", link).exists() for link in [*pictures, *links])
