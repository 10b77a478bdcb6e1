"""CLIP scores and PickScore as the field has them, and the reconstruction check."""

import math
import warnings
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPProcessor

from tav.clip import to_pictures
from tav.errors import InputError, loading

PICK_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # of the CLIP that PickScore was fine-tuned from


class ClipScorer:
    """CLIP embeddings of frames and prompts through open_clip, in float32.

    `model` is an open_clip name and its weights, "ViT-L-14/openai", or a folder with open_clip_config.json and weights.
    `square` (TGVE: 480) first resizes every frame to that square with PIL's bicubic filter, proportions not kept, as
    the TGVE script does; without it a frame goes straight to the model's own preparation, which crops to the centre.
    `device` is auto (a GPU if there is one), cpu or cuda.
    """

    def __init__(self, model: str | Path, device: str = "auto", square: int | None = None):
        self.device, self.square = _device(device), square
        name, _, tag = str(model).rpartition("/")
        if Path(model).is_dir():
            name, tag = f"local-dir:{model}", None
        elif (name, tag) not in open_clip.list_pretrained():
            known = "a folder with open_clip_config.json, or an open_clip name and weights such as ViT-L-14/openai"
            raise InputError(f"no CLIP model {model}: give {known}")
        with loading(f"the CLIP model {model}", "check score in params.yaml"):
            self.model, self.prepare = open_clip.create_model_from_pretrained(name, pretrained=tag, device=self.device)
            self.tokenizer = open_clip.get_tokenizer(name)
        self.model.eval()

    def score(self, frames: Tensor, prompt: str, caption: str) -> dict[str, float]:
        """The three CLIP scores of an edited clip, frames f 3 h w in [0, 1], by its edit prompt and source caption."""
        images, edit, source = self.embed_frames(frames), self.embed_prompt(prompt), self.embed_prompt(caption)
        return {
            "frame consistency": frame_consistency(images),
            "text alignment": text_alignment(images, edit),
            "frame accuracy": frame_accuracy(images, edit, source),
        }

    @torch.no_grad()
    def embed_frames(self, frames: Tensor) -> Tensor:
        """Embed frames: f 3 h w in [0, 1] -> f d, of unit length. Frames are rounded to 8 bits, as files hold them."""
        batch = torch.stack([self.prepare(picture) for picture in _pictures(frames, self.square)]).to(self.device)
        return functional.normalize(self.model.encode_image(batch).float(), dim=-1).cpu()

    @torch.no_grad()
    def embed_prompt(self, prompt: str) -> Tensor:
        """Embed a prompt: -> d, of unit length. Warns with the words that are cut when it exceeds the text length."""
        words = prompt.split()
        read = next(n for n in range(len(words), -1, -1) if self._fits(" ".join(words[:n])))
        if read < len(words):
            cut = " ".join(words[read:])
            warnings.warn(f"CLIP does not read the end of a prompt: {cut!r} is cut from {prompt!r}", stacklevel=2)
        tokens = self.tokenizer([prompt]).to(self.device)
        return functional.normalize(self.model.encode_text(tokens).float(), dim=-1)[0].cpu()

    def _fits(self, text: str) -> bool:
        tokens = self.tokenizer([text])
        longer = self.tokenizer([text], context_length=tokens.shape[1] + len(text) + 2)
        return torch.equal(tokens, longer[:, : tokens.shape[1]])


class PickScorer:
    """PickScore (Kirstain et al. 2023), which people's choices between pictures taught, as the TGVE script takes it.

    `model` is a folder or Hub id in transformers format, yuvalkirstain/PickScore_v1; where it has no processor of its
    own, that of `PICK_PROCESSOR` is used. `device` and `square`: see `ClipScorer`. Raises InputError if it is not there
    or incomplete.
    """

    def __init__(self, model: str | Path, device: str = "auto", square: int | None = None):
        self.device, self.square = _device(device), square
        with loading(f"PickScore from {model}", "check score.pick_model"):
            self.model, info = CLIPModel.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
            if info["missing_keys"]:
                raise ValueError(f"{len(info['missing_keys'])} weights are missing")
            try:  # pil: the picture processing of the TGVE script
                self.processor = CLIPProcessor.from_pretrained(model, backend="pil")
            except OSError:
                self.processor = CLIPProcessor.from_pretrained(PICK_PROCESSOR, backend="pil")
            if len(self.processor.tokenizer) != self.model.config.text_config.vocab_size:
                raise ValueError("its tokenizer is not the text model's")  # transformers makes up an empty one
        self.model.eval().to(self.device)

    @torch.no_grad()
    def score(self, frames: Tensor, prompt: str) -> float:
        """Mean over frames f 3 h w in [0, 1] of exp(logit_scale) x cosine with the prompt, cut after 77 tokens."""
        length = self.model.config.text_config.max_position_embeddings
        text = self.processor.tokenizer(prompt, truncation=True, max_length=length, return_tensors="pt")
        pictures = self.processor.image_processor(_pictures(frames, self.square), return_tensors="pt")
        output = self.model(**text.to(self.device), **pictures.to(self.device))
        return float(output.logits_per_image.cpu().double().mean())


def _device(device: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _pictures(frames: Tensor, square: int | None) -> list[Image.Image]:
    pictures = [Image.fromarray(picture) for picture in to_pictures(frames)]
    if square:
        pictures = [picture.resize((square, square), Image.Resampling.BICUBIC) for picture in pictures]
    return pictures


def frame_consistency(images: Tensor) -> float:
    """Mean cosine over all pairs of different frames, x100; images f d of unit length (TGVE "frame", paper 5.2).

    One frame has no pair and gives nan.
    """
    f = len(images)
    cosines = images.double() @ images.double().T
    return 100 * float((cosines.sum() - cosines.trace()) / (f * (f - 1))) if f > 1 else math.nan


def text_alignment(images: Tensor, text: Tensor) -> float:
    """Mean over frames of the cosine with the prompt, x100; images f d and text d of unit length (paper 5.2).

    TGVE's number is logits_per_image, cosine x exp(logit_scale). OpenAI's models have exp(logit_scale) = 100, so there
    the two agree; for other models x100 keeps the scale comparable where their own logit scale would not.
    """
    return 100 * float((images.double() @ text.double()).mean())


def frame_accuracy(images: Tensor, edit: Tensor, source: Tensor) -> float:
    """Percent of frames that CLIP finds closer to the edit prompt than to the source caption (FateZero's Fram-Acc).

    images f d; edit, source d; all of unit length. A tie is not closer.
    """
    return 100 * float((images @ edit > images @ source).double().mean())


def psnr(frames: Tensor, source: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of a whole clip against its source, both f 3 h w in [0, 1]; inf if equal."""
    error = float((frames.double() - source.double()).square().mean())
    return 10 * math.log10(1 / error) if error else math.inf
