"""Source captions by BLIP-2, as the paper writes those of its DAVIS clips (5.1)."""

from pathlib import Path

import torch
from einops import rearrange
from transformers import Blip2ForConditionalGeneration, Blip2Processor
from transformers.utils import logging

from tav import hub
from tav.clip import read_clip
from tav.errors import InputError, loading

BLIP2 = "Salesforce/blip2-opt-2.7b"
SIDE = 448  # pixels, above what BLIP-2 looks at


class Captioner:
    """BLIP-2 from a folder or the Hub, in float16 on a GPU and float32 on the CPU.

    Raises InputError if the weights are not there and cannot be downloaded, or are of another model.
    """

    def __init__(self, model: str = BLIP2, device: str = "auto"):
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        dtype = torch.float16 if self.device == "cuda" else torch.float32
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        advice = "download it where there is a network and give its folder with --model, or list without --caption"
        with loading(f"BLIP-2 from {model}", advice):
            if not Path(model).is_dir():
                hub.unreachable()
            self.processor = Blip2Processor.from_pretrained(model)
            self.model, info = Blip2ForConditionalGeneration.from_pretrained(
                model, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
            if info["missing_keys"]:
                raise ValueError(f"{len(info['missing_keys'])} weights are missing")
            if self.processor.tokenizer.convert_tokens_to_ids("<image>") != self.model.config.image_token_index:
                raise ValueError("its tokenizer is not the text model's")  # transformers makes up an empty one
            words = self.processor.tokenizer
            if len(words) <= len(words.all_special_tokens):  # transformers makes up an empty one
                raise ValueError("its tokenizer is missing")
        self.model.eval().to(self.device)

    @torch.no_grad()
    def caption(self, path: Path, count: int) -> str:
        """The caption of the middle one of a clip's `count` frames, cropped to a square as tuning sees it; greedy."""
        frame = (read_clip(path, 1, SIDE, start=count // 2)[0] + 1) / 2
        picture = rearrange((frame * 255).round().byte(), "c h w -> h w c").numpy()
        inputs = self.processor(images=picture, return_tensors="pt").to(self.device, self.model.dtype)
        words = self.model.generate(**inputs, max_new_tokens=40, do_sample=False)
        text = " ".join(self.processor.batch_decode(words, skip_special_tokens=True)[0].split())
        if not text:
            raise InputError(
                f"BLIP-2 has no words for {path}: write its caption by hand, and list it without --caption"
            )
        return text
