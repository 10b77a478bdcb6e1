"""Tune-A-Video as a custom pipeline of diffusers: any Stable Diffusion 1.x or 2.x, inflated as it is loaded.

    pipe = DiffusionPipeline.from_pretrained("CompVis/stable-diffusion-v1-4", custom_pipeline="examples/diffusers",
                                             num_frames=24, trust_remote_code=True)
    for step, loss in pipe.tune(clip, "a man is skiing"): ...
    pipe.load_tuned("tuned.safetensors")

`tav` has to be installed beside diffusers; of this repository nothing else is needed.
"""

from diffusers import DDIMScheduler

import tav.pipeline  # the module: diffusers wants one pipeline among a file's names
from tav.checkpoint import load_tuned, save_tuned
from tav.model import inflate
from tav.tune import tune


class TuneAVideoCustomPipeline(tav.pipeline.TuneAVideoPipeline):
    """A `TuneAVideoPipeline` that inflates the image model it is given, with what the library does as methods.

    num_frames, norm, attention, temporal, seed: see `tav.model.inflate`; they are saved with the pipeline.
    """

    def __init__(self, vae, text_encoder, tokenizer, unet, scheduler, safety_checker=None, feature_extractor=None,
                 image_encoder=None, requires_safety_checker=False, num_frames=8, norm="clip",
                 attention="sparse-causal", temporal=True, seed=0):  # fmt: skip
        scheduler = DDIMScheduler.from_config(scheduler.config, clip_sample=False)
        super().__init__(vae, text_encoder, tokenizer, unet, scheduler, None, None, None, False)
        inflation = {"num_frames": num_frames, "norm": norm, "attention": attention, "temporal": temporal, "seed": seed}
        self.register_to_config(**inflation)
        inflate(self.unet, **inflation)

    def tune(self, clip, caption, **settings):
        """See `tav.tune.tune`."""
        return tune(self, clip, caption, **settings)

    def save_tuned(self, path) -> None:
        """See `tav.checkpoint.save_tuned`."""
        save_tuned(self, path)

    def load_tuned(self, path) -> None:
        """See `tav.checkpoint.load_tuned`."""
        load_tuned(self, path)
