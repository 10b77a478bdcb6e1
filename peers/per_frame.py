"""Every frame edited by itself: DDIM inversion and DDIM sampling with another prompt."""

from collections.abc import Iterable, Iterator

from torch import Tensor

from peers._ddim import Sampling, encode, invert, noise_of, sample_by_pipeline
from tav.pipeline import TuneAVideoPipeline


def edit(
    pipe: TuneAVideoPipeline,
    clip: Tensor,
    caption: str,
    prompts: Iterable[str],
    sampling: Sampling,
    *,
    captioned_inversion: bool = True,
) -> Iterator[Tensor]:
    """Invert each frame without guidance and sample it with the edit prompt; no frame knows of another.

    Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502: eq. 12 with eta 0 and, for inversion, its
    reverse (4.3). Nothing is random.

    captioned_inversion: invert with the caption, or with the empty prompt as Tune-A-Video does.
    """
    noise = noise_of(invert(pipe, encode(pipe, clip), sampling.steps, caption if captioned_inversion else ""))
    for prompt in prompts:
        yield sample_by_pipeline(pipe, noise, prompt, sampling)
