"""Text2Video-Zero: frames that attend to the first frame, with no tuning."""

from collections.abc import Iterable, Iterator
from functools import partial

from torch import Tensor

from peers._attention import processors, transformer_blocks
from peers._ddim import Sampling, encode, invert, noise_of, sample_by_pipeline
from tav.model import ClipAttnProcessor
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
    """Invert and sample with self-attention whose keys and values are the first frame's. Nothing is random.

    Khachatryan et al., Text2Video-Zero, arXiv 2303.13439, "Reprogramming Cross-Frame Attention": frame k attends by
    Softmax(Q^k (K^1)^T / sqrt(c)) V^1 in every self-attention, as in its editing variant, Video Instruct-Pix2Pix.

    Not as in the original: there a model trained for editing is shown the source frames; here, with an ordinary image
    model, inverted noise carries them. Left out is what only its generation from text has: latents that are warped
    along a motion, and background smoothing.

    captioned_inversion: invert with the caption, or with the empty prompt.
    """
    latents = encode(pipe, clip)
    to_first = ClipAttnProcessor(pipe.num_frames, "first")
    attend_to_first = partial(processors, {block.attn1: to_first for block in transformer_blocks(pipe.unet)})
    with attend_to_first():
        noise = noise_of(invert(pipe, latents, sampling.steps, caption if captioned_inversion else ""))
    for prompt in prompts:
        with attend_to_first():
            frames = sample_by_pipeline(pipe, noise, prompt, sampling)
        yield frames
