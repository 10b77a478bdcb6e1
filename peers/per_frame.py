"""Every frame edited by itself: DDIM inversion and DDIM sampling with another prompt."""

from torch import Tensor

from peers._ddim import encode, invert, noise_of
from tav.pipeline import TuneAVideoPipeline


def edit(
    pipe: TuneAVideoPipeline,
    clip: Tensor,
    source_caption: str,
    edit_prompt: str,
    *,
    steps: int,
    guidance_scale: float,
    seed: int,
    negative_prompt: str = "",
    captioned_inversion: bool = True,
) -> Tensor:
    """Invert each frame without guidance and sample it with the edit prompt; no frame knows of another.

    Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502: eq. 12 with eta 0 and, for inversion, its
    reverse (4.3). Nothing is random.

    captioned_inversion: invert with the source caption, or with the empty prompt as Tune-A-Video does.
    """
    noise = noise_of(invert(pipe, encode(pipe, clip), steps, source_caption if captioned_inversion else ""))
    settings = {"guidance_scale": guidance_scale, "negative_prompt": negative_prompt}
    return pipe(edit_prompt, noise, steps, output_type="pt", **settings).frames[0]
