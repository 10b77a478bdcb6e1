"""Figures of clips and measures: arrays in, a matplotlib Figure out, one style for all, and files of fixed bytes."""

import base64
import html
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import wraps
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cycler import cycler
from IPython.display import HTML, Image, display
from matplotlib import font_manager, rc_context, style
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import ArrayLike
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from measures.protocol import Claim, first_to_tell
from tav.clip import to_pictures

INK, GREY, BLUE, ORANGE = "#22272e", "#9aa3ad", "#1f6fb2", "#d1601f"
MANY = [
    "#332288",
    "#cc6677",
    "#117733",
    "#aa4499",
    "#88ccee",
    "#999933",
    "#882255",
    "#44aa99",
    "#b8912a",
]  # Tol's muted
MARKS = "sDv^P<X>*"
CYCLE = [BLUE, ORANGE, "#2f8f6b", "#8a5fb0", "#b8912a", "#c0476f"]
STYLE = {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=CYCLE),
    "grid.color": "#e6e9ec",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}
TILE, GAP = 90, 3  # pixels of a frame's longer side in a strip, and between frames, at 100 dots per inch
PANEL = 128  # pixels of a frame's longer side, at most, in an animation
PLATE = {"facecolor": "white", "alpha": 0.8, "pad": 1, "linewidth": 0}  # under words that lines would cross
ACROSS = 3  # panels beside each other, at most: more cannot be read at a page's width
LARGE, LINE = 192, 15  # pixels of a frame's longer side, and of a line of text, where an animation has words in it


def styled(draw):
    """Make `draw` use the one style, whatever the caller's matplotlib is set to."""

    @wraps(draw)
    def wrapped(*args, **kwargs):
        with style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return wrapped


def pick_frames(count: int, shown: int = 6) -> list[int]:
    """Indices of at most `shown` of `count` frames, evenly spread and with both ends: the same for every strip."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, shown))})


@styled
def strip(
    rows: Mapping[str, ArrayLike],
    frame_indices: Sequence[int],
    scores: Mapping[str, str] | None = None,
    title: str = "",
) -> Figure:
    """One row of frames per label, f 3 h w in [0, 1], at the same indices; `scores` are printed under the labels."""
    h, w = np.shape(next(iter(rows.values())))[-2:]
    size = round(TILE * w / max(h, w)), round(TILE * h / max(h, w))
    across, down = size[0] + GAP, size[1] + GAP
    sheet = Picture.new("RGB", (len(frame_indices) * across - GAP, len(rows) * down - GAP), "white")
    for row, frames in enumerate(rows.values()):
        shown = torch.stack([torch.as_tensor(frames[index]) for index in frame_indices])
        for column, picture in enumerate(to_pictures(shown)):
            picture = Picture.fromarray(picture).resize(size, Picture.Resampling.LANCZOS)
            sheet.paste(picture, (column * across, row * down))
    margin, top = 230, 20 + 20 * bool(title)
    width, height = margin + sheet.width, top + sheet.height
    figure = Figure(figsize=(width / 100, height / 100))
    axes = figure.add_axes((margin / width, 0, sheet.width / width, sheet.height / height))
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.axis("off")
    for row, label in enumerate(rows):
        below = f"\n{scores[label]}" if scores and label in scores else ""
        words = textwrap.fill(label, 34) + below
        axes.text(-6, row * down + size[1] / 2, words, ha="right", va="center", fontsize=8)
    for column, index in enumerate(frame_indices):
        axes.text(column * across + size[0] / 2, -4, f"frame {index + 1}", ha="center", va="bottom", fontsize=8)
    if title:
        figure.text(0.01, 1 - 6 / height, title, va="top", fontsize=9, fontweight="bold")
    return figure


@styled
def curve(losses: Mapping[str, ArrayLike], window: int = 10, title: str = "", ylabel: str = "loss") -> Figure:
    """Losses over steps: one thin line per clip, running mean over `window` steps, and their mean with its spread.

    The band spans the middle 80 % of the clips; a single clip has none.
    """
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    smooth = [np.convolve(loss, np.ones(window) / window, "valid") for loss in losses.values()]
    stacked = np.full((len(smooth), max(map(len, smooth))), np.nan)  # clips may have been tuned for fewer steps
    for row, line in zip(stacked, smooth, strict=True):
        row[: len(line)] = line
    steps = np.arange(window, window + stacked.shape[1])
    for line in stacked:
        axes.plot(steps, line, color=GREY if len(smooth) > 1 else BLUE, lw=0.8 if len(smooth) > 1 else 2)
    if len(smooth) > 1:
        low, high = np.nanquantile(stacked, [0.1, 0.9], axis=0)
        axes.fill_between(steps, low, high, color=BLUE, alpha=0.15, lw=0, label="middle 80 % of the clips")
        axes.plot(steps, np.nanmean(stacked, axis=0), color=BLUE, lw=2, label=f"mean of {len(smooth)} clips")
        axes.legend()
    axes.set(xlabel=f"tuning step (running mean over {window})", ylabel=ylabel, title=title)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@styled
def influence(maps: Mapping[str, ArrayLike], title: str = "") -> Figure:
    """Which input frames (columns) reach which output frames (rows): one f f panel of gradient sizes per name.

    White is an exact zero. Colour is the gradient's size relative to the largest of its panel, on a log scale.
    """
    figure = Figure(figsize=(2.55 * len(maps) + 0.8, 3.15), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (name, values) in zip(panels, maps.items(), strict=True):
        values = np.asarray(values, dtype=float)
        shown = np.ma.log10(np.ma.masked_equal(values, 0) / values.max())
        image = axes.imshow(shown, cmap="viridis_r", vmin=-4, vmax=0)
        ticks = np.unique(np.linspace(0, len(values) - 1, min(len(values), 8)).round())
        axes.set_xticks(ticks, [f"{tick + 1:.0f}" for tick in ticks])
        axes.set_yticks(ticks, [f"{tick + 1:.0f}" for tick in ticks])
        axes.grid(False)
        axes.set(xlabel="input frame", title=textwrap.fill(name, 26))
    panels[0].set_ylabel("output frame")
    bar = figure.colorbar(image, ax=list(panels), shrink=0.85, pad=0.01, ticks=[-4, -2, 0])
    bar.ax.set_yticklabels(["$10^{-4}$", "$10^{-2}$", "1"])
    bar.set_label("gradient, relative")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


@styled
def growth(x: ArrayLike, lines: Mapping[str, ArrayLike], title: str = "", xlabel: str = "", ylabel: str = "") -> Figure:
    """Quantities that grow, on two log axes, each line labelled at its end."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    drawn = {name: axes.plot(x, y, "o-", ms=4)[0] for name, y in lines.items()}
    span, below = np.ptp(np.log(list(lines.values()))) or 1, -math.inf
    for name, y in sorted(lines.items(), key=lambda line: line[1][-1]):  # labels 12 points apart, however near the ends
        height = np.log(y[-1]) / span * 175  # points: the span is about so high
        below = max(height, below + 12)
        end = {"xy": (x[-1], y[-1]), "xytext": (8, below - height), "textcoords": "offset points"}
        axes.annotate(name, **end, color=drawn[name].get_color(), va="center")
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel, title=title)
    axes.set_xticks(x, [str(value) for value in x])
    if span < math.log(100):  # few powers of ten to tick
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.spines["right"].set_visible(False)
    axes.margins(x=0.06)
    return figure


@styled
def intervals(panels: Mapping[str, Mapping[str, tuple[float, ...]]], title: str = "", zero: bool = False) -> Figure:
    """A mean with its interval (mean, low, high) per row, in one panel per measure; bounds of nan are not drawn.

    zero: draw a line at zero, for differences.
    """
    names = list(next(iter(panels.values())))
    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    size = 3.0 * across + 1.2, (0.42 * len(names) + 0.7) * down + 0.4
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes, (measure, rows) in zip(grid, panels.items(), strict=False):
        for y, (mean, low, high, *_) in enumerate(rows.values()):
            if not math.isnan(low):
                axes.plot([low, high], [y, y], color=BLUE, lw=4, alpha=0.35, solid_capstyle="butt")
            axes.plot(mean, y, "o", color=BLUE, ms=6)
            axes.annotate(f"{mean:z.2f}", (mean, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8)
        if zero:
            axes.axvline(0, color=INK, lw=1)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.7)
        axes.margins(x=0.15)
        axes.set_title(measure)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


@styled
def course(
    panels: Mapping[str, Mapping[str, Mapping[float, tuple[float, ...]]]], title: str = "", xlabel: str = ""
) -> Figure:
    """Means with their intervals (mean, low, high) along a quantity, evenly spaced: a panel per measure, a line per
    group; a single group needs no name."""
    columns = min(len(panels), ACROSS)
    figure = Figure(figsize=(3.0 * columns + 0.4, 2.9 * -(-len(panels) // columns)), layout="constrained")
    for number, (measure, lines) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(-(-len(panels) // columns), columns, number)
        for colour, mark, (group, rows) in zip(CYCLE, "o" + MARKS, lines.items(), strict=False):
            mean, low, high = np.array([row[:3] for row in rows.values()], float).T
            axes.fill_between(range(len(rows)), low, high, color=colour, alpha=0.18, lw=0)
            axes.plot(mean, marker=mark, color=colour, ms=5, label=group)
            axes.set_xticks(range(len(rows)), [f"{at:g}" for at in rows])
        axes.set(title=measure, xlabel=xlabel)
        if number == 1 and len(lines) > 1:
            axes.legend()
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


@styled
def frontiers(tries: pd.DataFrame, across: Sequence[str], up: str, first: str, title: str = "") -> Figure:
    """What each method reaches of two measures at once: a panel per measure of `across`, `up` on the other axis.

    tries: a row per try, with `method`. A dot is a try; a line joins those of a method that no other try of it beats in
    both. The method `first` is drawn in black, above the others.
    """
    figure = Figure(figsize=(3.4 * len(across) + 1.9, 3.9), layout="constrained")
    panels = figure.subplots(1, len(across), squeeze=False, sharey=True)[0]
    others = [method for method in dict.fromkeys(tries["method"]) if method != first]
    looks = dict(zip([*others, first], [*zip(MANY, MARKS, strict=False)][: len(others)] + [(INK, "o")], strict=True))
    for axes, measure in zip(panels, across, strict=True):
        for method, (colour, mark) in looks.items():
            of = tries[tries["method"] == method].sort_values([measure, up], ascending=False)
            best = of[of[up] > of[up].cummax().shift(fill_value=-math.inf)]
            axes.plot(of[measure], of[up], mark, color=colour, ms=4, alpha=0.45, mew=0)
            own = {"lw": 2.4 if method == first else 1.3, "ms": 6, "label": method}
            axes.plot(best[measure], best[up], f"-{mark}", color=colour, **own)
        axes.set_xlabel(f"{measure} (more is better)")
    panels[0].set_ylabel(f"{up} (more is better)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


@styled
def verdicts(asked: Mapping[str, Claim], tables: Mapping[str, pd.DataFrame], rows: Mapping[str, dict]) -> Figure:
    """What verdicts rest on, a panel per measure and in it a line per claim.

    A dot is a clip, the mean of its edits; the bar is the mean's interval. The side that a claim is on is shaded, and
    between the dotted lines an effect is too small to matter. tables: see `measures.protocol.answers`; rows:
    its rows, none without a value.
    """
    panels: dict[tuple[str, bool, float], list[str]] = {}
    for key, claim in asked.items():
        panels.setdefault((claim.measure, bool(claim.than), claim.at_least), []).append(key)
    heights = [0.62 * len(keys) + 0.75 for keys in panels.values()]
    figure = Figure(figsize=(7, sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, ((measure, differs, bound), keys) in zip(grid, panels.items(), strict=True):
        for y, key in enumerate(keys):
            _verdict(axes, y, asked[key], tables, rows[key])
        low, high = axes.get_xlim()
        low, high = min(low, bound), max(high, bound)
        axes.axvspan(bound, high, color=BLUE, alpha=0.07, lw=0)
        axes.axvline(bound, color=INK, lw=1)
        for edge in {-asked[keys[0]].smallest, asked[keys[0]].smallest} - {0.0}:
            axes.axvline(edge, color=GREY, lw=1, ls=":")
        axes.set(xlim=(low, high), ylim=(len(keys) - 0.55, -0.75), yticks=[])
        unit = f", {asked[keys[0]].unit}" if asked[keys[0]].unit else ""
        axes.set_xlabel(f"{measure}{unit}: difference, edit by edit" if differs else f"{measure}{unit}")
    words = (
        "Dots: clips. Bar: the mean's 95 % interval. Shaded: as claimed. Between dotted lines: too small to matter.\n"
    )
    words += "Verdicts are of all claims together (Holm): one alone on the claimed side may still be undecided."
    figure.suptitle(words, x=0.01, ha="left", fontsize=8)
    return figure


def _verdict(axes, y: int, claim: Claim, tables: Mapping[str, pd.DataFrame], row: dict) -> None:
    """One claim's line: its words above, clips and interval below."""
    clips = first_to_tell(claim, tables)[1].groupby("clip")[claim.measure].mean().to_numpy()
    axes.annotate(claim.claim, (0, y), xycoords=("axes fraction", "data"), xytext=(4, 13), va="center",
                  textcoords="offset points", fontsize=8, bbox=PLATE)  # fmt: skip
    axes.annotate(f"{row['verdict']}, n = {len(clips)}", (1, y),
                  xycoords=("axes fraction", "data"), xytext=(-4, 13), textcoords="offset points", ha="right",
                  va="center", fontsize=8, fontweight="bold")  # fmt: skip
    axes.plot(clips, np.full(len(clips), y), "o", color=INK, alpha=0.25, ms=4, mew=0)
    if row["interval"]:
        axes.plot(row["interval"], [y, y], color=BLUE, lw=5, alpha=0.45, solid_capstyle="butt")
    axes.plot(row["value"], y, "o", color=BLUE, ms=6)


def animate(rows: Mapping[str, ArrayLike], fps: float = 8) -> bytes:
    """An animated WebP that loops, the rows' frames (f 3 h w in [0, 1]) side by side; equal rows give equal bytes.

    Frames keep their size up to 128 pixels and are reduced above: whoever shows it enlarges it.
    """
    clips = [to_pictures(torch.as_tensor(frames)) for frames in rows.values()]
    h, w = clips[0].shape[1:3]
    scale = min(1, PANEL / max(h, w))
    size = (round(w * scale), round(h * scale))
    sheets = []
    for moment in zip(*clips, strict=True):
        sheet = Picture.new("RGB", (len(clips) * (size[0] + 2) - 2, size[1]), "white")
        for column, frame in enumerate(moment):
            picture = Picture.fromarray(frame)
            sheet.paste(picture.resize(size, Picture.Resampling.BICUBIC), (column * (size[0] + 2), 0))
        sheets.append(sheet)
    return _webp(sheets, fps)


def animate_clips(clips: Sequence[Mapping[str, ArrayLike]], fps: float = 8) -> bytes:
    """An animated WebP that loops, a row per clip, under each panel (f 3 h w in [0, 1]) its label in the picture.

    Frames are enlarged or reduced to 192 pixels. Equal clips give equal bytes.
    """
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 11)
    rows = [{label: to_pictures(torch.as_tensor(frames)) for label, frames in clip.items()} for clip in clips]
    h, w = next(iter(rows[0].values())).shape[1:3]
    size = (round(w * LARGE / max(h, w)), round(h * LARGE / max(h, w)))
    across, down = size[0] + 4, size[1] + 2 * LINE + 8
    sheets = []
    for index in range(min(len(frames) for row in rows for frames in row.values())):
        sheet = Picture.new("RGB", (max(map(len, rows)) * across - 4, len(rows) * down), "white")
        words = ImageDraw.Draw(sheet)
        for y, row in enumerate(rows):
            for x, (label, frames) in enumerate(row.items()):
                picture = Picture.fromarray(frames[index]).resize(size, Picture.Resampling.BICUBIC)
                sheet.paste(picture, (x * across, y * down))
                lines = "\n".join(textwrap.wrap(label, 30, max_lines=2, placeholder="..."))
                words.text((x * across + 2, y * down + size[1] + 3), lines, INK, font, spacing=2)
        sheets.append(sheet)
    return _webp(sheets, fps)


def _webp(sheets: Sequence[Picture.Image], fps: float) -> bytes:
    file = io.BytesIO()
    options = {"duration": round(1000 / fps), "loop": 0, "quality": 70, "method": 6}
    sheets[0].save(file, "WEBP", save_all=True, append_images=sheets[1:], **options)
    return file.getvalue()


@styled
def write(figure: Figure, path: str | Path) -> None:
    """Write a figure as .png of 256 colours, for charts, as .jpg, for strips, at their dots per inch, or as .svg."""
    path = Path(path)
    dpi = 100 if path.suffix == ".jpg" else 150
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":  # neither a date nor names drawn at random
        with rc_context({"svg.hashsalt": path.name}):
            figure.savefig(path, metadata={"Date": None})
        return
    file = io.BytesIO()
    figure.savefig(file, dpi=dpi, pil_kwargs={"compress_level": 1})
    picture = Picture.open(file).convert("RGB")
    if path.suffix == ".jpg":
        picture.save(path, quality=75, subsampling=0, optimize=True)
    else:
        picture.quantize(256).save(path, optimize=True)


def show(figure: Figure, path: str | Path) -> None:
    """Write a figure to `path` and display those very bytes."""
    write(figure, path)
    display(Image(filename=path, width=round(figure.get_figwidth() * 100)))


def show_verdicts(
    asked: Mapping[str, Claim],
    tables: Mapping[str, pd.DataFrame],
    rows: Mapping[str, dict],
    path: str | Path,
) -> None:
    """Show `verdicts` of the claims that have a value, if there are any; an .svg goes beside `path`."""
    told = {key: claim for key, claim in asked.items() if rows[key]["value"] is not None}
    if told:
        figure = verdicts(told, tables, rows)
        show(figure, path)
        write(figure, Path(path).with_suffix(".svg"))


def show_animation(rows: Mapping[str, ArrayLike], path: str | Path, fps: float = 8) -> None:
    """Write `animate(rows)` to `path`, .webp, and display it with a caption under each panel."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(animate(rows, fps))
    data = base64.b64encode(path.read_bytes()).decode()
    captions = "".join(f'<span style="padding:0 .3em">{html.escape(label)}</span>' for label in rows)
    display(
        HTML(
            f'<div style="max-width:{len(rows) * 190}px"><img src="data:image/webp;base64,{data}" '
            f'alt="{html.escape(" | ".join(rows))}" style="width:100%">'
            f'<div style="display:grid;grid-template-columns:repeat({len(rows)},1fr);text-align:center;font-size:.8em">'
            f"{captions}</div></div>"
        )
    )
