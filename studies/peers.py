"""Section 5.2: the peer methods, on the same image model, clips, prompts, seed and steps."""

from collections.abc import Iterator
from functools import partial

from pydantic import ValidationError, create_model
from torch import Tensor

from measures.clips import ClipEntry, Section
from peers import PEERS, Sampling, own_settings
from studies.ahead import make_ahead
from studies.digests import digest_of_model
from studies.method import needs_of_image_model
from studies.models import label, load_image_model
from studies.results import RESULTS, replacing
from studies.settings import Guidance, Params, explain
from studies.sources import source_frames
from studies.stages import collect
from studies.store import Piece, Store, about_to_make
from tav.clip import read_frames, write_frames
from tav.errors import InputError
from tav.pipeline import TuneAVideoPipeline


def edit_by_peers(params: Params) -> None:
    """Edits all clips as every peer method does, into results/peers/<peer>/<clip>/<edit>."""
    peers = Peers(params)
    make_ahead(params, edits_by, [(params, peer, clip) for peer in params.peers for clip in params.clips])
    with replacing(RESULTS / "peers") as folder:
        for peer in params.peers:
            for name, entry in params.clips.items():
                for edit, piece in peers.edits(peer, entry).items():
                    collect(piece, folder / peer / name / edit)


def edits_by(params: Params, peer: str, clip: str) -> None:
    """Makes a clip's edits by one peer, where they are missing."""
    Peers(params).edits(peer, params.clips[clip])


class Peers:
    """The peer methods with their settings of params.yaml: edits of clips, taken from the store or made.

    Raises InputError if there is no such method or setting, or a value that it does not allow. The image model is
    loaded when it is first needed.
    """

    def __init__(self, params: Params, store: Store | None = None):
        self.params, self.store = params, store or Store()
        self.settings = {peer: peer_settings(params, peer) for peer in params.peers}
        self._pipe: TuneAVideoPipeline | None = None

    def edits(self, peer: str, entry: ClipEntry) -> dict[str, Piece]:
        """The frames of every edit of a clip; those that are missing are made together, from one inversion."""
        asked = {edit: self._needs(peer, entry, prompt) for edit, prompt in entry.edits.items()}
        code = (PEERS[peer].edit, load_image_model, write_frames)
        pieces = {edit: self.store.find("peer", needs, code) for edit, needs in asked.items()}
        missing = [edit for edit, piece in pieces.items() if piece is None]
        if not missing:
            return pieces
        about_to_make("peer")
        made = self._edit(peer, entry, [entry.edits[edit] for edit in missing])
        for edit, frames in zip(missing, made, strict=True):
            pieces[edit] = self.store.take("peer", asked[edit], code, partial(write_frames, frames=frames))
        return pieces

    def _edit(self, peer: str, entry: ClipEntry, prompts: list[str]) -> Iterator[Tensor]:
        self._pipe = self._pipe or load_image_model(self.params)
        label(self._pipe, f"{PEERS[peer].name}: {entry.caption}")
        clip = read_frames(source_frames(self.params, entry, self.store).folder) * 2 - 1
        sampling, own = self.settings[peer]
        return PEERS[peer].edit(self._pipe, clip, entry.caption, prompts, sampling, **own)

    def _needs(self, peer: str, entry: ClipEntry, prompt: str) -> dict:
        sampling, own = self.settings[peer]
        models = {"digest": digest_of_model(own["model"])} if "model" in own else {}
        needs = {"peer": peer, "own": own | models, "sampling": vars(sampling)}
        needs |= {"source": source_frames(self.params, entry, self.store).digest, "caption": entry.caption}
        return needs | {"prompt": prompt, "model": needs_of_image_model(self.params)}


def peer_settings(params: Params, peer: str) -> tuple[Sampling, dict]:
    """How a peer samples, by default as `edit` says, and its own settings; InputError for what it does not take."""
    if peer not in PEERS:
        raise InputError(f"peers has no method {peer}: there are {', '.join(PEERS)}, each with its settings")
    known = {"guidance_scale": (Guidance, params.edit.guidance_scale), **own_settings(peer)}
    if unknown := [name for name in params.peers[peer] if name not in known]:
        raise InputError(f"peers.{peer} takes {', '.join(known)}, not {', '.join(unknown)}")
    try:
        own = create_model(peer, __base__=Section, **known)(**params.peers[peer]).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise InputError(f"peers.{peer}.{explain(error)}") from None
    scale = own.pop("guidance_scale", params.edit.guidance_scale)
    return Sampling(params.edit.steps, scale, params.tune.seed, params.edit.negative_prompt), own
