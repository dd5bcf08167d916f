"""One training step of the generator: what it sees of a condition, what it counts, and that it learns."""

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learners import (
    CODES,
    LENGTH,
    SCALES,
    SMALL,
    Codes,
    batch_of,
    brief,
    make_task,
    prompted,
    save_vqvae,
    token_sample,
    vqvae_config,
)
from PIL import Image

from sar3d import hub
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions.condition import Condition, PooledStatistics
from sar3d.errors import UserError
from sar3d.seeds import SampleKey
from sar3d.tasks.ar.config import ARTaskConfig, ConditionDropoutConfig, ProgressiveConfig, model_config
from sar3d.tasks.ar.evaluate import GenerationSets
from sar3d.tasks.ar.likelihood import likelihood, next_inputs
from sar3d.tasks.ar.task import ARTask, FrozenVQVAE, decays
from sar3d.training.fit import fit, start
from sar3d.training.settings import TrainSettings
from sar3d.training.step import train_step
from sar3d.training.task import Alone
from sar3d.vqvae.model import VQVAE
from sar3d.vqvae.quantizer import unpack


@pytest.fixture(scope="module")
def vqvae(tmp_path_factory: pytest.TempPathFactory) -> FrozenVQVAE:
    return save_vqvae(tmp_path_factory.mktemp("vqvae"))


def emptied(task: ARTask, samples: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of many samples lost their pooled vector, and which their tokens."""
    made = task.collate([token_sample(0)] * samples, 3, [SampleKey(0, 3, n) for n in range(samples)])
    return (made.pooled == task.empty.pooled).all(1), (made.condition == task.empty.tokens).flatten(1).all(1)


def test_dropped_conditions_are_empty_as_a_whole_unless_asked_for_otherwise(vqvae: FrozenVQVAE) -> None:
    pooled, tokens = emptied(make_task(vqvae, dropout=ConditionDropoutConfig(p=0.3)))
    assert torch.equal(pooled, tokens)
    assert 0.24 < pooled.float().mean() < 0.36
    pooled, tokens = emptied(make_task(vqvae, dropout=ConditionDropoutConfig(p=0.3, kind="published")))
    assert 0.24 < pooled.float().mean() < 0.36
    assert 0.24 < tokens.float().mean() < 0.36
    assert 0.04 < (pooled & tokens).float().mean() < 0.14
    pooled, tokens = emptied(make_task(vqvae, dropout=ConditionDropoutConfig(p=0.0)))
    assert not (pooled | tokens).any()
    with pytest.raises(UserError, match=r"dropout\.p"):
        ConditionDropoutConfig(p=1.0)


def test_a_batch_depends_on_its_keys_alone(vqvae: FrozenVQVAE) -> None:
    task = make_task(vqvae, dropout=ConditionDropoutConfig(p=0.5))
    together, again, other = batch_of(task, 8), batch_of(task, 8), batch_of(task, 8, step=1)
    alone = task.collate([token_sample(5)], 0, [SampleKey(0, 0, 5)])
    for name in ("tokens", "condition", "pooled", "drop"):
        assert torch.equal(getattr(together, name), getattr(again, name))
        assert torch.equal(getattr(together, name)[5], getattr(alone, name)[0])
    assert not torch.equal(together.drop, other.drop)
    assert together.drop.shape == (8, 2, 3)


def test_losses_are_those_of_the_definition(vqvae: FrozenVQVAE) -> None:
    task = make_task(vqvae)
    torch.manual_seed(0)
    model, batch = task.build(), batch_of(task, 3)
    found = task.losses(model, batch, 0)
    quantizer = vqvae.load("cpu").quantizer
    inputs = quantizer.next_inputs(unpack(batch.tokens, SCALES))
    logits = model(inputs, Condition(batch.condition.float(), batch.pooled.float()), drop=batch.drop)
    chosen = logits.log_softmax(-1).gather(-1, batch.tokens[..., None])[..., 0]
    torch.testing.assert_close(found.total, -chosen.mean())
    assert found.total.dtype == torch.float32
    for side, part in zip(SCALES, chosen.split([3, 12, 48], 1), strict=True):
        torch.testing.assert_close(found.metrics[f"ce/scale_{side}"], -part.mean())
    right = (logits.argmax(-1) == batch.tokens).float()
    torch.testing.assert_close(found.metrics["accuracy"], right.mean())
    torch.testing.assert_close(found.metrics["accuracy/scale_4"], right[:, 15:].mean())


def test_short_steps_compute_the_first_scales_exactly(vqvae: FrozenVQVAE) -> None:
    task = make_task(vqvae, progressive=ProgressiveConfig(scales=2, full_every=4))
    assert [task.scales_at(step) for step in range(8)] == [2, 2, 2, 3, 2, 2, 2, 3]
    assert [make_task(vqvae).scales_at(step) for step in range(3)] == [3, 3, 3]
    quantizer, tokens = vqvae.load("cpu").quantizer, torch.stack([token_sample(n).tokens for n in range(2)])
    whole = next_inputs(quantizer, tokens)
    for scales in (1, 2):
        torch.testing.assert_close(next_inputs(quantizer, tokens, scales), whole[:, : (0, 12)[scales - 1]])
    torch.manual_seed(0)
    model, batch = task.build(), batch_of(task)
    short, all_ = task.losses(model, batch, 0), task.losses(model, batch, 3)
    torch.testing.assert_close(short.metrics["ce/scale_2"], all_.metrics["ce/scale_2"])
    assert "ce/scale_4" not in short.metrics
    speeds = [made.speed(10, TrainSettings(), torch.device("cpu"), 1) for made in (task, make_task(vqvae))]
    assert speeds == [{"tokens_per_second": 10 * (15 * 3 + 63) / 4}, {"tokens_per_second": 630.0}]
    sequential = make_task(vqvae, progressive=ProgressiveConfig(scales=1), model=replace(SMALL, sequential_scales=2))
    sequential.speed(10, TrainSettings(), torch.device("cpu"), 1)
    assert "ce/scale_2" not in sequential.losses(sequential.build(), batch_of(sequential), 0).metrics
    with pytest.raises(UserError, match="3 scales"):
        make_task(vqvae, progressive=ProgressiveConfig(scales=4))
    with pytest.raises(UserError, match="full_every"):
        ProgressiveConfig(full_every=0)


def test_attention_by_choice_agrees(vqvae: FrozenVQVAE) -> None:
    losses, gradients = [], []
    for kind in ("dense", "scales"):
        task = make_task(vqvae, attention=kind)
        torch.manual_seed(0)
        model = task.build()
        loss = task.losses(model, batch_of(task), 0).total
        loss.backward()
        losses.append(loss.detach())
        gradients.append(model.blocks[0].self_attn.qkv.weight.grad)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_a_standardized_start_sees_conditions_of_mean_zero_and_deviation_one(vqvae: FrozenVQVAE) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = make_task(vqvae)
    vectors = torch.randn(40, plain.model_config.pooled_dim, generator=generator) * 0.02 + 0.3
    statistics = PooledStatistics.of(vectors)
    built = []
    for kind in ("published", "standardized"):
        task = make_task(vqvae, pooled_start=kind)
        torch.manual_seed(0)
        built.append(ARTask(task.config, task.model_config, vqvae, task.encoder, task.empty, statistics).build())
    tokens = torch.zeros(40, 1, plain.model_config.context_dim)
    normal = (vectors - vectors.mean(0)) / (vectors - vectors.mean(0)).square().mean().sqrt()
    expected = built[0].condition_vector(Condition(tokens, normal))
    torch.testing.assert_close(built[1].condition_vector(Condition(tokens, vectors)), expected, atol=1e-4, rtol=1e-4)
    assert expected.std(0).mean() > 10 * built[0].condition_vector(Condition(tokens, vectors)).std(0).mean()


def test_statistics_of_equal_vectors_scale_nothing() -> None:
    found = PooledStatistics.of([torch.full((3,), 0.5)] * 4)
    assert found.deviation == 1.0
    assert torch.equal(found.mean, torch.full((3,), 0.5))


def test_weight_decay_spares_biases_gains_and_places(vqvae: FrozenVQVAE) -> None:
    task = make_task(vqvae, lr=0.5, weight_decay=0.05)
    model = task.build()
    groups = task.parameter_groups(model)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    assert {group["lr"] for group in groups} == {0.5}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    spared = {name for name, p in model.named_parameters() if decay[id(p)] == 0}
    assert {
        "start_embed",
        "pos_embed",
        "scale_embed",
        "blocks.0.self_attn.log_temperature",
        "blocks.0.mlp.0.bias",
    } <= spared
    assert {"plane_embed", "token_in.weight", "head.linear.weight", "blocks.1.mlp.0.weight"}.isdisjoint(spared)
    assert all(decays(name, p) == (decay[id(p)] > 0) for name, p in model.named_parameters())


def test_codes_of_another_vqvae_are_refused(vqvae: FrozenVQVAE, tmp_path: Path) -> None:
    other = save_vqvae(tmp_path, seed=1)
    wrong = FrozenVQVAE(other.folder, vqvae.digest)
    with pytest.raises(UserError, match="cache the tokens again") as caught:
        make_task(wrong).build()
    assert "\n" not in str(caught.value)


def test_settings_that_do_not_fit_are_one_sentence() -> None:
    with pytest.raises(UserError, match="which 5 heads do not divide"):
        replace(SMALL, heads=5)
    with pytest.raises(UserError, match="sequential_scales is 4"):
        model_config(ARTaskConfig(model=replace(SMALL, sequential_scales=4)), "text", vqvae_config(), 8, 8)


def test_bf16_reaches_neither_quantizer_nor_loss(vqvae: FrozenVQVAE) -> None:
    task, settings = make_task(vqvae), TrainSettings(steps=1, batch=2, precision="bf16")
    state = start(task, settings)
    seen: dict[str, torch.dtype] = {}
    state.model.blocks[0].mlp[0].register_forward_hook(lambda m, i, out: seen.update(mlp=out.dtype))
    state.model.register_forward_pre_hook(lambda m, inputs: seen.update(inputs=inputs[0].dtype))
    _, metrics = train_step(state, [batch_of(task)])
    assert seen == {"mlp": torch.bfloat16, "inputs": torch.float32}
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    assert torch.as_tensor(metrics["loss"]).dtype == torch.float32


def test_the_task_travels_to_workers(vqvae: FrozenVQVAE) -> None:
    task = make_task(vqvae)
    torch.manual_seed(0)
    before = task.losses(task.build(), batch_of(task), 0).total
    again = pickle.loads(pickle.dumps(task))
    torch.manual_seed(0)
    torch.testing.assert_close(again.losses(again.build(), batch_of(again), 0).total, before)


@pytest.fixture(scope="module")
def learned(vqvae: FrozenVQVAE) -> tuple[ARTask, ARTransformer, list[dict[str, float]]]:
    """A model that knows six objects by heart, with and without their prompts."""
    task = make_task(vqvae, dropout=ConditionDropoutConfig(p=0.25))
    logged: list[dict[str, float]] = []
    model = fit(task, Codes(6), brief(120, 6), lambda step, metrics: logged.append(metrics))
    assert isinstance(model, ARTransformer)
    return task, model.eval(), logged


@torch.no_grad()
def expected(task: ARTask, model: ARTransformer, condition: Condition, tokens: torch.Tensor) -> dict[str, float]:
    logits = model(next_inputs(task.vqvae.load("cpu").quantizer, tokens), condition)
    found = likelihood(logits, tokens, SCALES)
    return {"loss": float(found.loss), **{name: float(value) for name, value in found.metrics.items()}}


def test_training_learns_objects_by_their_prompts(learned: Any) -> None:
    task, model, logged = learned
    assert logged[0]["ce/scale_1"] > 1
    batch = make_task(task.vqvae, dropout=ConditionDropoutConfig(p=0.0)).collate(
        [token_sample(n) for n in range(6)], 0, [SampleKey(0, 0, n) for n in range(6)]
    )
    known = expected(task, model, Condition(batch.condition.float(), batch.pooled.float()), batch.tokens)
    assert known["accuracy"] > 0.97
    # Swapped prompts tell of other objects: the first scale follows the prompt alone.
    swapped = Condition(batch.condition.float().roll(1, 0), batch.pooled.float().roll(1, 0))
    assert expected(task, model, swapped, batch.tokens)["accuracy/scale_1"] < 0.5


def test_the_unconditional_branch_knows_the_objects_but_not_which(learned: Any) -> None:
    task, model, _ = learned
    tokens = torch.stack([token_sample(n).tokens for n in range(6)])
    empty = Condition(task.empty.tokens.float(), task.empty.pooled.float()).expand(6)
    found = expected(task, model, empty, tokens)
    untrained = np.log(CODES)
    assert found["ce/scale_4"] < 0.3 * untrained
    assert found["accuracy/scale_1"] < 0.7


def test_evaluation_tells_whether_the_right_object_came(learned: Any) -> None:
    task, model, _ = learned
    tokenizer = task.vqvae.load("cpu")
    assert isinstance(tokenizer, VQVAE)
    objects = [prompted(tokenizer, n, elevation=10 + n) for n in range(6)]
    found = task.evaluate(model, GenerationSets({"known": objects}, task.config.decoding, side=16), Alone())
    assert found["known/nearest_truth"] == found["known/nearest_reconstruction"] == 1
    assert found["known/psnr_reconstruction"] > 25
    assert found["known/psnr_truth"] > 25
    assert found["known/accuracy"] > 0.97
    assert found["known/ce/scale_1"] < 0.3
    assert found["known/reconstruction_psnr"] > 50  # true views are the codes' own rendering here
    strangers = [prompted(tokenizer, n, elevation=10 + n) for n in range(20, 26)]
    unknown = task.evaluate(model, GenerationSets({"objects": strangers}, task.config.decoding, side=16), Alone())
    assert unknown["objects/nearest_reconstruction"] < 0.7
    assert unknown["objects/ce"] > found["known/ce"] + 1


def test_objects_of_one_caption_count_as_one(learned: Any) -> None:
    task, model, _ = learned
    tokenizer = task.vqvae.load("cpu")
    twins = [prompted(tokenizer, 0, "a thing"), prompted(tokenizer, 1, "a thing")]
    crossed = [
        type(a)(a.uid, a.label, a.tokens, None, b.condition, b.pooled, a.target)
        for a, b in zip(twins, reversed(twins), strict=True)
    ]
    sets = {"same": crossed, "different": [type(a)(**{**vars(a), "label": a.uid}) for a in crossed]}
    found = task.evaluate(model, GenerationSets(sets, task.config.decoding, side=16), Alone())
    assert found["same/nearest_reconstruction"] == 1
    assert found["different/nearest_reconstruction"] == 0


def test_pictures_show_prompts_truth_and_what_was_generated(learned: Any) -> None:
    task, model, _ = learned
    tokenizer = task.vqvae.load("cpu")
    held_out = GenerationSets({"known": [prompted(tokenizer, n) for n in range(3)]}, task.config.decoding, pictures=2)
    made = task.draw(model, held_out)
    assert set(made) == {"generated_known.png", "unconditional.png"}
    sheet = np.asarray(Image.open(io.BytesIO(made["generated_known.png"])))
    assert sheet.shape == (24 + 2 * 144, 144 + 3 * 400, 3)
    # The generated views beside the reconstruction's: the same objects.
    reconstructed, generated = sheet[24:, 544:944].astype(float), sheet[24:, 944:].astype(float)
    assert np.abs(reconstructed - generated).mean() < 4
    assert np.asarray(Image.open(io.BytesIO(made["unconditional.png"]))).std() > 5


def test_the_exported_model_says_what_it_was_made_with(learned: Any, tmp_path: Path) -> None:
    task, model, _ = learned
    task.export(model, tmp_path)
    described = hub.describe(tmp_path)
    assert described["kind"] == "ar"
    assert described["extra"] == {
        "vqvae": task.vqvae.digest,
        "encoder": "minilm",
        "encoder_weights": "",
        "encoder_id": "minilm:0",
    }
    again = hub.from_pretrained(tmp_path)
    tokens = torch.stack([token_sample(0).tokens])
    condition = Condition(task.empty.tokens.float(), task.empty.pooled.float())
    inputs = next_inputs(task.vqvae.load("cpu").quantizer, tokens)
    with torch.no_grad():
        torch.testing.assert_close(again(inputs, condition), model(inputs, condition))
    assert inputs.shape == (1, LENGTH - 3, 8)
