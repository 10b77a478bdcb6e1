"""Cross-attention that reads a text once: the image model's numbers, and nothing stale."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from tav.caption import CaptionAttnProcessor

FRAMES = 3


@pytest.fixture
def attention():
    torch.manual_seed(0)
    layer = Attention(16, cross_attention_dim=8, heads=2, dim_head=8, processor=CaptionAttnProcessor(FRAMES))
    layer.projected = []  # how many texts were projected, each time that they were
    layer.to_k.register_forward_hook(lambda _module, inputs, _output: layer.projected.append(len(inputs[0])))
    return layer.requires_grad_(False)


def tokens(clips=2):
    return torch.randn(clips * FRAMES, 10, 16)


def texts(clips=2):
    return torch.randn(clips, 5, 8).repeat_interleave(FRAMES, dim=0)


def as_image_model(attention, hidden, text):
    return AttnProcessor2_0()(attention, hidden, text)


def test_a_clips_text_gives_the_image_models_numbers_from_one_projection_a_clip(attention):
    hidden, text = tokens(), texts()
    ours = attention(hidden, text)
    assert attention.projected == [2]
    assert torch.allclose(ours, as_image_model(attention, hidden, text), atol=1e-6)


def test_the_same_text_is_projected_once(attention):
    text = texts()
    for _ in range(3):
        hidden = tokens()
        ours = attention(hidden, text)
    assert attention.projected == [2]
    assert torch.allclose(ours, as_image_model(attention, hidden, text), atol=1e-6)


@pytest.mark.parametrize("clips", [2, 4])
def test_frames_may_have_texts_of_their_own(attention, clips):
    hidden, text = tokens(clips), torch.randn(clips * FRAMES, 5, 8)
    assert torch.allclose(attention(hidden, text), as_image_model(attention, hidden, text), atol=1e-6)


def test_a_batch_that_is_no_whole_clips_is_attended_frame_by_frame(attention):
    hidden, text = torch.randn(4, 10, 16), torch.randn(1, 5, 8).repeat(4, 1, 1)
    assert torch.allclose(attention(hidden, text), as_image_model(attention, hidden, text), atol=1e-6)


def test_another_text_or_a_change_in_place_of_text_or_weights_is_noticed(attention):
    hidden, text = tokens(), texts()
    attention(hidden, text)
    for change in (lambda: text.mul_(2), lambda: attention.to_v.weight.mul_(2), lambda: attention.to_k.weight.zero_()):
        with torch.no_grad():
            change()
        assert torch.allclose(attention(hidden, text), as_image_model(attention, hidden, text), atol=1e-6)
    for _ in range(20):  # texts whose memory may be that of one before
        another = texts()
        assert torch.allclose(attention(hidden, another), as_image_model(attention, hidden, another), atol=1e-6)
        del another


def test_keys_and_values_that_are_trained_are_made_anew_each_time(attention):
    attention.to_k.weight.requires_grad_(True)
    text = texts()
    for _ in range(2):
        attention(tokens(), text).sum().backward()
    assert attention.projected == [2, 2]
    assert attention.to_k.weight.grad.abs().sum() > 0


def test_a_copied_layer_starts_anew(attention):
    hidden, text = tokens(), texts()
    ours = attention(hidden, text)
    assert torch.equal(copy.deepcopy(attention)(hidden, text), ours)


def test_inference_mode_works(attention):
    with torch.inference_mode():
        hidden, text = tokens(), texts()
        assert torch.equal(attention(hidden, text), attention(hidden, text))
