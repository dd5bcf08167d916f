"""Tokens of the coarsest scales, drawn one after another: who knows of whom, and that they agree on one object."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from decoding_parts import prompts, quantizer, transformer
from learners import SMALL, Codes, brief, make_task, save_vqvae, token_sample
from torch import Tensor

from sar3d.ar.sampling import generate
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions.condition import Condition
from sar3d.errors import UserError
from sar3d.hub import from_pretrained, save_pretrained, to_published
from sar3d.tasks.ar.config import ConditionDropoutConfig
from sar3d.tasks.ar.contact_sheet import FREE
from sar3d.tasks.ar.likelihood import next_inputs, sequential_code_vectors
from sar3d.tasks.ar.task import FrozenVQVAE, decays
from sar3d.training.fit import fit

TOLD = 15
"""Tokens of the two coarsest scales."""


def teacher_forced(model: ARTransformer, codes: Tensor, known: Tensor | None) -> Tensor:
    return model(next_inputs(quantizer(), codes), prompts(len(codes)), code_vectors=known)


def test_a_token_knows_those_drawn_before_it_and_no_other() -> None:
    model, place = transformer(sequential=2), 6
    codes = torch.randint(0, 96, (2, model.config.tokens), generator=torch.Generator().manual_seed(0))
    known = sequential_code_vectors(quantizer(), codes, model.config)
    assert known is not None
    assert known.shape == (2, TOLD, 8)
    changed = known.clone()
    changed[:, place] = changed[:, place].flip(-1)
    logits, others = teacher_forced(model, codes, known), teacher_forced(model, codes, changed)
    differs = (logits != others).any(-1).any(0)
    assert differs[place + 1 : TOLD].all()
    assert not differs[: place + 1].any()
    assert not differs[TOLD:].any()


def test_without_the_layer_no_vectors_are_wanted_and_with_it_all() -> None:
    codes = torch.zeros(1, 117, dtype=torch.long)
    plain, sequential = transformer(), transformer(sequential=2)
    assert sequential_code_vectors(quantizer(), codes, plain.config) is None
    assert plain.sequential is None
    known = torch.randn(1, TOLD, 8)
    assert torch.equal(teacher_forced(plain, codes, known), teacher_forced(plain, codes, None))
    for wrong in (None, known[:, :-1], known[..., :4]):
        with pytest.raises(UserError, match="first 15 tokens one after another"):
            teacher_forced(sequential, codes, wrong)


def test_it_is_saved_and_loaded_but_not_as_a_published_model(tmp_path: Path) -> None:
    model = transformer(sequential=2)
    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(UserError, match="sequential_scales=2 has layers that no published"):
        to_published(model)


def test_its_places_do_not_decay() -> None:
    names = [
        name
        for name, p in transformer(sequential=2).named_parameters()
        if name.startswith("sequential") and decays(name, p)
    ]
    assert "sequential.pos_embed" not in names
    assert {"sequential.token_in.weight", "sequential.attn.qkv.weight", "sequential.output.weight"} <= set(names)


@pytest.fixture(scope="module")
def vqvae(tmp_path_factory: pytest.TempPathFactory) -> FrozenVQVAE:
    return save_vqvae(tmp_path_factory.mktemp("vqvae"))


@pytest.mark.parametrize("sequential", [0, 2])
def test_unconditional_samples_are_single_coherent_objects(vqvae: FrozenVQVAE, sequential: int) -> None:
    """Six objects, learned without prompts: of each sample's 15 coarsest tokens nearly all are of one object. Drawn all at
    once, hardly more than by chance are.
    """
    task = make_task(vqvae, dropout=ConditionDropoutConfig(p=0.9), model=replace(SMALL, sequential_scales=sequential))
    model = fit(task, Codes(6), brief(150, 12), lambda step, metrics: None)
    assert isinstance(model, ARTransformer)
    empty = Condition(task.empty.tokens.float(), task.empty.pooled.float())
    codebook = vqvae.load("cpu").quantizer
    made = generate(model.eval(), codebook, empty.expand(64), empty, range(64), FREE).tokens[:, :TOLD]
    known = torch.stack([token_sample(n).tokens[:TOLD] for n in range(6)])
    alike = (made[:, None] == known).float().mean(-1)
    if sequential:
        assert (alike.amax(1) == 1).float().mean() > 0.8
        assert len(alike.argmax(1).unique()) >= 5
    else:
        assert (alike.amax(1) == 1).float().mean() < 0.1
