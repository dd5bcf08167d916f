"""The model: 3D tokens land where they should, in any causal language model, and what is saved is what was there."""

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Qwen2ForCausalLM

from sar3d import hub
from sar3d.errors import UserError
from sar3d.generate.captioner import Captioner
from sar3d.llm.config import SPECIAL, CaptionDecoding, LLMConfig, RandomLMConfig, from_dict
from sar3d.llm.language_model import load_lm, load_tokenizer, random_lm, tokenizer_of, train_tokenizer
from sar3d.llm.model import SAR3DLM, assemble, left_padded, writer_of
from sar3d.llm.projector import Projector
from sar3d.llm.prompt import CAPTION

QUESTIONS = (CAPTION, "What is it?", "Which colors does it have, and which parts or contents?")
CPU = torch.device("cpu")


def conversations(model: SAR3DLM) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and mask of prompts of different lengths, and codes."""
    ids, mask = left_padded([writer_of(model).prompt(q) for q in QUESTIONS], 1, CPU)
    tokens = torch.randint(64, (len(QUESTIONS), model.config.num_tokens), generator=torch.Generator().manual_seed(2))
    return ids, mask, tokens


def test_projected_codes_stand_in_the_places_of_their_tokens_and_words_elsewhere(model: SAR3DLM) -> None:
    with torch.no_grad():
        model.delimiters.weight.normal_()
    ids, _, tokens = conversations(model)
    inputs = model.embed(ids, tokens)
    words = model.lm.get_input_embeddings().weight
    for row, given, seen in zip(ids.tolist(), tokens, inputs, strict=True):
        start, end = row.index(model.special.start), row.index(model.special.end)
        assert end - start - 1 == model.config.num_tokens == 15
        assert torch.equal(seen[start], model.delimiters.weight[0])
        assert torch.equal(seen[end], model.delimiters.weight[1])
        unit = F.normalize(model.codebook.vectors[given], dim=-1)
        assert torch.allclose(seen[start + 1 : end], model.projector(unit), atol=1e-6)
        for place in (*range(start), *range(end + 1, len(row))):
            assert torch.equal(seen[place], words[row[place]])


def test_every_3d_token_and_its_place_change_the_answer(model: SAR3DLM) -> None:
    ids, mask, tokens = conversations(model)
    before = model(ids, mask, tokens, 1)
    for place in range(model.config.num_tokens):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % 64
        assert (model(ids, mask, changed, 1) - before).abs().amax(-1).gt(1e-7).all(), place
    assert not torch.allclose(model(ids, mask, tokens.flip(1), 1), before)


def test_the_language_model_stays_what_it_was(model: SAR3DLM, described: str, architecture: Any) -> None:
    """Also in its words: they have the logits of the language model on its own."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of(described)
    alone = random_lm(RandomLMConfig(architecture, width=32, layers=2, heads=2), tokenizer).eval()
    text = torch.tensor([tokenizer("a red apple")["input_ids"]])
    known = len(tokenizer)
    assert torch.allclose(model.lm(text).logits[..., :known], alone(text).logits, atol=1e-6)
    assert isinstance(model.lm, LlamaForCausalLM if architecture == "llama" else Qwen2ForCausalLM)


def test_codes_are_frozen_directions(model: SAR3DLM, codebook: torch.Tensor) -> None:
    assert torch.allclose(model.codebook.vectors, F.normalize(codebook, dim=-1))
    assert "codebook.vectors" not in dict(model.named_parameters())


def test_padding_changes_nothing_and_the_last_logits_are_those_of_all(model: SAR3DLM) -> None:
    ids, mask, tokens = conversations(model)
    whole, last = model(ids, mask, tokens), model(ids, mask, tokens, 3)
    assert torch.allclose(whole[:, -3:], last, atol=1e-6)
    for row in range(len(ids)):
        alone = model(ids[row : row + 1, mask[row]], mask[row : row + 1, mask[row]], tokens[row : row + 1], 3)
        assert torch.allclose(alone[0], last[row], atol=1e-5)


def test_published_sizes() -> None:
    config = LLMConfig()
    assert (config.tokens, config.num_tokens) == (2040, 765)
    with torch.device("meta"):
        projector = Projector(config.code_dim, config.projector, config.width)
    shapes = [tuple(layer.weight.shape) for layer in projector.layers if isinstance(layer, nn.Linear)]
    assert shapes == [(1024, 8), (2048, 1024), (4096, 2048)]
    assert sum(isinstance(layer, nn.GELU) for layer in projector.layers) == 2


def test_places_tell_equal_tokens_apart_and_the_published_projector_has_none() -> None:
    same = torch.ones(1, 4, 8)
    plain, placed = Projector(8, (16,), 32), Projector(8, (16,), 32, pos_embed=4)
    assert plain.pos_embed is None
    assert len(set(plain(same)[0, :, 0].tolist())) == 1
    assert placed.pos_embed is not None
    assert torch.allclose(placed(same) - placed.layers(same), placed.pos_embed.weight, atol=1e-6)


def test_greedy_answers_are_those_of_a_plain_loop(model: SAR3DLM) -> None:
    _, _, tokens = conversations(model)
    writer = writer_of(model)
    prompts = [writer.prompt(q) for q in QUESTIONS]
    made = model.answer(prompts, tokens, CaptionDecoding(max_new_tokens=6))
    for row, prompt in enumerate(prompts):
        grown, given = list(prompt), tokens[row : row + 1]
        for _ in range(6):
            here = torch.tensor([grown])
            logits = model(here, torch.ones_like(here, dtype=torch.bool), given, 1)[0, -1]
            logits[list(vars(model.special).values())] = -torch.inf
            grown.append(int(logits.argmax()))
            if grown[-1] == writer.end:
                break
        said = model.tokenizer.decode(grown[len(prompt) :], skip_special_tokens=True).strip()
        assert made[row] == said


def test_drawn_answers_follow_the_seed_and_leave_the_generator_alone(model: SAR3DLM) -> None:
    _, _, tokens = conversations(model)
    prompts = [writer_of(model).prompt(CAPTION)] * len(tokens)
    before = torch.get_rng_state()
    first, again, other = (
        model.answer(prompts, tokens, CaptionDecoding(max_new_tokens=8, temperature=1.0, seed=seed))
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_a_saved_model_is_the_same_and_its_language_model_is_plain_transformers(model: SAR3DLM, tmp_path: Path) -> None:
    ids, mask, tokens = conversations(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    folder = tmp_path / "model"
    hub.save_pretrained(model, folder, {"vqvae": "abc"})
    loaded = hub.from_pretrained(folder, kind="llm")
    assert torch.allclose(loaded(ids, mask, tokens), model(ids, mask, tokens), atol=1e-6)
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder / "lm"), AutoTokenizer.from_pretrained(folder / "lm")
    assert type(plain) is type(model.lm)
    same = plain(inputs_embeds=model.embed(ids, tokens), attention_mask=mask).logits
    assert torch.allclose(same, model(ids, mask, tokens), atol=1e-6)
    text = "A red apple's 12 colors?\n\n<point_start>naïve  Answer: a can"
    assert tokenizer(text)["input_ids"] == model.tokenizer(text)["input_ids"]
    captioner = Captioner.from_pretrained(folder)
    said = model.answer([writer_of(model).prompt(CAPTION)] * len(tokens), tokens, CaptionDecoding())
    assert captioner.caption(tokens) == said
    assert captioner.caption(F.pad(tokens, (0, 27)))[0] == said[0]  # whole sequences of 42 tokens
    assert captioner.caption(tokens[0]) == said[:1]
    assert captioner.vqvae == "abc"


def test_adapters_are_merged_where_a_model_is_saved_and_stay_where_it_trains(model: SAR3DLM, tmp_path: Path) -> None:
    ids, mask, tokens = conversations(model)
    base = model(ids, mask, tokens)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, lora_alpha=4, target_modules="all-linear"), model.lm)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    adapted = model(ids, mask, tokens)
    assert not torch.allclose(adapted, base, atol=1e-3)
    hub.save_pretrained(model, tmp_path)
    assert torch.allclose(hub.from_pretrained(tmp_path)(ids, mask, tokens), adapted, atol=1e-5)
    assert torch.equal(model(ids, mask, tokens), adapted)
    assert not any("lora" in name for name in AutoModelForCausalLM.from_pretrained(tmp_path / "lm").state_dict())


def test_the_digest_covers_the_language_model(model: SAR3DLM, tmp_path: Path) -> None:
    hub.save_pretrained(model, tmp_path / "one")
    hub.save_pretrained(model, tmp_path / "two", {"note": "other"})
    assert hub.digest(tmp_path / "one") == hub.digest(tmp_path / "two")
    with torch.no_grad():
        next(model.lm.parameters())[0, 0] += 1
    hub.save_pretrained(model, tmp_path / "two")
    assert hub.digest(tmp_path / "one") != hub.digest(tmp_path / "two")


def test_a_folder_that_was_changed_or_is_of_another_kind_is_refused(model: SAR3DLM, tmp_path: Path) -> None:
    hub.save_pretrained(model, tmp_path / "saved")
    mixed = tmp_path / "mixed"
    shutil.copytree(tmp_path / "saved", mixed)
    (mixed / "lm" / "generation_config.json").write_text("{}")
    with pytest.raises(UserError, match="is not the one that was saved there"):
        hub.from_pretrained(mixed)
    described = json.loads((tmp_path / "saved" / "config.json").read_text())
    (mixed / "config.json").write_text(json.dumps({**described, "kind": "vqvae"}))
    with pytest.raises(UserError, match="of kind vqvae, not llm"):
        hub.from_pretrained(mixed, kind="llm")


@pytest.mark.parametrize("token", SPECIAL)
def test_a_vocabulary_that_has_a_special_token_already_is_one_sentence(codebook: torch.Tensor, token: str) -> None:
    tokenizer = tokenizer_of(train_tokenizer(["a red apple"], 300))
    tokenizer.add_tokens([token])
    lm = random_lm(RandomLMConfig(width=32, layers=1, heads=2), tokenizer)
    with pytest.raises(UserError, match=f"already has the token {token}") as caught:
        assemble(LLMConfig(codebook_size=64, scales=(1, 2, 3), num_scales=2, width=32), codebook, lm, tokenizer)
    assert "\n" not in str(caught.value)


def test_embeddings_with_spare_rows_are_not_made_larger(described: str, codebook: torch.Tensor) -> None:
    """As in Qwen2, whose embeddings have more rows than its vocabulary has words."""
    tokenizer = tokenizer_of(described)
    lm = random_lm(RandomLMConfig("qwen2", width=32, layers=1, heads=2, tied=False), tokenizer)
    lm.resize_token_embeddings(512)
    config = LLMConfig(codebook_size=64, scales=(1, 2, 3), num_scales=2, width=32)
    assert assemble(config, codebook, lm, tokenizer).lm.get_input_embeddings().weight.shape[0] == 512


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codebook_size": 65}, "give the VQVAE that made the tokens"),
        ({"width": 64}, "takes inputs of width 32, the projector makes 64"),
    ],
)
def test_parts_that_do_not_fit_are_one_sentence(
    described: str, codebook: torch.Tensor, change: dict[str, int], words: str
) -> None:
    tokenizer = tokenizer_of(described)
    lm = random_lm(RandomLMConfig(width=32, layers=1, heads=2), tokenizer)
    config = LLMConfig(**{"codebook_size": 64, "scales": (1, 2, 3), "num_scales": 2, "width": 32} | change)
    with pytest.raises(UserError, match=words):
        assemble(config, codebook, lm, tokenizer)


def test_tokens_of_another_vqvae_are_refused(model: SAR3DLM) -> None:
    captioner = Captioner(model)
    with pytest.raises(UserError, match="an object has 42 of them"):
        captioner.caption(torch.zeros(1, 2040, dtype=torch.long))
    with pytest.raises(UserError, match="beyond the codebook of 64"):
        captioner.caption(torch.full((1, 42), 64))
    with pytest.raises(UserError, match="the question is empty"):
        captioner.caption(torch.zeros(1, 42, dtype=torch.long), "  ")
    with pytest.raises(UserError, match="holds <point_patch>"):
        captioner.caption(torch.zeros(1, 42, dtype=torch.long), "what is <point_patch>?")
    with pytest.raises(ValueError, match="15 times <point_patch>"):
        model(torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 15).long())


def test_folders_without_a_language_model_are_one_sentence(tmp_path: Path) -> None:
    for load in (load_lm, load_tokenizer):
        with pytest.raises(UserError, match=str(tmp_path)) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="num_scales=11 is wrong"):
        LLMConfig(num_scales=11)
    with pytest.raises(UserError, match="wrong at widht"):
        from_dict({"widht": 3})


def test_codes_of_several_objects_do_not_mix(model: SAR3DLM) -> None:
    ids, _, tokens = conversations(model)
    inputs = model.embed(ids, tokens)
    points = rearrange(inputs[ids == model.special.patch], "(b n) c -> b n c", b=len(ids))
    assert torch.allclose(points, model.projector(model.codebook(tokens)), atol=1e-6)
