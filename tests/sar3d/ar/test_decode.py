"""Fast decoding against the plain one and against the teacher-forced transformer; what a sample depends on."""

import dataclasses
from functools import partial

import pytest
import torch
from decoding_parts import CODES, FULL, SHORT, empty, prompts, quantizer, transformer
from torch import Tensor

from sar3d.ar import ARTransformer, preset
from sar3d.ar.cache import KeyValueCache
from sar3d.ar.draw import SamplingNoise, draw_plain, guidance_of
from sar3d.ar.generated import settled
from sar3d.ar.sampling import (
    DECODINGS,
    DecodedScale,
    Decoder,
    Decoding,
    Generated,
    Kept,
    Precision,
    generate,
    generate_plain,
)
from sar3d.conditions.condition import Condition
from sar3d.errors import UserError
from sar3d.tasks.ar.likelihood import sequential_code_vectors
from sar3d.vqvae.config import PLANES, QuantizerConfig
from sar3d.vqvae.quantizer import MultiScaleQuantizer, unpack

ALL = Decoding(top_k=0, top_p=1.0)
NEAR = 1e-4
"""Logits (of about 1) that differ by less are a near tie: a matrix product may round either way."""


def both(
    model: ARTransformer, condition: Condition, seeds: list[int], decoding: Decoding
) -> tuple[Generated, Generated, list[Tensor]]:
    """Fast, plain, and the plain one's guided logits of each scale."""
    codebook, logits = quantizer(model.config.scales), []
    fast = generate(model, codebook, condition, empty(), seeds, decoding, precision="fp32")
    plain = generate_plain(
        model,
        codebook,
        condition,
        empty(),
        seeds,
        decoding,
        precision="fp32",
        on_scale=lambda done: logits.append(done.logits()),
    )
    return fast, plain, logits


def differing(fast: Tensor, plain: Tensor, logits: list[Tensor], seeds: list[int], decoding: Decoding) -> int:
    """How many samples differ; each must do so first at a near tie: where logits nearly as the plain ones give its code."""
    generator, found = torch.Generator().manual_seed(0), 0
    lengths = [part.shape[1] for part in logits]
    for i in (fast != plain).any(1).nonzero().flatten().tolist():
        found += 1
        uniform = SamplingNoise([seeds[i]], sum(lengths)).uniform[0].split(lengths)
        parts = zip(fast[i].split(lengths), plain[i].split(lengths), logits, uniform, strict=True)
        ours, theirs, scores, numbers = next(part for part in parts if not torch.equal(part[0], part[1]))
        for place in (ours != theirs).nonzero().flatten().tolist():
            nearby = scores[i, place] + NEAR * torch.randn(256, CODES, generator=generator)
            drawn, _ = draw_plain(nearby, numbers[place].expand(256), decoding)
            assert (drawn == ours[place]).any(), f"sample {i} differs at token {place} of a scale, which is no near tie"
    return found


@pytest.mark.parametrize("sequential", [0, 2])
def test_fast_is_plain_for_100_prompts(sequential: int) -> None:
    """Over all settings by name, both kinds of condition and several batch sizes."""
    settings = [*DECODINGS.values(), ALL, Decoding(guidance=0.0, top_k=30, top_p=0.9), Decoding(4.0, 50, 0.9, 0.7)]
    sizes, count, differ = [1, 2, 8, 14], 0, 0
    for kind in ("image", "text"):
        model = transformer(kind, sequential=sequential)
        for i, decoding in enumerate(settings):
            size = sizes[(i + (kind == "text")) % len(sizes)]
            seeds = list(range(count, count + size))
            fast, plain, logits = both(model, prompts(size, seed=100 + count), seeds, decoding)
            differ += differing(fast.tokens, plain.tokens, logits, seeds, decoding)
            if not differ:
                torch.testing.assert_close(fast.f_hat, plain.f_hat)
            count += size
    assert count >= 100
    assert differ <= 1


def test_fast_is_plain_on_the_published_scales() -> None:
    for decoding in (DECODINGS["released"], DECODINGS["preview"]):
        fast, plain, logits = both(transformer(scales=FULL), prompts(2), [5, 6], decoding)
        assert fast.tokens.shape == (2, 2040)
        assert differing(fast.tokens, plain.tokens, logits, [5, 6], decoding) == 0
        assert len(fast.tokens.unique()) > CODES // 4


@pytest.mark.parametrize("sequential", [0, 1, 3])
@pytest.mark.parametrize("guidance", [0.0, 4.0])
@pytest.mark.parametrize("way", [generate, generate_plain])
def test_greedy_decoding_is_the_teacher_forced_argmax(way, guidance: float, sequential: int) -> None:
    """The transformer, given the codes that were generated, scores exactly these highest."""
    model, codebook, condition = transformer(sequential=sequential), quantizer(), prompts(6)
    decoding = Decoding(guidance=guidance, top_k=1)
    tokens = way(model, codebook, condition, empty(), [0] * 6, decoding, precision="fp32").tokens
    inputs = codebook.next_inputs(unpack(tokens, SHORT))
    known = sequential_code_vectors(codebook, tokens, model.config)
    logits = model(inputs, condition, code_vectors=known).split(model.config.lengths, 1)
    without = model(inputs, empty().expand(6), code_vectors=known).split(model.config.lengths, 1)
    strength = [guidance_of(decoding, scale, len(SHORT)) for scale in range(len(SHORT))]
    guided = torch.cat([(1 + t) * a - t * b for t, a, b in zip(strength, logits, without, strict=True)], 1)
    highest, second = guided.topk(2).values.unbind(-1)
    clear = highest - second > NEAR
    assert clear.float().mean() > 0.99
    assert torch.equal(guided.argmax(-1)[clear], tokens[clear])


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model, codebook, condition, seeds = transformer(), quantizer(), prompts(7), [11, 12, 13, 14, 15, 16, 17]
    decoding = DECODINGS["preview"]
    together, _, logits = both(model, condition, seeds, decoding)
    for i in (0, 3, 6):
        alone = generate(model, codebook, condition.select([i]), empty(), [seeds[i]], decoding, precision="fp32")
        part = [scores[i : i + 1] for scores in logits]
        assert differing(alone.tokens, together.tokens[i : i + 1], part, [seeds[i]], decoding) == 0
    order = [4, 1, 6]
    some = generate(
        model, codebook, condition.select(order), empty(), [seeds[i] for i in order], decoding, precision="fp32"
    )
    assert torch.equal(some.tokens, together.tokens[order])


def test_seed_prompt_and_guidance_each_matter() -> None:
    model, codebook, condition = transformer(), quantizer(), prompts(1).expand(3)
    run = partial(generate, model, codebook, empty=empty(), precision="fp32")
    sampled = run(condition, seeds=[1, 2, 1], decoding=ALL).tokens
    assert torch.equal(sampled[0], sampled[2])
    assert (sampled[0] != sampled[1]).float().mean() > 0.5
    greedy = run(condition, seeds=[1, 2, 1], decoding=DECODINGS["greedy"]).tokens
    assert torch.equal(greedy[0], greedy[1])
    others = run(prompts(3), seeds=[1, 1, 1], decoding=DECODINGS["greedy"]).tokens
    assert (others[0] != others[1]).float().mean() > 0.5
    unguided = run(condition, seeds=[1, 2, 1], decoding=Decoding(guidance=0.0, top_k=1)).tokens
    assert torch.equal(unguided[0, :PLANES], greedy[0, :PLANES])  # the first scale is never guided
    assert (unguided[0] != greedy[0]).any()


def test_tokens_in_turn_depend_on_those_before_them_and_leave_the_others_alone() -> None:
    """Of two samples that differ in the random number of one token, no token before it differs."""
    model, codebook = transformer(sequential=2), quantizer()
    uniform = SamplingNoise([1], model.config.tokens).uniform
    run = partial(generate, model, codebook, prompts(1), empty(), [1], ALL, precision="fp32")
    made, place = run().tokens[0], 7
    changed = torch.where(torch.arange(model.config.tokens) == place, (uniform + 0.5) % 1, uniform)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SamplingNoise, "__init__", lambda self, seeds, tokens, device: self.__dict__.update(uniform=changed)
        )
        other = run().tokens[0]
    assert torch.equal(made[:place], other[:place])
    assert made[place] != other[place]
    assert (made[place + 1 : 15] != other[place + 1 : 15]).any()


def test_without_guidance_there_is_no_unconditional_half() -> None:
    model, rows = transformer(), []
    model.blocks[0].mlp.register_forward_hook(lambda _module, inputs, _output: rows.append(len(inputs[0])))
    for guidance in (0.0, 4.0):
        generate(model, quantizer(), prompts(3), empty(), [0, 1, 2], Decoding(guidance), precision="fp32")
    assert rows == [3] * len(SHORT) + [6] * len(SHORT)


def test_what_comes_back_is_of_the_codes() -> None:
    codebook = quantizer()
    made = generate(transformer(), codebook, prompts(2), empty(), [1, 2], DECODINGS["preview"])
    assert made.tokens.dtype == torch.long
    assert made.f_hat.dtype == torch.float32
    torch.testing.assert_close(made.f_hat, codebook.f_hat(unpack(made.tokens, SHORT)))


@pytest.mark.parametrize("sequential", [0, 2])
@pytest.mark.parametrize("way", [generate, generate_plain])
def test_every_scale_is_reported(way, sequential: int) -> None:
    codebook, seen = quantizer(), []

    def note(done: DecodedScale) -> None:
        seen.append((done.scale, done.tokens, done.f_hat.clone(), done.logits()))

    model = transformer(sequential=sequential)
    made = way(model, codebook, prompts(2), empty(), [1, 2], DECODINGS["greedy"], precision="fp32", on_scale=note)
    assert [scale for scale, *_ in seen] == [0, 1, 2, 3]
    assert torch.equal(torch.cat([tokens for _, tokens, _, _ in seen], 1), made.tokens)
    assert torch.equal(torch.cat([logits for *_, logits in seen], 1).argmax(-1), made.tokens)
    assert torch.equal(seen[-1][2], made.f_hat)
    assert not torch.equal(seen[-2][2], made.f_hat)


class TestSmooth:
    SMOOTH = dataclasses.replace(DECODINGS["preview"], smooth=True)

    @pytest.mark.parametrize("sequential", [0, 2])
    def test_fast_is_plain(self, sequential: int) -> None:
        fast, plain, _ = both(transformer(sequential=sequential), prompts(5), [1, 2, 3, 4, 5], self.SMOOTH)
        assert (fast.tokens == plain.tokens).float().mean() > 0.99
        torch.testing.assert_close(fast.f_hat, plain.f_hat, atol=2e-3, rtol=1e-3)

    def test_codes_are_mixed_and_nearly_hard_at_the_end(self) -> None:
        codebook, latents = quantizer(), []
        made = generate(
            transformer(),
            codebook,
            prompts(4),
            empty(),
            [1, 2, 3, 4],
            self.SMOOTH,
            on_scale=lambda done: latents.append(done.f_hat),
        )
        codes = unpack(made.tokens, SHORT)
        hard, _ = codebook.step(torch.zeros_like(latents[0]), 0, codebook.code_vectors(0, codes[0], "generate"))
        last, _ = codebook.step(latents[-2], 3, codebook.code_vectors(3, codes[3], "generate"))
        first_error = (hard - latents[0]).square().mean() / hard.square().mean()
        last_error = (last - latents[-1]).square().mean() / (last - latents[-2]).square().mean()
        assert first_error > 0.02 > last_error

    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        model, codebook, condition = transformer(), quantizer(), prompts(3)
        run = partial(generate, model, codebook, empty=empty(), decoding=self.SMOOTH, precision="fp32")
        together = run(condition, seeds=[7, 8, 9]).tokens
        alone = run(condition.select([1]), seeds=[8]).tokens[0]
        assert (together[1] == alone).float().mean() > 0.99


class TestDecoder:
    def test_generations_of_one_decoder_do_not_touch_each_other(self) -> None:
        model, codebook = transformer(), quantizer()
        decoder = Decoder(model, codebook, precision="fp32")
        ask = [(prompts(2, 5), [1, 2], DECODINGS["preview"]), (prompts(2, 6), [3, 4], DECODINGS["preview"])]
        ask += [(prompts(3, 7), [5, 6, 7], DECODINGS["wild"]), ask[0]]
        made = [decoder.generate(c, empty(), seeds, decoding) for c, seeds, decoding in ask]
        fresh = [generate(model, codebook, c, empty(), s, d, precision="fp32") for c, s, d in ask]
        for kept, new in zip(made, fresh, strict=True):
            assert torch.equal(kept.tokens, new.tokens)
            assert torch.equal(kept.f_hat, new.f_hat)

    def test_compiled_blocks_give_the_same_codes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Traced as for compilation; the generated kernels are tested apart, which takes longer."""
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
        compiled, eager = self.compiled_and_eager("fp32")
        assert torch.equal(compiled, eager)

    @pytest.mark.slow
    @pytest.mark.parametrize(("precision", "equal"), [("fp32", 0.99), ("bf16", 0.9)])
    def test_compiled_kernels_give_the_same_codes(self, precision: Precision, equal: float) -> None:
        compiled, eager = self.compiled_and_eager(precision)
        assert (compiled == eager).float().mean() >= equal

    def compiled_and_eager(self, precision: Precision) -> tuple[Tensor, Tensor]:
        scales = (1, 2, 3)
        model, codebook, condition = transformer(scales=scales, depth=1, sequential=2), quantizer(scales), prompts(2)
        decoder = Decoder(model, codebook, precision=precision, compile=True)
        eager = generate(model, codebook, condition, empty(), [1, 2], ALL, precision=precision)
        first, second = (decoder.generate(condition, empty(), [1, 2], ALL).tokens for _ in range(2))
        assert torch.equal(first, second)
        return first, eager.tokens

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
    def test_recorded_graphs_give_the_codes_of_the_cpu(self) -> None:
        model, codebook, condition = transformer(), quantizer(), prompts(4)
        wanted = generate_plain(model, codebook, condition, empty(), [1, 2, 3, 4], DECODINGS["released"])
        decoder = Decoder(model.cuda(), codebook.cuda(), precision="fp32")
        decoder.generate(prompts(4, 9), empty(), [9, 9, 9, 9], DECODINGS["released"])
        made = decoder.generate(condition, empty(), [1, 2, 3, 4], DECODINGS["released"])
        assert (made.tokens.cpu() == wanted.tokens).float().mean() > 0.99


class TestBf16:
    def test_logits_are_close_while_the_codes_are_equal(self) -> None:
        model, codebook, condition = transformer(depth=3, width=64), quantizer(), prompts(8)
        seen: dict[str, list[tuple[Tensor, Tensor]]] = {"fp32": [], "bf16": []}
        for precision, scales in seen.items():
            note = lambda done, scales=scales: scales.append((done.tokens, done.logits()))  # noqa: E731
            generate(
                model, codebook, condition, empty(), [0] * 8, DECODINGS["greedy"], precision=precision, on_scale=note
            )
        equal, compared = torch.ones(8, dtype=torch.bool), 0
        for (exact_tokens, exact), (tokens, rounded) in zip(seen["fp32"], seen["bf16"], strict=True):
            if equal.any():
                error = (rounded - exact)[equal].square().mean() / exact[equal].square().mean()
                assert 0 < error < 0.03**2
                compared += int(equal.sum())
            equal &= (tokens == exact_tokens).all(1)
        assert compared > 16

    def test_weights_and_keys_are_halved_and_the_model_is_untouched(self) -> None:
        model = transformer()
        decoder = Decoder(model, quantizer(), precision="bf16")
        decoder.generate(prompts(1), empty(), [0], DECODINGS["greedy"])
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        half = {name for name, p in decoder.weights.named_parameters() if p.dtype == torch.bfloat16}
        assert {"blocks.0.self_attn.qkv.weight", "blocks.1.mlp.2.weight", "head.linear.weight"} <= half
        assert not any("modulation" in name or "temperature" in name or name.startswith("token_in") for name in half)
        assert decoder.weights.pos_embed is model.pos_embed

    def test_auto_is_bf16_on_a_cpu_for_wide_models_and_with_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with torch.device("meta"):
            wide = transformer(width=1024, heads=16)
        wide.start_embed = torch.nn.Parameter(torch.zeros(1024))
        for tiles in (True, False):
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda tiles=tiles: {"amx_bf16": tiles})
            assert settled("auto", wide) == (torch.bfloat16 if tiles else torch.float32)
            assert settled("auto", transformer()) == torch.float32
            assert settled("bf16", transformer()) == torch.bfloat16


@pytest.mark.parametrize("name", ["d16", "d24", "d30"])
def test_cached_keys_take_less_than_70_percent_of_the_concatenated(name: str) -> None:
    config = preset(name, "image", codebook_size=16384, code_dim=8, scales=FULL, context_dim=1024, pooled_dim=1024)
    cache = KeyValueCache(config, 2, torch.float32, torch.device("meta"))
    concatenated = 2 * 2 * 4 * config.tokens * config.width * config.depth
    assert cache.bytes < 0.7 * concatenated


class TestRefused:
    def refused(self, words: str, **changes: object) -> None:
        request = {
            "model": transformer(),
            "quantizer": quantizer(),
            "condition": prompts(2),
            "empty": empty(),
            "seeds": [0, 1],
            "decoding": Decoding(),
        } | changes
        for way in (generate, generate_plain):
            with pytest.raises(UserError, match=words):
                way(**request)

    def test_seeds(self) -> None:
        self.refused("2 conditions need as many seeds, not 1", seeds=[0])
        self.refused("not -1", seeds=[0, -1])

    def test_nothing_to_generate(self) -> None:
        self.refused("nothing to generate", condition=prompts(0), seeds=[])

    def test_conditions_of_another_encoder(self) -> None:
        wide = Condition(torch.randn(2, 5, 13), torch.randn(2, 10))
        self.refused("condition has 13 and 10", condition=wide)
        self.refused("one empty condition", empty=prompts(2))
        longer = Condition(torch.randn(1, 6, 12), torch.randn(1, 10))
        self.refused("5 tokens and the empty one 6", empty=longer)

    def test_another_vqvae(self) -> None:
        self.refused("its own VQVAE", quantizer=MultiScaleQuantizer(QuantizerConfig(codebook_size=50, scales=SHORT)))
        self.refused("its own VQVAE", quantizer=quantizer((1, 2, 3, 4)))

    def test_precision(self) -> None:
        self.refused("no precision fp8", precision="fp8")


class TestKept:
    """The coarsest scales of another object, and finer ones drawn given these."""

    def given(self) -> Tensor:
        return generate(transformer(), quantizer(), prompts(3, 40), empty(), [7, 8, 9], ALL, precision="fp32").tokens

    @pytest.mark.parametrize("smooth", [False, True])
    @pytest.mark.parametrize("sequential", [0, 2])
    def test_fast_is_plain_and_kept_tokens_are_exact(self, sequential: int, smooth: bool) -> None:
        model, decoding = transformer(sequential=sequential), dataclasses.replace(DECODINGS["preview"], smooth=smooth)
        kept = Kept(self.given(), [0, 2, 4])
        made = [
            way(model, quantizer(), prompts(3), empty(), [1, 2, 3], decoding, kept=kept, precision="fp32")
            for way in (generate, generate_plain)
        ]
        assert torch.equal(made[0].tokens, made[1].tokens)
        torch.testing.assert_close(made[0].f_hat, made[1].f_hat, atol=2e-3 if smooth else 1e-5, rtol=1e-3)
        stays = kept.mask(model.config)
        assert stays.sum(-1).tolist() == [0, PLANES * (1 + 4), model.config.tokens]
        assert torch.equal(made[0].tokens[stays], kept.tokens[stays])
        assert (made[0].tokens[~stays] != kept.tokens[~stays]).float().mean() > 0.5

    def test_none_kept_is_generation_and_all_kept_is_the_object(self) -> None:
        codebook, tokens = quantizer(), self.given()
        run = partial(generate, transformer(), codebook, prompts(3), empty(), [1, 2, 3], ALL, precision="fp32")
        assert torch.equal(run(kept=Kept(tokens, [0, 0, 0])).tokens, run().tokens)
        back = run(kept=Kept(tokens, [4, 4, 4]))
        assert torch.equal(back.tokens, tokens)
        torch.testing.assert_close(back.f_hat, codebook.f_hat(unpack(tokens, SHORT)))

    def test_redrawn_tokens_follow_the_new_prompt_and_the_seed(self) -> None:
        kept = Kept(self.given()[:1].expand(3, -1), [2, 2, 2])
        condition = Condition.cat([prompts(1, 5), prompts(1, 6), prompts(1, 6)])
        made = generate(transformer(), quantizer(), condition, empty(), [1, 1, 2], ALL, kept=kept, precision="fp32")
        fine = made.tokens[:, PLANES * 5 :]
        assert (fine[0] != fine[1]).float().mean() > 0.3
        assert (fine[1] != fine[2]).float().mean() > 0.3

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"scales": [5, 0, 0]}, "5 scales cannot be kept: an object has 4"),
            ({"scales": [-1, 0, 0]}, "-1 scales cannot be kept"),
            ({"scales": [1, 1]}, "must be 3 times 117"),
            ({"tokens": torch.zeros(3, 4, dtype=torch.long)}, "must be 3 times 117"),
            ({"tokens": torch.full((3, 117), CODES)}, "not of this codebook"),
        ],
    )
    def test_what_is_no_object_is_refused(self, change: dict[str, object], words: str) -> None:
        kept = dataclasses.replace(Kept(torch.zeros(3, 117, dtype=torch.long), [1, 1, 1]), **change)  # type: ignore[arg-type]
        for way in (generate, generate_plain):
            with pytest.raises(UserError, match=words):
                way(transformer(), quantizer(), prompts(3), empty(), [1, 2, 3], ALL, kept=kept)


def test_samples_with_settings_of_their_own_are_drawn_as_if_alone() -> None:
    model, codebook, condition = transformer(), quantizer(), prompts(5)
    settings = [DECODINGS["greedy"], ALL, DECODINGS["wild"], Decoding(guidance=0.0), Decoding(2.0, 30, 0.9, 0.7)]
    together = generate(model, codebook, condition, empty(), [1, 2, 3, 4, 5], settings, precision="fp32")
    for i, decoding in enumerate(settings):
        one = condition.select([i])
        alone = generate_plain(model, codebook, one, empty(), [i + 1], decoding, precision="fp32")
        assert torch.equal(together.tokens[i : i + 1], alone.tokens), decoding
    mixed = [ALL, dataclasses.replace(ALL, smooth=True)]
    for wrong in (mixed, [ALL]):
        with pytest.raises(UserError, match="draw them in several batches"):
            generate(model, codebook, prompts(2), empty(), [1, 2], wrong)
