"""One-shot tuning: what moves, what is drawn, what a stopped run keeps."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from tav import load_pipeline, load_tuned, save_tuned, tune, tuned_parameters
from tav.errors import InputError, NumericalError
from tav.options import recomputing
from tests import tiny

CAPTION = "a square is moving"
SETTINGS = {"learning_rate": 1e-3, "steps": 4, "seed": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def pipe(folder):
    return load_pipeline(folder, num_frames=4)


def weights(pipe):
    return {name: p.detach().clone() for name, p in tuned_parameters(pipe.unet).items()}


def tuned(folder, clip=None, load=None, **settings):
    """Losses and weights of a new run."""
    pipe = load_pipeline(folder, num_frames=4, **(load or {}))
    clip = tiny.moving_square() if clip is None else clip
    losses = [loss for _, loss in tune(pipe, clip, CAPTION, **(SETTINGS | settings))]
    return losses, weights(pipe)


def same(first, second):
    return first[0] == second[0] and all(torch.equal(second[1][name], weight) for name, weight in first[1].items())


def test_every_tuned_parameter_moves_and_nothing_else(pipe):
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    steps = [step for step, _ in tune(pipe, tiny.moving_square(), CAPTION, **SETTINGS)]
    moved = {name for name, tensor in pipe.unet.state_dict().items() if not torch.equal(tensor, before[name])}
    assert steps == [1, 2, 3, 4]
    assert moved == tuned_parameters(pipe.unet).keys()


@pytest.mark.parametrize("part", ["queries", "temporal", "everything"])
def test_a_part_of_what_is_tuned_can_be_tuned_alone_or_the_image_model_with_it(pipe, part):
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    list(tune(pipe, tiny.moving_square(), CAPTION, tuned=part, **SETTINGS))
    moved = {name for name, tensor in pipe.unet.state_dict().items() if not torch.equal(tensor, before[name])}
    names = tuned_parameters(pipe.unet).keys()
    temporal = {name for name in names if ".attn_temp." in name}
    assert moved == {"queries": names - temporal, "temporal": temporal, "everything": before.keys()}[part]
    assert {name for name, p in pipe.unet.named_parameters() if p.requires_grad} == names


def test_the_loss_of_a_draw_falls(pipe):
    torch.manual_seed(0)
    noise = torch.randn(4, 4, 8, 8)
    steps = tune(pipe, tiny.moving_square(), CAPTION, steps=30, learning_rate=3e-3, draws=[(None, noise, 300)] * 30)
    losses = [loss for _, loss in steps]
    assert losses[-1] < 0.9 * losses[0]


def test_a_seed_fixes_every_byte_and_another_seed_changes_them(folder):
    assert same(tuned(folder), tuned(folder))
    assert not same(tuned(folder), tuned(folder, seed=6))


def test_a_posterior_stands_for_its_clip(folder):
    posterior = load_pipeline(folder, num_frames=4).encode_posterior(tiny.moving_square())
    assert same(tuned(folder, clip=posterior), tuned(folder))


def test_each_step_samples_the_posterior_anew(pipe):
    posterior = pipe.encode_posterior(tiny.moving_square())
    torch.manual_seed(0)
    noise = torch.randn(4, 4, 8, 8)
    draws = [(None, noise, 10), (torch.zeros_like(noise), noise, 10), (torch.ones_like(noise), noise, 10)]
    mode, zero, one = (
        next(tune(load, posterior, CAPTION, draws=[draw]))[1] for load, draw in zip([pipe] * 3, draws, strict=True)
    )
    assert mode != one
    assert zero != one


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_is_the_error_of_what_the_model_predicts(tmp_path, prediction_type):
    pipe = load_pipeline(tiny.save_model(tmp_path, prediction_type, **tiny.SD2), num_frames=4)
    clip, timestep = tiny.moving_square(), torch.tensor([250])
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    latents = pipe.encode_clip(clip)
    alpha = pipe.scheduler.alphas_cumprod[250]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    target = noise if prediction_type == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    with torch.no_grad():
        expected = F.mse_loss(pipe.unet(noisy, timestep, pipe.embed([CAPTION])[0].expand(4, -1, -1)).sample, target)
    [(_, loss)] = tune(pipe, clip, CAPTION, steps=1, draws=[(None, noise, timestep)])
    assert loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"mixed_precision": "bf16"}, {"tuned": "everything"}])
@pytest.mark.parametrize("recompute", ["lean", "feed-forward", "full"])
def test_what_is_computed_again_in_backward_changes_no_bit(folder, recompute, options):
    assert same(tuned(folder, recompute="none", **options), tuned(folder, recompute=recompute, **options))


def test_checkpointing_computes_whole_blocks_again(folder):
    assert same(tuned(folder, recompute="none"), tuned(folder, gradient_checkpointing=True))


def test_backward_keeps_less_the_more_is_computed_again(pipe):
    noisy, text = torch.randn(4, 4, 8, 8), torch.randn(4, 5, tiny.TEXT_WIDTH)
    sizes = {}
    for recompute in ("none", "lean", "feed-forward", "full"):
        kept = {}  # by their storage: two operations may keep the same tensor
        weights = {parameter.untyped_storage().data_ptr() for parameter in pipe.unet.parameters()}

        def keep(tensor, kept=kept, weights=weights):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage
            return tensor

        with recomputing(pipe.unet, recompute), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            pipe.unet(noisy, 5, text).sample.sum()
        sizes[recompute] = sum(storage.nbytes() for storage in kept.values())
    assert sizes["none"] > 1.25 * sizes["lean"] and sizes["lean"] > sizes["feed-forward"] > 2 * sizes["full"], sizes


def test_down_blocks_can_be_left_alone(folder):
    before, (_, after) = weights(load_pipeline(folder, num_frames=4)), tuned(folder, tune_down_blocks=False)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if not name.startswith("down_blocks.")}


def test_afterwards_the_tuned_parameters_are_as_trainable_as_before(pipe):
    list(tune(pipe, tiny.moving_square(), CAPTION, **SETTINGS | {"tune_down_blocks": False}))
    assert all(p.requires_grad and p.grad is None for p in tuned_parameters(pipe.unet).values())


def test_a_stopped_run_resumes_to_the_same_bytes(folder, tmp_path):
    whole = tuned(folder)
    state = tmp_path / "state.safetensors"
    pipe = load_pipeline(folder, num_frames=4)
    for step, _ in tune(pipe, tiny.moving_square(), CAPTION, state=state, save_every=2, **SETTINGS):
        if step == 3:  # after the state of step 2, before that of step 4
            break
    assert load_file(state)["losses"].tolist() == whole[0][:2]
    assert same(tuned(folder, state=state), whole)


def test_a_run_that_tunes_everything_resumes_to_the_same_bytes_in_the_layout_of_the_stages(folder, tmp_path):
    def run(last=4, **settings):
        pipe = load_pipeline(folder, num_frames=4)
        pipe.unet.to(memory_format=torch.channels_last)
        for step, _ in tune(pipe, tiny.moving_square(), CAPTION, tuned="everything", **SETTINGS, **settings):
            if step == last:
                break
        return pipe.unet.state_dict()

    whole, state = run(), {"state": tmp_path / "state.safetensors", "save_every": 2}
    run(3, **state)
    resumed = run(**state)
    assert all(torch.equal(weight, whole[name]) for name, weight in resumed.items())


def test_given_draws_are_resumed_where_they_were_left(folder, tmp_path):
    generator = torch.Generator().manual_seed(1)
    draws = [(None, torch.randn(4, 4, 8, 8, generator=generator), 100 * k) for k in range(1, 5)]
    state = tmp_path / "state.safetensors"
    tuned(folder, steps=2, draws=draws, state=state, save_every=2)
    assert same(tuned(folder, draws=draws, state=state), tuned(folder, draws=draws))


def test_the_state_of_another_run_is_refused(folder, tmp_path):
    state = tmp_path / "state.safetensors"
    tuned(folder, state=state, save_every=2)
    with pytest.raises(InputError, match="the state of another run"):
        tuned(folder, state=state, seed=6)
    with pytest.raises(InputError, match="the state of another run"):
        tuned(folder, state=state, clip=-tiny.moving_square())
    with pytest.raises(InputError, match="has 4 steps behind it and 3 are wanted"):
        tuned(folder, state=state, steps=3)


def test_a_loss_that_is_not_a_number_ends_the_run_in_one_line(folder):
    with pytest.raises(NumericalError, match="lower the learning rate") as error:
        tuned(folder, clip=torch.full((4, 3, 32, 32), float("nan")))
    assert "\n" not in str(error.value)


def test_a_gradient_that_is_not_finite_ends_the_run_before_a_step_is_taken_with_it(folder):
    with pytest.raises(NumericalError, match="lower prior_preservation or the learning rate"):
        tuned(folder, prior_preservation=1e30)


def test_bfloat16_keeps_the_tuned_weights_in_float32(folder):
    losses, after = tuned(folder, mixed_precision="bf16")
    exact, _ = tuned(folder)
    assert losses == pytest.approx(exact, rel=0.02)
    assert {weight.dtype for weight in after.values()} == {torch.float32}


def test_a_half_precision_model_needs_mixed_precision(folder):
    with pytest.raises(InputError, match="mixed_precision"):
        tuned(folder, load={"dtype": torch.bfloat16})
    losses, after = tuned(folder, load={"dtype": torch.bfloat16}, mixed_precision="bf16")
    assert len(losses) == 4
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}


def test_tuned_weights_are_saved_alone_and_loaded_again(folder, pipe, tmp_path):
    list(tune(pipe, tiny.moving_square(), CAPTION, **SETTINGS))
    save_tuned(pipe, tmp_path / "tuned.safetensors")
    assert load_file(tmp_path / "tuned.safetensors").keys() == tuned_parameters(pipe.unet).keys()
    other = load_pipeline(folder, num_frames=4)
    load_tuned(other, tmp_path / "tuned.safetensors")
    assert all(torch.equal(weights(other)[name], weight) for name, weight in weights(pipe).items())


def test_tuned_weights_of_another_inflation_are_refused(folder, pipe, tmp_path):
    save_tuned(pipe, tmp_path / "tuned.safetensors")
    with pytest.raises(InputError, match="another model or inflation"):
        load_tuned(load_pipeline(folder, num_frames=4, temporal=False), tmp_path / "tuned.safetensors")


def test_missing_tuned_weights_are_named(pipe, tmp_path):
    with pytest.raises(InputError, match="nowhere.safetensors"):
        load_tuned(pipe, tmp_path / "nowhere.safetensors")


def test_prior_preservation_adds_how_far_the_first_frame_is_from_the_image_models(folder):
    """At the first step it adds nothing: the first frame reads only itself, as in the image model."""
    image = {"norm": "frame"}
    plain, kept = (tuned(folder, load=image, prior_preservation=weight) for weight in (0.0, 10.0))
    assert kept[0][0] == pytest.approx(plain[0][0], rel=1e-5)
    assert all(more > less for more, less in zip(kept[0][2:], plain[0][2:], strict=True))
    assert not same(plain, kept)


def test_prior_preservation_resumes_to_the_same_bytes(folder, tmp_path):
    settings = {"prior_preservation": 1.0, "state": tmp_path / "state.safetensors", "save_every": 2}
    pipe = load_pipeline(folder, num_frames=4)
    for step, _ in tune(pipe, tiny.moving_square(), CAPTION, **SETTINGS, **settings):
        if step == 2:
            break
    assert same(tuned(folder, **settings), tuned(folder, prior_preservation=1.0))


def test_convolutions_over_time_are_tuned_and_kept_in_the_file_of_tuned_weights(folder, tmp_path):
    pipe = load_pipeline(folder, num_frames=4, temporal_conv=True)
    before = weights(pipe)
    list(tune(pipe, tiny.moving_square(), CAPTION, **SETTINGS))
    assert all(not torch.equal(weight, before[name]) for name, weight in weights(pipe).items())
    save_tuned(pipe, tmp_path / "tuned.safetensors")
    again = load_pipeline(folder, num_frames=4, temporal_conv=True)
    load_tuned(again, tmp_path / "tuned.safetensors")
    assert all(torch.equal(weight, weights(pipe)[name]) for name, weight in weights(again).items())
    with pytest.raises(InputError, match="another model or inflation"):
        load_tuned(load_pipeline(folder, num_frames=4), tmp_path / "tuned.safetensors")


def test_frozen_weights_in_bfloat16_are_tuned_in_mixed_precision(folder):
    losses, changed = tuned(folder, load={"dtype": torch.bfloat16}, mixed_precision="bf16")
    assert losses == pytest.approx(tuned(folder)[0], rel=0.05)
    assert {weight.dtype for weight in changed.values()} == {torch.bfloat16}
