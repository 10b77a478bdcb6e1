"""Clips of several things (section 6): edited with and without a condition."""

from collections.abc import Iterator

from measures.clips import ClipEntry
from measures.tables import CAPTION, METHOD
from studies.ahead import make_ahead
from studies.control import Controlled
from studies.method import Method
from studies.results import RESULTS, replacing
from studies.settings import Params
from studies.stages import collect
from studies.store import Piece

CASES = {"edit": METHOD, "untuned": "no-tuning"}  # what tables call kinds that are no control


def objects(params: Params) -> None:
    """Tunes on the clips that `objects` lists and samples their edits into results/objects/<clip>/<kind>/<edit>.

    kind: edit, without control; untuned, the same by the model before tuning; each of params.control that the clip has,
    from the same noise as edit. source beside them has the clip's frames.
    """
    clips = params.with_clips(params.objects).clips
    controlled = Controlled(params)
    make_ahead(params, pieces_of, [(params, entry) for entry in clips.values()])
    with replacing(RESULTS / "objects") as folder:
        for name, entry in clips.items():
            for place, piece in pieces(controlled, entry):
                collect(piece, folder / name / place)


def pieces_of(params: Params, entry: ClipEntry) -> None:
    """Makes the pieces of a clip, where they are missing."""
    for _ in pieces(Controlled(params), entry):
        pass


def pieces(controlled: Controlled, entry: ClipEntry) -> Iterator[tuple[str, Piece]]:
    """A clip's pieces and their places in its folder of results/objects."""
    yield "source", controlled.method.source(entry)
    yield from untuned(controlled.params, entry)
    conditions = controlled.conditions(entry)
    for edit, prompt in entry.edits.items():
        yield f"edit/{edit}", controlled.method.edit(entry, prompt)
        for kind, shown in conditions.items():
            yield f"{kind}/{edit}", controlled.edit(entry, prompt, kind, shown)


def untuned(params: Params, entry: ClipEntry) -> Iterator[tuple[str, Piece]]:
    """A clip's edits by the model before tuning, which is let go before another is loaded."""
    method = Method(params.changed(tune={"steps": 0}))
    for edit, prompt in entry.edits.items():
        yield f"untuned/{edit}", method.edit(entry, prompt)


def told(params: Params) -> Params:
    """These settings with each clip's caption among its edits, as `CAPTION`: so the source itself can be scored."""
    entries = {name: e.model_copy(update={"edits": e.edits | {CAPTION: e.caption}}) for name, e in params.clips.items()}
    return params.model_copy(update={"clips": entries})
