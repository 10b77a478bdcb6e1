"""What defines each peer method, and that none leaves a trace in the model."""

import shutil

import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    MotionAdapter,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from peers import PEERS, Sampling, own_settings
from peers._attention import decoder_layers, processors, transformer_blocks
from peers._ddim import encode, invert, noise_of, sample
from peers._settings import Share
from peers.fatezero import _Fusion, align
from peers.plug_and_play import injection
from peers.tokenflow import _PropagatedAttnProcessor
from peers.vidtome import _Chunk, _cut, _MergedAttnProcessor, match
from tav import load_pipeline
from tav.errors import InputError
from tav.model import ClipAttnProcessor
from tests import tiny

FRAMES = 4
CAPTION, PROMPT = "a square is moving", "a circle is moving"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pipe(model):
    pipe = load_pipeline(model, FRAMES, norm="frame", attention="own", temporal=False)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        pipe.unet.conv_out.weight *= 0.1  # a random model is no smooth function of time: calm it, so that it inverts
        # Random attention is nearly uniform: sharpen it, so that it matters what is attended to.
        for block in transformer_blocks(pipe.unet):
            for attention in (block.attn1, block.attn2):
                attention.to_q.weight *= 8
                attention.to_v.weight *= 8
    return pipe


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return str(tiny.save_motion_adapter(tmp_path_factory.mktemp("models") / "text-to-video"))


@pytest.fixture(scope="module")
def video_pipeline(tmp_path_factory):
    """A CogVideoX of nine frames of 16x32 pixels."""
    letters = [("▁", -1.0), *((letter, -1.0) for letter in "abcdefghijklmnopqrstuvwxyz")]
    tokenizer = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0)
    torch.manual_seed(0)
    text = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4,) * 4,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=16,
        num_layers=1,
        sample_width=4,
        sample_height=2,
        sample_frames=9,
    )
    folder = tmp_path_factory.mktemp("models") / "cogvideo"
    scheduler = CogVideoXDDIMScheduler()
    CogVideoXPipeline(tokenizer, T5EncoderModel(text), vae, transformer, scheduler).save_pretrained(folder)
    return str(folder)


def run(method, pipe, clip=None, caption=CAPTION, prompt=PROMPT, **settings):
    return next(run_all(method, pipe, [prompt], clip, caption, **settings))


def run_all(method, pipe, prompts, clip=None, caption=CAPTION, **settings):
    """The edits of a clip, one after the other."""
    common = {"steps": 4, "guidance_scale": 4.0, "seed": 0, "negative_prompt": ""}
    sampling = Sampling(**{name: settings.pop(name, value) for name, value in common.items()})
    clip = tiny.moving_square(FRAMES) if clip is None else clip
    return PEERS[method].edit(pipe, clip, caption, prompts, sampling, **settings)


def changed_frames(method, pipe, frame, **settings):
    """The frames of the edit that change with one frame of the clip."""
    clip = tiny.moving_square(FRAMES)
    other = clip.clone()
    other[frame] = -clip[frame]
    difference = (run(method, pipe, clip, **settings) - run(method, pipe, other, **settings)).abs().amax((1, 2, 3))
    return {index for index, value in enumerate(difference) if value > 1e-4}


def traces(pipe):
    """Everything of the UNet that a method may touch."""
    modules = list(pipe.unet.modules())
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), type(m), "forward" in vars(m)) for m in modules]
    attention = [id(processor) for processor in pipe.unet.attn_processors.values()]
    return hooks, attention, [parameter.clone() for parameter in pipe.unet.parameters()]


@pytest.mark.parametrize("method", PEERS)
def test_every_method_makes_the_same_frames_again_and_leaves_the_model_as_it_was(method, pipe, adapter):
    settings = {"negative_prompt": "the"} | ({"model": adapter} if method == "text-to-video" else {})
    hooks, attention, weights = traces(pipe)
    first, again = (run(method, pipe, **settings) for _ in range(2))
    assert first.shape == (FRAMES, 3, 32, 32)
    assert 0 <= first.min() < first.max() <= 1
    assert torch.equal(first, again)
    assert traces(pipe)[:2] == (hooks, attention)
    assert all(torch.equal(*pair) for pair in zip(weights, traces(pipe)[2], strict=True))


@pytest.mark.parametrize("method", [name for name in PEERS if name not in ("sdedit", "text-to-video")])
def test_a_method_that_fails_half_way_leaves_the_model_as_it_was(method, pipe):
    hooks, attention, _ = traces(pipe)
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 6:  # in sampling, after an inversion of four steps
            raise KeyboardInterrupt

    handle = pipe.unet.conv_out.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        run(method, pipe, torch.zeros(FRAMES, 3, 32, 32))  # of another clip no inversion is kept
    handle.remove()
    assert traces(pipe)[:2] == (hooks, attention)


@pytest.mark.parametrize("method", [name for name in PEERS if name != "text-to-video"])
def test_an_inflated_model_is_refused(method, model):
    image_model = {"norm": "frame", "attention": "own", "temporal": False}
    for inflation in ({"norm": "clip"}, {"attention": "first"}, {"temporal": True}):
        inflated = load_pipeline(model, FRAMES, **image_model | inflation)
        with pytest.raises(InputError, match="takes the image model"):
            run(method, inflated)


def test_a_signature_has_types_and_defaults_of_a_methods_own_settings():
    assert own_settings("sdedit") == {"strength": (Share, 0.5)}


@pytest.mark.parametrize("method", [name for name in PEERS if name not in ("sdedit", "text-to-video")])
def test_a_clip_is_inverted_once_whatever_the_prompts_and_an_edit_does_not_depend_on_those_before(method, pipe):
    calls = []
    handle = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    prompts = [PROMPT, "a the and", CAPTION]
    together, counts = [], []
    for frames in run_all(method, pipe, prompts):
        together.append(frames)
        counts.append(len(calls))
    handle.remove()
    assert counts[1] - counts[0] == counts[2] - counts[1] == counts[0] - 4
    for prompt, frames in zip(prompts, together, strict=True):
        assert torch.equal(frames, run(method, pipe, prompt=prompt))


def test_nothing_is_kept_with_the_pipeline(pipe, adapter):
    before = set(vars(pipe))
    for method in PEERS:
        run(method, pipe, **({"model": adapter} if method == "text-to-video" else {}))
    assert set(vars(pipe)) == before


def test_an_inversion_keeps_the_latents_of_every_timestep(pipe):
    latents = encode(pipe, tiny.moving_square(FRAMES))
    trajectory = invert(pipe, latents, 4, CAPTION)
    pipe.scheduler.set_timesteps(4)
    assert list(trajectory) == pipe.scheduler.timesteps.flip(0).tolist()
    assert torch.equal(noise_of(trajectory), pipe.invert(latents, 4, CAPTION))
    assert (trajectory[min(trajectory)] - latents).abs().mean() < (noise_of(trajectory) - latents).abs().mean()


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_sampling_beside_a_source_that_gives_nothing_is_the_pipelines_sampling(pipe, guidance_scale):
    source = invert(pipe, encode(pipe, tiny.moving_square(FRAMES)), 4, "")
    ours = sample(pipe, noise_of(source), PROMPT, Sampling(4, guidance_scale, 0, "the"), source=source)
    settings = {"guidance_scale": guidance_scale, "negative_prompt": "the", "output_type": "pt"}
    assert torch.allclose(ours, pipe(PROMPT, noise_of(source), 4, **settings).frames[0], atol=1e-5)


@pytest.mark.parametrize("method", ["plug-and-play", "tokenflow"])
@pytest.mark.parametrize("captioned", [True, False])
def test_the_source_runs_beside_its_edit_at_the_same_timestep_with_its_own_prompt(pipe, method, captioned):
    source = invert(pipe, encode(pipe, tiny.moving_square(FRAMES)), 4, CAPTION if captioned else "")
    prompts, seen = [CAPTION if captioned else "", "", PROMPT], []
    handle = pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(args))
    run(method, pipe, captioned_inversion=captioned)
    handle.remove()
    for latents, timestep, texts in seen[-4:]:  # after the inversion
        assert torch.equal(latents[:FRAMES], source[int(timestep)])
        for text, prompt in zip(texts.split(FRAMES), prompts, strict=True):
            assert torch.allclose(text, pipe.embed([prompt])[0].expand_as(text), atol=1e-6)


# per_frame


def test_per_frame_permutes_with_the_frames(pipe):
    clip, order = tiny.moving_square(FRAMES), [2, 0, 3, 1]
    assert torch.allclose(run("per-frame", pipe, clip[order]), run("per-frame", pipe, clip)[order], atol=1e-5)


def test_per_frame_inverts_with_the_caption_or_with_the_empty_prompt(pipe):
    empty = run("per-frame", pipe, captioned_inversion=False)
    assert torch.equal(empty, run("per-frame", pipe, caption="", captioned_inversion=True))
    assert not torch.allclose(empty, run("per-frame", pipe), atol=1e-4)


# sdedit


def test_sdedit_of_no_strength_is_the_vaes_reconstruction(pipe):
    clip = tiny.moving_square(FRAMES)
    assert torch.equal(run("sdedit", pipe, clip, strength=0), pipe.decode_clip(pipe.encode_clip(clip)))


def test_sdedit_of_full_strength_does_not_depend_on_the_source(pipe):
    clip = tiny.moving_square(FRAMES)
    full = run("sdedit", pipe, clip, strength=1)
    assert torch.equal(full, run("sdedit", pipe, -clip, strength=1))
    assert torch.allclose(full, full[:1].expand_as(full), atol=1e-5)  # every frame has the same noise
    assert not torch.equal(full, run("sdedit", pipe, clip, strength=1, seed=1))


def test_sdedit_keeps_less_of_the_source_the_stronger_it_is(pipe):
    clip = tiny.moving_square(FRAMES)
    reconstruction = pipe.decode_clip(pipe.encode_clip(clip))
    away = [(run("sdedit", pipe, clip, strength=s) - reconstruction).abs().mean() for s in (0.25, 0.5, 1)]
    assert 0 < away[0] < away[1] < away[2]


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_sdedit_refuses_a_strength_outside_zero_to_one(pipe, strength):
    with pytest.raises(InputError, match="use 0"):
        run("sdedit", pipe, strength=strength)


# plug_and_play


@pytest.mark.parametrize("captioned", [True, False])
def test_plug_and_play_with_nothing_injected_is_per_frame(pipe, captioned):
    nothing = {"feature_share": 0, "attention_share": 0, "captioned_inversion": captioned}
    alone = run("per-frame", pipe, captioned_inversion=captioned)
    assert torch.allclose(run("plug-and-play", pipe, **nothing), alone, atol=1e-5)
    for injected in ({"feature_share": 1}, {"attention_share": 1}):
        assert not torch.allclose(run("plug-and-play", pipe, **nothing | injected), alone, atol=1e-3)


def test_plug_and_play_of_the_source_caption_with_everything_injected_is_the_reconstruction(pipe):
    clip = tiny.moving_square(FRAMES)
    reconstruction = pipe.decode_clip(pipe.encode_clip(clip))
    settings = {"prompt": CAPTION, "guidance_scale": 1.0, "steps": 10, "captioned_inversion": True}
    everything = {"feature_share": 1, "attention_share": 1, "layer": 0}
    error = (run("plug-and-play", pipe, clip, **settings, **everything) - reconstruction).abs().mean()
    alone = (run("per-frame", pipe, clip, **settings) - reconstruction).abs().mean()
    assert error < alone


def test_injection_gives_every_clip_the_sources_features_queries_and_keys(pipe):
    layers = decoder_layers(pipe.unet)
    watched = {"features": layers[1][0].conv2, "query": layers[2][1][0].to_q, "key": layers[3][1][0].to_k}
    untouched = {"encoder": pipe.unet.down_blocks[0].resnets[0].conv2, "value": layers[2][1][0].to_v}

    def equal_to_source(done):
        found = {}

        def compare(name):
            return lambda _module, _args, output: found.update({name: torch.equal(output[:FRAMES], output[FRAMES:])})

        with injection(pipe.unet, done, feature_share=0.8, attention_share=0.5):
            handles = [m.register_forward_hook(compare(name)) for name, m in (watched | untouched).items()]
            with torch.no_grad():
                latents = torch.randn(2 * FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(0))
                pipe.unet(latents, 500, torch.zeros(2 * FRAMES, 77, tiny.TEXT_WIDTH))
            for handle in handles:
                handle.remove()
        return {name for name, equal in found.items() if equal}

    assert equal_to_source(0.4) == set(watched)
    assert equal_to_source(0.5) == {"features"}
    assert equal_to_source(0.8) == set()


def test_the_layers_are_the_papers_in_stable_diffusion(pipe):
    torch.manual_seed(0)
    unet = UNet2DConditionModel(block_out_channels=(8,) * 4, norm_num_groups=4, cross_attention_dim=8)
    layers = decoder_layers(unet)
    assert len(layers) == 12
    assert layers[len(layers) // 3][0] is unet.up_blocks[1].resnets[1]
    assert layers[4][1][0] is unet.up_blocks[1].attentions[1].transformer_blocks[0].attn1
    assert sum(len(attentions) for _, attentions in layers[4:]) == 8
    with pytest.raises(InputError, match="layers 0 to 3"):
        run("plug-and-play", pipe, layer=4)


# text2video_zero


def test_a_frame_depends_on_itself_and_the_first_one_only(pipe):
    assert changed_frames("text2video-zero", pipe, 2) == {2}
    assert changed_frames("text2video-zero", pipe, 0) == set(range(FRAMES))
    assert changed_frames("per-frame", pipe, 0) == {0}


# fatezero


def test_fusion_of_the_source_caption_reproduces_the_reconstruction(pipe):
    clip = tiny.moving_square(FRAMES)
    reconstruction = pipe.decode_clip(pipe.encode_clip(clip))
    settings = {"prompt": CAPTION, "guidance_scale": 1.0, "steps": 10}

    def error(share):
        frames = run("fatezero", pipe, clip, cross_share=share, self_share=share, **settings)
        return (frames - reconstruction).abs().mean()

    assert error(1.0) < 0.5 * error(0.0)


def test_without_fusion_maps_and_plain_attention_agree(pipe):
    nothing = {"cross_share": 0, "self_share": 0}
    by_maps = run("fatezero", pipe, **nothing)
    assert torch.allclose(run("fatezero", pipe, **nothing, max_tokens=0), by_maps, atol=1e-4)
    assert torch.allclose(run("fatezero", pipe, max_tokens=0), by_maps, atol=1e-4)  # nothing is kept
    assert not torch.allclose(run("fatezero", pipe), by_maps, atol=1e-3)


def test_a_fused_frame_depends_on_itself_and_the_middle_one_only(pipe):
    assert changed_frames("fatezero", pipe, 3) == {3}
    assert changed_frames("fatezero", pipe, 1) == set(range(FRAMES))


def test_the_threshold_decides_whose_self_attention_is_taken(pipe):
    self_only = {"cross_share": 0, "self_share": 1}
    unfused = run("fatezero", pipe, cross_share=0, self_share=0)
    assert torch.equal(run("fatezero", pipe, **self_only, threshold=-1), unfused)
    source = run("fatezero", pipe, **self_only, threshold=1)
    assert not torch.allclose(source, unfused, atol=1e-3)
    partly = run("fatezero", pipe, **self_only, threshold=0.9)
    assert not torch.allclose(partly, unfused, atol=1e-4) and not torch.allclose(partly, source, atol=1e-4)


def test_shared_words_are_aligned_and_replaced_ones_are_found(pipe):
    length = pipe.tokenizer.model_max_length
    same = align(pipe.tokenizer, CAPTION, CAPTION)
    assert same == (list(range(length)), list(range(length)), [])

    in_source, in_edit, replaced = align(pipe.tokenizer, "a in the and", "a and the")  # with start and end: 6 and 5
    assert replaced == [2, 4]
    assert list(zip(in_source, in_edit, strict=True))[:4] == [(0, 0), (1, 1), (3, 3), (5, 4)]
    assert (in_source[-1], in_edit[-1]) == (length - 1, length - 2)

    assert align(pipe.tokenizer, "in the", "and a in the")[2] == []  # words added: none replaced


def test_the_mask_is_where_the_source_attends_to_the_replaced_words(pipe):
    fusion = _Fusion(pipe.tokenizer, "a in the", "a and the", (8, 6), 0.3)
    attn = transformer_blocks(pipe.unet)[0].attn2
    maps = torch.zeros(FRAMES, attn.heads, 8, 6, 77)
    maps[..., 1] = 1.0  # a shared word
    maps[0, :, 4, 3, 2] = 0.2
    maps[1:, :, 0, 0, 2] = 0.5
    fusion.keep(attn, maps.flatten(2, 3).flatten(0, 1), False)
    mask = fusion.mask(48, attn.heads).view(FRAMES, attn.heads, 8, 6)
    expected = torch.zeros(FRAMES, 8, 6, dtype=torch.bool)
    expected[0, 3:6, 2:5] = True  # one place and its neighbours
    expected[1:, :2, :2] = True
    assert torch.equal(mask, expected[:, None].expand_as(mask))
    assert fusion.mask(12, attn.heads).shape == (FRAMES * attn.heads, 12, 1)


def test_shared_words_take_the_sources_map(pipe):
    fusion = _Fusion(pipe.tokenizer, "a in the and", "a and the", (8, 8), 0.3)
    fusion.start_step(fuses_cross=True, fuses_self=False)
    attn = transformer_blocks(pipe.unet)[0].attn2
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(attn.heads, 64, 77, generator=generator)
    fusion.keep(attn, source, False)
    maps = torch.rand(2 * attn.heads, 64, 77, generator=generator)  # of the negative prompt and of the edit prompt
    negative, edited = fusion.fuse(attn, maps, False).chunk(2)
    assert torch.equal(negative, maps[: attn.heads])
    assert torch.equal(edited[..., [0, 1, 3, 4, 5]], source[..., [0, 1, 3, 5, 6]])
    assert torch.equal(edited[..., 2], maps[attn.heads :, :, 2])  # the new word keeps its own


def test_the_source_is_shown_at_every_fused_step_as_in_its_inversion_and_one_step_of_maps_is_kept(pipe, monkeypatch):
    shown, kept = [], []
    handle = pipe.unet.register_forward_pre_hook(lambda _, args: shown.append(args))
    keep = _Fusion.keep
    monkeypatch.setattr(_Fusion, "keep", lambda self, *args: (keep(self, *args), kept.append(len(self.kept)))[0])
    run("fatezero", pipe, cross_share=0.5, self_share=0.25)
    handle.remove()
    inverted, sampled = shown[:4], shown[4:]
    source = [args for args in sampled if len(args[0]) == FRAMES]
    assert len(source) == 2 and len(sampled) == 6
    for (latents, timestep, _), (before, when, _) in zip(source, reversed(inverted), strict=False):
        assert int(timestep) == int(when) and torch.equal(latents, before)
    assert max(kept) == 2 * len(transformer_blocks(pipe.unet))


# tokenflow


def test_a_still_clip_stays_still(pipe):
    clip = tiny.moving_square(FRAMES)[:1].expand(FRAMES, -1, -1, -1)
    frames = run("tokenflow", pipe, clip, keyframe_interval=2)
    assert torch.allclose(frames, frames[:1].expand_as(frames), atol=1e-4)


def test_with_all_frames_keyframes_it_is_joint_attention(pipe):
    nothing = {"feature_share": 0, "attention_share": 0}
    noise = pipe.invert(encode(pipe, tiny.moving_square(FRAMES)), 4)
    joint = ClipAttnProcessor(FRAMES, "full")
    with processors({block.attn1: joint for block in transformer_blocks(pipe.unet)}):
        expected = pipe(PROMPT, noise, 4, guidance_scale=4.0, output_type="pt").frames[0]
    assert torch.allclose(run("tokenflow", pipe, keyframe_interval=1, **nothing), expected, atol=1e-4)
    assert not torch.allclose(run("tokenflow", pipe, keyframe_interval=2, **nothing), expected, atol=1e-3)


def test_the_source_attends_as_in_its_inversion(pipe):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3 * FRAMES, 4, 8, 8, generator=generator)
    texts = torch.randn(3 * FRAMES, 77, tiny.TEXT_WIDTH, generator=generator)
    propagated = _PropagatedAttnProcessor(FRAMES, [1])
    with torch.no_grad():
        alone = pipe.unet(latents[:FRAMES], 500, texts[:FRAMES]).sample
        with processors({block.attn1: propagated for block in transformer_blocks(pipe.unet)}):
            beside = pipe.unet(latents, 500, texts).sample[:FRAMES]
    assert torch.allclose(beside, alone, atol=1e-5)


def test_propagation_is_over_injection(pipe):
    nothing = {"feature_share": 0, "attention_share": 0, "keyframe_interval": 2}
    without = run("tokenflow", pipe, **nothing)
    for injected in ({"feature_share": 1}, {"attention_share": 1}):
        assert not torch.allclose(run("tokenflow", pipe, **nothing | injected), without, atol=1e-3)


def test_tokens_follow_the_sources_correspondence(pipe):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(9, 16, generator=generator)
    orders = [torch.randperm(9, generator=generator) for _ in range(6)]
    # Of other lengths, as only directions count.
    source = torch.stack([tokens[order] * (1 + frame) for frame, order in enumerate(orders)])
    edited = torch.randn(2, 2, 9, 4, generator=generator)  # of each clip's keyframes 1 and 4, in the order of `tokens`
    joint = torch.stack([edited[:, 0, orders[1]], edited[:, 1, orders[4]]], dim=1)
    carried = _PropagatedAttnProcessor(6, [1, 4])._propagate(source, joint)
    for frame, weight in enumerate([0, 0, 1 / 3, 2 / 3, 1, 1]):
        expected = (1 - weight) * edited[:, 0] + weight * edited[:, 1]
        assert torch.allclose(carried[:, frame], expected[:, orders[frame]], atol=1e-6)


def test_every_interval_has_one_keyframe_which_changes_from_step_to_step(pipe, monkeypatch):
    chosen = []
    build = _PropagatedAttnProcessor.__init__
    monkeypatch.setattr(
        _PropagatedAttnProcessor,
        "__init__",
        lambda self, num_frames, keyframes: (chosen.append(keyframes), build(self, num_frames, keyframes))[0],
    )
    run("tokenflow", pipe, keyframe_interval=3, steps=8)
    assert all(len(keyframes) == 2 and keyframes[0] in (0, 1, 2) and keyframes[1] == 3 for keyframes in chosen)
    assert len({keyframes[0] for keyframes in chosen}) > 1
    with pytest.raises(InputError, match="at least 1"):
        run("tokenflow", pipe, keyframe_interval=0)


# vidtome


def merged(pipe, chunks, hidden, local_share, global_share, fewest=0):
    """What the first self-attention makes of hidden states (b f) n c."""
    attention = transformer_blocks(pipe.unet)[0].attn1
    return _MergedAttnProcessor(FRAMES, chunks, local_share, global_share, fewest)(attention, hidden)


@pytest.fixture
def hidden(pipe):
    """Hidden states of three clips for the first self-attention."""
    width = transformer_blocks(pipe.unet)[0].attn1.to_q.in_features
    return torch.randn(3 * FRAMES, 9, width, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_with_nothing_merged_a_chunk_is_attended_to_jointly_and_with_the_one_before(pipe, hidden):
    attention = transformer_blocks(pipe.unet)[0].attn1
    expected = ClipAttnProcessor(FRAMES, "full")(attention, hidden)
    whole = [_Chunk([0, 1, 2, 3], 1, True)]
    assert torch.allclose(merged(pipe, whole, hidden, 0, 0), expected, atol=1e-5)
    assert not torch.allclose(merged(pipe, whole, hidden, 0.5, 0), expected, atol=1e-3)
    halves = merged(pipe, [_Chunk([0, 1], 0, True), _Chunk([2, 3], 0, False)], hidden, 0, 0)
    second = torch.cat([part[2:] for part in expected.split(FRAMES)])
    assert torch.allclose(torch.cat([part[2:] for part in halves.split(FRAMES)]), second, atol=1e-5)
    assert not torch.allclose(halves, expected, atol=1e-3)  # the first has none before it


@torch.no_grad()
def test_with_everything_merged_all_frames_are_what_one_frame_is(pipe, hidden):
    chunks = [_Chunk([0, 1], 1, True), _Chunk([2, 3], 0, True)]
    generator = torch.Generator().manual_seed(1)
    shuffled = torch.stack([hidden[0, torch.randperm(9, generator=generator)] for _ in range(FRAMES)]).repeat(3, 1, 1)
    alone = AttnProcessor2_0()(transformer_blocks(pipe.unet)[0].attn1, shuffled)
    assert torch.allclose(merged(pipe, chunks, shuffled, 1, 1), alone, atol=1e-5)


@torch.no_grad()
def test_coarse_levels_attend_frame_by_frame(pipe, hidden):
    alone = AttnProcessor2_0()(transformer_blocks(pipe.unet)[0].attn1, hidden)
    whole = [_Chunk([0, 1, 2, 3], 0, True)]
    assert torch.equal(merged(pipe, whole, hidden, 0.5, 0.5, fewest=10), alone)
    assert not torch.allclose(merged(pipe, whole, hidden, 0.5, 0.5, fewest=9), alone, atol=1e-3)


def test_the_likest_tokens_give_way_to_what_they_are_like_in_any_clip():
    axes = torch.eye(4)
    tokens = torch.stack([axes[0], axes[1], 3 * axes[1], axes[2] + 0.1 * axes[0], axes[3], axes[0]])
    stays = torch.tensor([True, True, False, False, False, False])
    keep, place = match(tokens[None], stays, 0.5)
    assert keep.tolist() == [3, 4, 0, 1] and place.tolist() == [2, 3, 3, 0, 1, 2]
    other = tokens.clone()
    other[4] = axes[1] - 1e-3 * axes[0]  # only in a second clip is it like one that stays
    keep, place = match(torch.stack([tokens, other]), stays, 0.75)
    assert keep.tolist() == [3, 0, 1] and place.tolist() == [1, 2, 2, 0, 2, 1]
    assert all(part.tolist() == list(range(6)) for part in match(tokens[None], stays, 0))


def test_chunks_cover_the_clip_once_and_change_from_step_to_step():
    generator = torch.Generator().manual_seed(0)
    cuts = [list(_cut(10, 4, generator)) for _ in range(40)]
    for chunks in cuts:
        assert sorted(frame for chunk in chunks for frame in chunk.frames) == list(range(10))
        assert all(len(chunk.frames) <= 4 and 0 <= chunk.target < len(chunk.frames) for chunk in chunks)
    assert {len(min(chunks).frames) for chunks in cuts} == {1, 2, 3, 4}
    assert {chunks[0].frames[0] == 0 for chunks in cuts} == {True, False}
    assert {len(_chunks) for _chunks in ([*_cut(3, 4, generator)] for _ in range(20))} <= {1, 2}


def test_merging_is_over_injection(pipe):
    nothing = {"feature_share": 0, "attention_share": 0}
    without = run("vidtome", pipe, **nothing)
    for injected in ({"feature_share": 1}, {"attention_share": 1}):
        assert not torch.allclose(run("vidtome", pipe, **nothing | injected), without, atol=1e-3)


# text_to_video


@pytest.mark.parametrize("kind", ["adapter", "video_pipeline"])
def test_text_to_video_depends_on_text_and_seed_and_not_on_the_clip(pipe, kind, request):
    settings = {"model": request.getfixturevalue(kind), "steps": 2}
    clip = tiny.moving_square(FRAMES)
    frames = run("text-to-video", pipe, clip, **settings)
    assert torch.equal(frames, run("text-to-video", pipe, -clip, caption="the", **settings))
    assert not torch.equal(frames, run("text-to-video", pipe, clip, seed=1, **settings))
    assert not torch.equal(frames, run("text-to-video", pipe, clip, prompt="a the and", **settings))


def test_text_to_video_is_what_the_stock_pipelines_sample(pipe, adapter, video_pipeline):
    parts = {name: pipe.components[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    animate = AnimateDiffPipeline(**parts, motion_adapter=MotionAdapter.from_pretrained(adapter))
    settings = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "pt"}
    expected = animate(PROMPT, FRAMES, 32, 32, generator=torch.Generator().manual_seed(0), **settings).frames[0]
    assert torch.allclose(run("text-to-video", pipe, model=adapter, steps=2), expected, atol=1e-5)

    video = CogVideoXPipeline.from_pretrained(video_pipeline)
    expected = video(PROMPT, generator=torch.Generator().manual_seed(0), **settings).frames[0]
    frames = run("text-to-video", pipe, torch.zeros(FRAMES, 3, 16, 16), model=video_pipeline, steps=2)
    assert torch.allclose(frames, expected[:FRAMES, ..., 8:24], atol=1e-5)  # the middle of 16x32


def test_frames_of_text_to_video_have_the_clips_size(pipe, adapter, video_pipeline):
    clip = torch.zeros(FRAMES, 3, 24, 32)
    assert run("text-to-video", pipe, clip, model=adapter, steps=1).shape == (FRAMES, 3, 24, 32)
    assert run("text-to-video", pipe, clip, model=video_pipeline, steps=1).shape == (FRAMES, 3, 24, 32)


@pytest.mark.parametrize(("kind", "longest"), [("adapter", 6), ("video_pipeline", 9)])
def test_text_to_video_refuses_a_clip_that_is_too_long(pipe, kind, longest, request):
    model = request.getfixturevalue(kind)
    with pytest.raises(InputError, match=f"makes {longest} frames and the clip has 10: shorten"):
        run("text-to-video", pipe, torch.zeros(10, 3, 16, 16), model=model, steps=1)


def test_a_text_to_video_model_is_loaded_once_for_all_edits(pipe, adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "first")
    drawn = run_all("text-to-video", pipe, [PROMPT, "the"], model=str(tmp_path / "first"), steps=2)
    next(drawn)
    shutil.rmtree(tmp_path / "first")
    assert torch.equal(next(drawn), run("text-to-video", pipe, prompt="the", model=adapter, steps=2))


def test_text_to_video_without_a_model_says_what_to_give(pipe, tmp_path):
    for model in (tmp_path, tmp_path / "missing", "models/missing/text-to-video"):
        with pytest.raises(InputError, match="cannot load .*give a motion adapter or a text-to-video model"):
            run("text-to-video", pipe, model=str(model))
