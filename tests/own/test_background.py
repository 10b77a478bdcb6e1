"""Edits that leave the clip as it is outside of a mask."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from own.background import _as_pictures, edit_inside, invert_path, mask_of_words, of_latents, read_mask
from tav import load_pipeline
from tav.clip import write_frames
from tav.errors import InputError
from tests import tiny

CAPTION, PROMPT = "a square is moving", "a circle is moving"


@pytest.fixture(scope="module")
def pipe(tiny_model):
    pipe = load_pipeline(tiny_model, num_frames=4)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def path(pipe):
    return invert_path(pipe, pipe.encode_clip(tiny.moving_square(4)), 3)


def test_the_path_goes_from_the_clip_to_the_noise_that_it_inverts_to(pipe, path):
    latents = pipe.encode_clip(tiny.moving_square(4))
    assert path.shape == (4, *latents.shape)
    assert path[0].equal(latents) and path[-1].equal(pipe.invert(latents, 3))


def test_an_empty_mask_gives_the_clip_back_and_a_full_one_the_edit(pipe, path):
    empty = torch.zeros(4, 1, 8, 8)
    nothing = edit_inside(pipe, PROMPT, path, empty, guidance_scale=2.0)
    torch.testing.assert_close(nothing, pipe.decode_clip(path[0]))
    everything = edit_inside(pipe, PROMPT, path, empty + 1, guidance_scale=2.0)
    plain = pipe(PROMPT, path[-1], 3, guidance_scale=2.0, output_type="pt").frames[0]
    torch.testing.assert_close(everything, plain)


def test_outside_of_the_mask_the_latents_are_the_clips_own(pipe, path):
    mask = torch.zeros(4, 1, 8, 8)
    mask[..., :4] = 1
    seen = []
    decode, pipe.decode_clip = pipe.decode_clip, lambda latents: seen.append(latents) or decode(latents)
    try:
        edit_inside(pipe, PROMPT, path, mask, guidance_scale=2.0)
    finally:
        del pipe.decode_clip
    assert seen[0][..., 4:].equal(path[0][..., 4:]) and not seen[0][..., :4].equal(path[0][..., :4])


def test_words_of_the_caption_give_a_mask_and_the_attention_is_as_before(pipe, path):
    before = [attention.processor for name, attention in pipe.unet.named_modules() if name.endswith("attn2")]
    mask = mask_of_words(pipe, path, CAPTION, "square")
    assert mask.shape == (4, 1, 8, 8) and set(mask.unique().tolist()) == {0, 1}
    assert before == [attention.processor for name, attention in pipe.unet.named_modules() if name.endswith("attn2")]
    for words in ("circle", "square moving", ""):
        with pytest.raises(InputError, match="give words that stand in it"):
            mask_of_words(pipe, path, CAPTION, words)


@pytest.mark.parametrize("side", [(8, 8), (80, 45), (45, 80), (11, 5), (33, 64)])
def test_maps_of_every_level_have_its_height_and_width(side):
    height, width = side
    for _ in range(4):
        assert _as_pictures(torch.zeros(2, height * width), side).shape == (2, 1, height, width)
        height, width = math.ceil(height / 2), math.ceil(width / 2)


def test_a_mask_is_a_picture_for_all_frames_or_frames_of_its_own(tmp_path):
    half = torch.zeros(3, 64, 64)
    half[..., 32:] = 1
    Image.fromarray((half[0] * 255).byte().numpy()).save(tmp_path / "half.png")
    one = read_mask(tmp_path / "half.png", 4, (32, 32), "crop")
    write_frames(tmp_path / "frames", torch.stack([half, 1 - half, half, half]))
    several = read_mask(tmp_path / "frames", 4, (32, 32), "crop")
    assert one.shape == several.shape == (4, 1, 32, 32)
    assert one[:, 0, :, 20:].min() == 1 and one[:, 0, :, :12].max() == 0
    assert several[1, 0, :, :12].min() == 1 and several[1, 0, :, 20:].max() == 0
    turned = Image.Exif()
    turned[0x0112] = 6  # as a phone held upright writes it: the picture's left side is its top
    top = (half[0].rot90() * 255).byte().numpy()
    Image.fromarray(top).save(tmp_path / "phone.png", exif=turned)
    assert read_mask(tmp_path / "phone.png", 4, (32, 32), "crop").equal(one)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match="broken.png cannot be read as a picture"):
        read_mask(tmp_path / "broken.png", 4, (32, 32), "crop")
    small = of_latents(one, torch.zeros(4, 4, 8, 8))
    assert small[..., 4:].min() == 1 and small[..., :3].max() == 0


@pytest.mark.parametrize("name", ["none.png", "broken.png", "notes.txt"])
def test_a_mask_that_cannot_be_read_is_refused_in_a_line(tmp_path, name):
    Path(tmp_path, "broken.png").write_bytes(b"no picture")
    Path(tmp_path, "notes.txt").write_text("no video")
    with pytest.raises(InputError) as refused:
        read_mask(tmp_path / name, 4, (32, 32), "crop")
    assert name in str(refused.value) and "\n" not in str(refused.value)
