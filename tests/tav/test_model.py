"""What the inflation adds, what a frame sees and what is tuned."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from einops import repeat

from tav.errors import InputError
from tav.model import ADDED, inflate, tuned_parameters
from tav.options import image_model
from tests import tiny

FRAMES = 5


def inputs(frames=FRAMES, seed=1):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(frames, 4, 8, 8, generator=generator)
    text = torch.randn(1, 7, tiny.TEXT_WIDTH, generator=generator)
    return latents, torch.tensor(400), text.expand(frames, -1, -1)


def predict(unet, latents, timestep, text):
    with torch.no_grad():
        return unet(latents, timestep, text).sample


def frames_seen(unet, frame):
    """The frames whose latents change the prediction of one frame."""
    latents, timestep, text = inputs()
    latents.requires_grad_(True)
    unet(latents, timestep, text).sample[frame].sum().backward()
    return {index for index, grad in enumerate(latents.grad) if grad.abs().max() > 0}


def wake_time(unet):
    """Give T-Attn weights as if tuned, since a new one is the identity."""
    for name, parameter in tuned_parameters(unet).items():
        if "attn_temp.to_out" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def one_block_unet():
    """One transformer block only, so that what it sees is not widened by a second one."""
    return tiny.unet(mid_block_type=None, up_block_types=("UpBlock2D", "UpBlock2D"))


@pytest.mark.parametrize("frame", range(FRAMES))
def test_a_frame_sees_only_the_first_and_the_one_before(frame):
    unet = inflate(one_block_unet(), FRAMES, norm="frame")
    assert frames_seen(unet, frame) == {frame, 0, max(frame - 1, 0)}


def test_each_kind_of_attention_reads_its_own_frames():
    seen = {
        kind: frames_seen(inflate(one_block_unet(), FRAMES, norm="frame", attention=kind), 3)
        for kind in ("own", "first", "full")
    }
    assert seen == {"own": {3}, "first": {0, 3}, "full": set(range(FRAMES))}


def test_the_keys_of_a_frame_leave_out_the_frame_itself():
    unet = inflate(one_block_unet(), FRAMES, norm="frame")
    attention = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    hidden = torch.randn(FRAMES, 6, attention.to_q.in_features)
    read = attention.processor.read(hidden[None], 0, FRAMES)[0]
    assert torch.equal(read[3], torch.cat([hidden[0], hidden[2]]))
    assert torch.equal(read[0], torch.cat([hidden[0], hidden[0]]))


def test_temporal_attention_sees_every_frame_once_it_has_learned():
    unet = inflate(one_block_unet(), FRAMES, norm="frame")
    wake_time(unet)
    assert frames_seen(unet, 3) == set(range(FRAMES))


def test_pooled_group_norm_sees_every_frame():
    assert frames_seen(inflate(one_block_unet(), FRAMES, attention="own"), 3) == set(range(FRAMES))


@pytest.mark.parametrize("config", [{}, tiny.SD2], ids=["sd1", "sd2"])
def test_a_still_clip_is_an_image(config):
    image, timestep, text = inputs(frames=1)
    still = repeat(image, "1 c h w -> f c h w", f=FRAMES)
    expected = predict(tiny.unet(**config), image, timestep, text)
    got = predict(inflate(tiny.unet(**config), FRAMES), still, timestep, text.expand(FRAMES, -1, -1))
    assert torch.allclose(got, expected.expand_as(got), atol=1e-5)


def test_without_attention_norm_and_time_it_is_the_image_model_exactly():
    batch = inputs()
    unet = inflate(tiny.unet(), FRAMES, norm="frame", attention="own", temporal=True)
    assert torch.equal(predict(unet, *batch), predict(tiny.unet(), *batch))


def test_one_frame_is_an_image_whatever_is_inflated():
    batch = inputs(frames=1)
    assert torch.allclose(predict(inflate(tiny.unet(), 1), *batch), predict(tiny.unet(), *batch), atol=1e-5)


def test_two_clips_in_a_batch_do_not_see_each_other():
    unet = inflate(tiny.unet(), FRAMES)
    wake_time(unet)
    (first, timestep, text), (second, _, _) = inputs(seed=1), inputs(seed=2)
    both = predict(unet, torch.cat([first, second]), timestep, torch.cat([text, text]))
    alone = torch.cat([predict(unet, clip, timestep, text) for clip in (first, second)])
    assert torch.allclose(both, alone, atol=1e-5)


def test_only_queries_and_time_are_tuned():
    unet = inflate(tiny.unet(), FRAMES)
    tuned = tuned_parameters(unet)
    assert {name for name, p in unet.named_parameters() if p.requires_grad} == tuned.keys()
    parts = {name.split("transformer_blocks.0.")[1] for name in tuned}
    time = {f"attn_temp.{part}.weight" for part in ("to_q", "to_k", "to_v", "to_out.0")} | {"attn_temp.to_out.0.bias"}
    assert parts == {"attn1.to_q.weight", "attn2.to_q.weight"} | time
    assert not any("norm_temp" in name for name in tuned)


def test_inflation_keeps_every_image_weight():
    image, unet = tiny.unet().state_dict(), inflate(tiny.unet(), FRAMES).state_dict()
    assert all(torch.equal(unet[name], weight) for name, weight in image.items())
    assert all(ADDED.search(name) for name in unet.keys() - image.keys())


def test_an_inflated_unet_can_be_copied():
    unet = inflate(tiny.unet(), FRAMES)
    batch = inputs()
    assert torch.equal(predict(copy.deepcopy(unet), *batch), predict(unet, *batch))


def test_a_partial_batch_is_refused():
    with pytest.raises(ValueError, match="7 frames are no whole number of clips of 5"):
        inflate(tiny.unet(), FRAMES)(*inputs(frames=7))


@pytest.mark.parametrize("choice", [{"norm": "batch"}, {"attention": "sparse"}, {"num_frames": 0}])
def test_an_unknown_inflation_is_refused_in_one_line(choice):
    with pytest.raises(InputError) as error:
        inflate(tiny.unet(), **choice)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_tuned_parameter(checkpointing):
    unet = inflate(tiny.unet(), FRAMES)
    wake_time(unet)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    unet(*inputs()).sample.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tuned_parameters(unet).values())


def test_checkpointing_changes_nothing():
    gradients = []
    for checkpointing in (False, True):
        unet = inflate(tiny.unet(), FRAMES)
        torch.manual_seed(3)
        wake_time(unet)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet(*inputs()).sample.square().mean().backward()
        gradients.append({name: p.grad for name, p in tuned_parameters(unet).items()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_stable_diffusion_gains_what_the_released_checkpoints_hold():
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        before = sum(p.numel() for p in unet.parameters())
        tuned = tuned_parameters(inflate(unet, 24)).values()
    after = sum(p.numel() for p in unet.parameters())
    millions = [round(count / 1e6, 1) for count in (before, after, sum(p.numel() for p in tuned))]
    assert millions == [859.5, 909.1, 74.4]
    assert len(tuned) == 16 * 7


@pytest.mark.parametrize("attention", ["sparse-causal", "first", "full"])
@pytest.mark.parametrize("frames_at_once", [1, 2, 3])
def test_attending_by_a_few_frames_at_once_changes_nothing(attention, frames_at_once):
    whole = predict(inflate(tiny.unet(), FRAMES, attention=attention), *inputs())
    parts = predict(inflate(tiny.unet(), FRAMES, attention=attention, frames_at_once=frames_at_once), *inputs())
    assert torch.allclose(parts, whole, atol=1e-5)


def test_convolutions_over_time_start_as_the_identity_and_are_tuned():
    plain, convolved = inflate(tiny.unet(), FRAMES), inflate(tiny.unet(), FRAMES, temporal_conv=True)
    assert torch.allclose(predict(convolved, *inputs()), predict(plain, *inputs()), atol=1e-5)
    added = convolved.state_dict().keys() - plain.state_dict().keys()
    kernels = [m for m in plain.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(added) == 2 * len(kernels) and all(".conv_temporal." in name for name in added)
    assert tuned_parameters(convolved).keys() - tuned_parameters(plain).keys() == added


def test_a_convolution_over_time_joins_a_frame_with_its_neighbours():
    unet = one_block_unet()
    only = inflate(unet, FRAMES, norm="frame", attention="own", temporal=False, temporal_conv=True)
    for name, parameter in only.named_parameters():
        if name == "conv_in.conv_temporal.weight":
            torch.nn.init.normal_(parameter, std=0.1)
    assert frames_seen(only, 2) == {1, 2, 3}


def test_the_image_model_of_an_inflated_unet_is_the_one_it_was_made_from():
    unet = inflate(tiny.unet(), FRAMES, temporal_conv=True)
    wake_time(unet)
    image = image_model(unet, ADDED)
    assert torch.equal(predict(image, *inputs()), predict(tiny.unet(), *inputs()))
    shared = {p.data_ptr() for p in unet.parameters()} & {p.data_ptr() for p in image.parameters()}
    queries = [name for name in tuned_parameters(unet) if "_temp" not in name]
    assert len(shared) == len(list(image.parameters())) - len(queries)
