"""Real footage: `python -m footage VERB`, run in the repository's root. `python -m footage --help` lists the verbs.

Exit codes as those of `python -m studies`: 0 done, 2 bad input or no network, with one line on stderr.
"""

import argparse
import sys
import warnings
from pathlib import Path

from footage.fetch import VIDEOS, fetch_davis, fetch_demo
from tav import interrupt
from tav.errors import InputError

WHERE_TGVE = "https://github.com/showlab/loveu-tgve-2023 links the archive, which lies on Google Drive"


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except (InputError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; `python -m footage --help` lists what there is")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m footage", description="Fetch, list, caption and score real footage.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (run, help) in VERBS.items():
        sub = verbs.add_parser(verb, help=help, description=help)
        sub.set_defaults(run=run)
        if verb in ("demo", "davis"):
            sub.add_argument("--from", dest="mirror", help="another URL, or a path on this machine")
        if verb in ("tgve", "submit", "score"):
            sub.add_argument("--data", type=Path, default=VIDEOS / "tgve", help="the unpacked benchmark")
        if verb == "tgve":
            sub.add_argument("archive", type=Path, nargs="?", help="loveu-tgve-2023.zip, or its unpacked folder")
        if verb in ("list", "caption"):
            sub.add_argument("paths", type=Path, nargs="+", help="videos, GIFs, folders of frames, or folders of them")
            sub.add_argument("--model", default="", help="BLIP-2: a folder or Hub id (Salesforce/blip2-opt-2.7b)")
        if verb == "list":
            sub.add_argument("--caption", action="store_true", help="write captions with BLIP-2")
            sub.add_argument("--frames", type=int, default=32, help="frames to spread over a clip (clip.num_frames)")
        if verb == "submit":
            sub.add_argument("edits", type=Path, help="a folder with <clip>/<edit>/ of frames, such as results/edit")
        if verb in ("submit", "score"):
            sub.add_argument("submission", type=Path, help="the folder with DAVIS_480p, youtube_480p and videvo_480p")
        if verb == "score":
            sub.add_argument("--clip-model", default="ViT-L-14/openai", help="an open_clip name or a folder")
            sub.add_argument("--pick-model", default="yuvalkirstain/PickScore_v1", help='"" for no PickScore')
            sub.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
        if verb in ("tgve", "list", "score"):
            out = {"tgve": VIDEOS / "tgve.yaml", "list": Path("own.yaml"), "score": Path("scores.csv")}[verb]
            sub.add_argument("--out", type=Path, default=out, help=f"what is written ({out})")
    return parser


def _tgve(options: argparse.Namespace) -> None:
    from footage.lists import write_list
    from footage.tgve import tgve_clips, unpack_tgve

    folder = options.data
    if options.archive and options.archive.is_dir():
        folder = options.archive
    elif options.archive and options.archive.is_file():
        unpack_tgve(options.archive, folder)
    elif options.archive or not folder.is_dir():
        raise InputError(f"{options.archive or folder} does not exist: {WHERE_TGVE}; download it and give its path")
    clips = tgve_clips(folder)
    comment = (
        "LOVEU-TGVE-2023, made by `python -m footage tgve`: set benchmark.clips to this file. 32 or 128 frames each."
    )
    write_list(options.out, clips, comment)
    print(f"{options.out}: {len(clips)} clips, {sum(len(clip['edits']) for clip in clips.values())} edits")


def _list(options: argparse.Namespace) -> None:
    from footage.lists import list_clips, write_list

    if options.out.exists():
        raise InputError(f"{options.out} is there, and may hold edits that you wrote: name another file with --out")
    if options.frames < 1:
        raise InputError(f"--frames is {options.frames}: give a number from 1 on")
    clips = list_clips(options.paths, options.frames, _captioner(options).caption if options.caption else None)
    captions = "by BLIP-2: read them over" if options.caption else "the files' names: write what the clips show"
    comment = f"Set benchmark.clips to this file, or copy `clips` to params.yaml.\nCaptions are {captions}.\n"
    comment += "Each clip has one edit to start from; write your own as `name: edit prompt`."
    write_list(options.out, clips, comment)
    print(f"{options.out}: {len(clips)} clips; write their {'' if options.caption else 'captions and '}edits")


def _caption(options: argparse.Namespace) -> None:
    from footage.lists import list_clips

    for clip in list_clips(options.paths, 1, _captioner(options).caption).values():
        print(f"{clip['source']['path']}: {clip['caption']}")


def _captioner(options: argparse.Namespace):
    from footage.caption import BLIP2, Captioner

    return Captioner(options.model or BLIP2)


def _submit(options: argparse.Namespace) -> None:
    from footage.lists import clip_name
    from footage.tgve import read_table, write_submission
    from tav.clip import read_frames

    table, written = read_table(options.data), 0
    for row in table:
        for edit in row.edits:
            folder = options.edits / clip_name(row.clip) / edit
            if folder.is_dir():
                write_submission(options.submission, [row], {(clip_name(row.clip), edit): read_frames(folder)})
                written += 1
    if not written:
        raise InputError(
            f"{options.edits} holds no <clip>/<edit>/ of LOVEU-TGVE-2023: give a folder such as results/edit"
        )
    print(f"{options.submission}: {written} of {sum(len(row.edits) for row in table)} edits")


def _score(options: argparse.Namespace) -> None:
    from footage.tgve import means, read_table, score_submission

    table = read_table(options.data)
    scores = score_submission(options.submission, table, options.clip_model, options.pick_model, options.device)
    summary = means(scores).round(4)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    scores.round(4).to_csv(options.out, index=False)
    summary.to_csv(options.out.with_stem(f"{options.out.stem}-means"), index=False)
    print(summary.to_string(index=False))


VERBS = {  # verb -> what it runs, what --help says
    "demo": (lambda options: fetch_demo(options.mirror), "fetch the four released demo clips"),
    "davis": (lambda options: fetch_davis(options.mirror), "fetch DAVIS 2017, 480p"),
    "tgve": (_tgve, "unpack LOVEU-TGVE-2023 and list its clips and edits"),
    "list": (_list, "list your own clips"),
    "caption": (_caption, "caption clips with BLIP-2"),
    "submit": (_submit, "write edits as a submission to LOVEU-TGVE-2023"),
    "score": (_score, "score a submission to LOVEU-TGVE-2023"),
}


if __name__ == "__main__":
    sys.exit(interrupt.run(main))
