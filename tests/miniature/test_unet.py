"""What the diffusion model learns from."""

import numpy as np
import torch
from diffusers import DDIMScheduler

from miniature import unet
from miniature.scenes import drawings, plain, random_scenes
from miniature.text import CONTEXT, build_tokenizer, tokenize


def test_half_of_the_pictures_are_plain_and_the_others_as_clips_are():
    scenes = unet.pictures(np.random.default_rng(0), 256)
    assert (scenes.count[:128] == 1).all() and not (scenes.count[128:] == 1).all()
    assert (scenes.wears[:128] < 0).all() and (scenes.front[:128] < 0).all() and (scenes.motion[:128] < 0).all()


def test_what_training_is_told_names_the_drawing_and_is_the_same_in_every_training():
    scenes = plain(np.random.default_rng(0), 512)
    told = unet.beyond_caption(scenes)
    torch.testing.assert_close(told, unet.beyond_caption(scenes), rtol=0, atol=0)
    torch.testing.assert_close(told[:100], unet.beyond_caption(scenes[:100]), rtol=0, atol=0)
    looks = {drawing: told[scenes.drawing[:, 0] == drawing, 0] for drawing in set(scenes.drawing[:, 0])}
    assert all((codes == codes[0]).all() for codes in looks.values())
    apart = torch.cdist(*(torch.stack([codes[0].float() for codes in looks.values()]),) * 2)
    assert len(looks) > 0.6 * len(drawings()) and apart[~torch.eye(len(looks), dtype=bool)].min() > 10


def test_a_drawing_is_told_alike_whichever_others_there_are(monkeypatch):
    scenes = unet.pictures(np.random.default_rng(1), 40)
    told, known = unet.beyond_caption(scenes), drawings()
    monkeypatch.setattr(unet, "drawings", lambda: known[1:])
    fewer = scenes.with_(drawing=scenes.drawing - 1)
    there = fewer.drawing[:, 0] >= 0
    torch.testing.assert_close(unet.beyond_caption(fewer)[there], told[there], rtol=0, atol=0)


def test_what_training_is_told_takes_the_place_of_padding_alone():
    captions = plain(np.random.default_rng(0), 64).captions()
    scenes = random_scenes(np.random.default_rng(1), 2000)
    captions += scenes[scenes.count == 1].captions()
    tokens = tokenize(build_tokenizer(), captions)
    end = tokens.max()
    assert (tokens[:, CONTEXT - 3 :] == end).all()


def test_times_are_drawn_where_an_object_takes_shape_and_reach_every_one():
    times = unet.timesteps(20000, torch.Generator().manual_seed(0))
    assert times.min() < 5 and times.max() == 999 and 600 < times.float().median() < 680


def test_noise_begins_as_stable_diffusion_s_and_reaches_every_picture_s_brightness():
    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    ours = unet.scheduler().alphas_cumprod
    odds = (ours / (1 - ours)).log()
    assert abs(odds[0] - (theirs[0] / (1 - theirs[0])).log()) < 0.1 and abs(odds[-1] - unet.NOISY) < 0.01
    falls = -odds.diff()
    assert (falls > 0).all() and falls[400:600].max() < falls[:100].min() and falls[400:600].max() < falls[900:].min()
