"""Section 4: ControlNets and T2I-Adapters over tuned models, with no further training."""

from collections.abc import Iterator
from pathlib import Path

from diffusers import ControlNetModel, T2IAdapter
from torch import Tensor

from measures.clips import ClipEntry
from measures.conditions import FROM_TRUTH, check_kind, condition
from measures.truth import truth_beside
from studies.ahead import make_ahead
from studies.digests import digest_of_model, digest_of_truth
from studies.machine import chosen_device
from studies.method import LOADING, Method, guidance
from studies.results import RESULTS, replacing
from studies.settings import Params
from studies.stages import collect
from studies.store import Piece
from tav.clip import read_frames, write_frames
from tav.control import load_control, sample_controlled
from tav.pipeline import TuneAVideoPipeline

NONE = "none"  # instead of a kind: without control


def control_clips(params: Params) -> None:
    """Samples the tuned clips under every kind of params.control, into results/control/<kind>/<whose>/<clip>/<edit>.

    own: every edit from the clip's inverted noise, under the clip's own condition. other: the first edit from random
    noise, as inverted noise has the clip's own motion, under the next clip's condition; of the kind none, without one.
    Conditions go to <kind>/condition/<clip>.
    """
    controlled = Controlled(params)
    make_ahead(params, pieces_of, [(params, name) for name in params.clips])
    with replacing(RESULTS / "control") as folder:
        for name in params.clips:
            for place, piece in pieces(controlled, name):
                collect(piece, folder / place)


def pieces_of(params: Params, name: str) -> None:
    """Makes the pieces of a clip, where they are missing."""
    for _ in pieces(Controlled(params), name):
        pass


def pieces(controlled: "Controlled", name: str) -> Iterator[tuple[str, Piece]]:
    """A clip's pieces and their places in results/control."""
    params, entry = controlled.params, controlled.params.clips[name]
    for kind, drawn in controlled.conditions(entry).items():
        yield f"{kind}/condition/{name}", drawn
        for edit, prompt in entry.edits.items():
            yield f"{kind}/own/{name}/{edit}", controlled.edit(entry, prompt, kind, drawn)
    if len(params.clips) == 1 or not params.control:
        return
    edit, prompt = next(iter(entry.edits.items()))
    yield f"{NONE}/other/{name}/{edit}", controlled.method.edit(entry, prompt, "random")
    for kind, drawn in controlled.conditions(params.clips[params.next_clip(name)]).items():
        yield f"{kind}/other/{name}/{edit}", controlled.edit(entry, prompt, kind, drawn, "random")


class Controlled:
    """Edits of tuned clips under the controls of params.yaml, and the conditions that these are shown: pieces."""

    def __init__(self, params: Params):
        for kind in params.control:  # what is wrong with one is said before anything is drawn
            check_kind(kind)
        self.params, self.method = params, Method(params)
        self._controls: dict[str, ControlNetModel | T2IAdapter] = {}

    def conditions(self, entry: ClipEntry) -> dict[str, Piece]:
        """What every control is shown of a clip, as pictures; mask and pose only where its truth is known."""
        has_truth = self.params.clip.is_square and digest_of_truth(entry.source.path) != ""
        kinds = [kind for kind in self.params.control if has_truth or kind not in FROM_TRUTH]
        return {kind: self._condition(entry, kind) for kind in kinds}

    def edit(self, entry: ClipEntry, prompt: str, kind: str, shown: Piece, noise: str = "") -> Piece:
        """Frames of a clip's edit under a condition. noise: as in `Method.edit`."""
        method, start = self.method, self.method.start(entry, noise)
        settings = {"steps": self.params.edit.steps, **guidance(self.params)}
        solver = self.params.edit.solver
        needs = method.needs(entry) | {"prompt": prompt, "start": start, "solver": solver, "settings": settings}
        needs |= {"control": digest_of_model(self.params.control[kind]), "condition": shown.digest}

        def make(folder: Path) -> None:
            pipe = method.pipe_on(entry, f"{kind}: {prompt}", solver)
            if kind not in self._controls:
                self._controls[kind] = load_control(self.params.control[kind], pipe)
            given = pipe, self._controls[kind], read_frames(shown.folder), prompt, method.start_noise(entry, start)
            make_controlled(folder, *given, settings)

        return method.store.take("controlled", needs, (make_controlled, load_control, *LOADING), make)

    def _condition(self, entry: ClipEntry, kind: str) -> Piece:
        source = self.method.source(entry)
        needs = {"kind": kind, "source": source.digest}
        models = self.params.conditions.model_dump()
        if kind in FROM_TRUTH:
            needs |= {"truth": digest_of_truth(entry.source.path), **entry.source.model_dump(exclude={"path"})}
        if kind in models:
            needs["model"] = digest_of_model(models[kind])

        def make(folder: Path) -> None:
            frames, truth = read_frames(source.folder), None
            if kind in FROM_TRUTH:
                truth = truth_beside(entry.source, len(frames), tuple(frames.shape[-2:]))
            write_frames(folder, condition(kind, frames.to(chosen_device(self.params)), truth, models))

        return self.method.store.take("condition", needs, (condition, truth_beside, write_frames), make)


def make_controlled(
    folder: Path,
    pipe: TuneAVideoPipeline,
    control: ControlNetModel | T2IAdapter,
    shown: Tensor,
    prompt: str,
    noise: Tensor,
    settings: dict,
) -> None:
    """Samples a prompt's clip from noise f c h w under a condition f 3 h w in [0, 1]."""
    write_frames(folder, sample_controlled(pipe, control, shown, prompt, noise, **settings))
