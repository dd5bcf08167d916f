"""The transformer: who sees whom, ways of attending, precision, drop path, its start, and what it refuses."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sar3d.ar import ARConfig, ARTransformer, preset
from sar3d.ar.attention import AttentionKind, best_attention, full_attention, scale_causal_attention
from sar3d.ar.blocks import Block, modulate
from sar3d.ar.config import from_dict, to_dict
from sar3d.conditions.condition import Condition
from sar3d.errors import UserError
from sar3d.tasks.ar.flops import forward_flops, peak_flops, training_flops

MICRO = ARConfig(
    depth=3,
    width=24,
    heads=3,
    codebook_size=20,
    code_dim=4,
    scales=(1, 2, 3, 5),
    context_dim=7,
    pooled_dim=5,
    mlp_ratio=2,
)


def transformer(config: ARConfig = MICRO) -> ARTransformer:
    """With weights that all matter: at its start a model's branches are nearly closed."""
    torch.manual_seed(0)
    model = ARTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model.eval()


@pytest.fixture
def model() -> ARTransformer:
    return transformer()


def inputs(config: ARConfig = MICRO, batch: int = 2) -> tuple[Tensor, Condition]:
    torch.manual_seed(1)
    words = torch.randn(batch, config.tokens - 3, config.code_dim)
    return words, Condition(torch.randn(batch, 6, config.context_dim), torch.randn(batch, config.pooled_dim))


def gradients(model: ARTransformer, kind: AttentionKind | None, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    words, condition = inputs()
    model.attention = kind
    model.zero_grad()
    logits = model(words, condition, **options)
    (logits * torch.linspace(-1, 1, logits.numel()).reshape(logits.shape)).sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scales", [None, 1, 3])
def test_scales_agree_with_the_mask_in_value_and_gradient(model: ARTransformer, scales: int | None) -> None:
    dense, by_mask = gradients(model, "dense", scales=scales)
    split, by_scale = gradients(model, "scales", scales=scales)
    torch.testing.assert_close(split, dense, atol=1e-4, rtol=1e-5)
    assert by_mask.keys() == by_scale.keys()
    for name, gradient in by_mask.items():
        assert (by_scale[name] - gradient).norm() < 1e-5 * gradient.norm() + 1e-5, name


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("scales", [None, 2])
def test_flex_agrees_with_the_mask(model: ARTransformer, scales: int | None) -> None:
    words, condition = inputs()
    found = {}
    for kind in ("dense", "flex"):
        model.attention = kind
        found[kind] = model(words, condition, scales=scales)
    torch.testing.assert_close(found["flex"], found["dense"], atol=1e-4, rtol=1e-5)


def test_flex_says_that_it_cannot_train_on_the_cpu(model: ARTransformer) -> None:
    with pytest.raises(UserError, match="flex attention cannot train on the cpu: choose"):
        gradients(model, "flex")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_flex_trains_on_a_gpu() -> None:
    config = dataclasses.replace(MICRO, width=96)
    model, (words, condition) = transformer(config).cuda(), inputs(config)
    found = {}
    for kind in ("dense", "flex", "scales"):
        model.attention = kind
        model.zero_grad()
        logits = model(words.cuda(), condition.to("cuda"))
        logits.square().mean().backward()
        found[kind] = logits.detach(), model.blocks[0].self_attn.qkv.weight.grad.clone()
    for kind in ("flex", "scales"):
        for one, other in zip(found[kind], found["dense"], strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_the_cpu_attends_scale_by_scale() -> None:
    assert best_attention(torch.device("cpu")) == "scales"
    with pytest.raises(UserError, match="no attention sparse: choose one of dense, flex, scales"):
        scale_causal_attention("sparse", (3, 15), torch.device("cpu"))  # type: ignore[arg-type]


def test_products_in_bf16_agree_with_the_fused_kernel_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    q, k, v, upstream = (torch.randn(2, 3, n, 16) for n in (20, 50, 50, 20))
    q = 4 * F.normalize(q, dim=-1)
    k = F.normalize(k, dim=-1)

    def attended(attend: Any, dtype: torch.dtype) -> list[Tensor]:
        given = [x.to(dtype, copy=True).requires_grad_() for x in (q, k, v)]
        out = attend(*given)
        assert out.dtype == dtype
        out.backward(upstream.to(dtype))
        return [out.detach().float(), *(x.grad.float() for x in given if x.grad is not None)]

    exact = attended(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=1.0), torch.float32)
    fused = attended(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=1.0), torch.bfloat16)
    ours = attended(full_attention, torch.bfloat16)
    for want, by_kernel, by_products in zip(exact, fused, ours, strict=True):
        assert (by_products - want).norm() < max(2 * (by_kernel - want).norm(), 0.01 * want.norm())


@torch.no_grad()
def test_the_first_scales_are_the_first_logits_of_all(model: ARTransformer) -> None:
    words, condition = inputs()
    whole = model(words, condition)
    assert whole.shape == (2, 117, 20)
    for scales, end in enumerate(MICRO.ends, 1):
        torch.testing.assert_close(model(words, condition, scales=scales), whole[:, :end], atol=1e-4, rtol=1e-5)
        alone = model(words[:, : end - 3], condition, scales=scales)
        torch.testing.assert_close(alone, whole[:, :end], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "scales"])
def test_a_token_sees_its_scale_and_the_coarser_ones(model: ARTransformer, kind: AttentionKind) -> None:
    model.attention = kind
    words, condition = inputs(batch=1)
    for token in (0, 3, 14, 15, 41, 42, 116):
        given = words.clone().requires_grad_()
        model(given, condition)[0, token].sum().backward()
        assert given.grad is not None
        seen = max((end for end in (0, *MICRO.ends[:-1]) if end <= token), default=0)
        sees = MICRO.ends[([0, *MICRO.ends[:-1]]).index(seen)] - 3
        touched = given.grad[0].abs().sum(-1) > 0
        assert touched[:sees].all()
        assert not touched[sees:].any()


@torch.no_grad()
def test_tokens_know_their_place_scale_and_plane(model: ARTransformer) -> None:
    """With the same inputs everywhere and one table at a time, embedded tokens differ by what that table tells."""
    words = torch.zeros(1, MICRO.lengths[2], MICRO.code_dim)
    tables = ("pos_embed", "scale_embed", "plane_embed")
    for kept in tables:
        lone = transformer()
        for name in set(tables) - {kept}:
            getattr(lone, name).zero_()
        embedded = [lone.embed(words[:, : MICRO.lengths[s]], s)[0] for s in (1, 2)]
        if kept == "pos_embed":
            assert len(torch.cat(embedded).unique(dim=0)) == 12 + 27
        elif kept == "scale_embed":
            assert [len(e.unique(dim=0)) for e in embedded] == [1, 1]
            torch.testing.assert_close(embedded[1][0] - embedded[0][0], lone.scale_embed[2] - lone.scale_embed[1])
        else:
            for tokens, length in zip(embedded, (4, 9), strict=True):
                parts = tokens.split(length)
                assert all(len(part.unique(dim=0)) == 1 for part in parts)
                torch.testing.assert_close(parts[2][0] - parts[0][0], lone.plane_embed[2] - lone.plane_embed[0])


@pytest.mark.parametrize("kind", ["image", "text"])
@torch.no_grad()
def test_order_of_the_branches(kind: str) -> None:
    config = dataclasses.replace(MICRO, condition=kind)
    block = transformer(config).blocks[0]
    assert isinstance(block, Block)
    x, cond, tokens = torch.randn(2, 15, 24), torch.randn(2, 24), torch.randn(2, 6, 7)
    attend = scale_causal_attention("dense", (3, 15), x.device)
    out = block(x, cond, tokens, attend)
    attn, mlp = block.modulations(cond)
    context = block.cross_attn.keys_values(tokens)
    if kind == "image":
        x = x + block.cross_attn(block.cross_norm(x), context)
    x = x + attn.gate * block.self_attn(modulate(x, attn.shift, attn.scale), attend)
    if kind == "text":
        x = x + block.cross_attn(block.cross_norm(x), context)
    x = x + mlp.gate * block.mlp(modulate(x, mlp.shift, mlp.scale))
    torch.testing.assert_close(out, x, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_decoding_scale_by_scale_with_kept_keys_is_the_forward_pass(model: ARTransformer) -> None:
    words, condition = inputs()
    cond = model.condition_vector(condition)
    modulations = [block.modulations(cond) for block in model.blocks]
    contexts = [block.cross_attn.keys_values(condition.tokens) for block in model.blocks]
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in model.blocks]
    found = []
    for scale, (begin, end) in enumerate(zip(MICRO.begins, MICRO.ends, strict=True)):
        x = model.embed(words[:, begin - 3 : end - 3], scale) if scale else model.start_tokens(cond)
        for i, block in enumerate(model.blocks):

            def attend(q: Tensor, k: Tensor, v: Tensor, cache: list[tuple[Tensor, Tensor]] = kept[i]) -> Tensor:
                cache.append((k, v))
                keys, values = (torch.cat(parts, 2) for parts in zip(*cache, strict=True))
                return full_attention(q, keys, values)

            x = block.transform(x, modulations[i], contexts[i], attend)
        found.append(model.head(x, cond))
    torch.testing.assert_close(torch.cat(found, 1), model(words, condition), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_the_temperature_is_bounded(model: ARTransformer) -> None:
    words, condition = inputs()
    for block in model.blocks:
        block.self_attn.log_temperature.fill_(torch.log(torch.tensor(100.0)))
    before = model(words, condition)
    for block in model.blocks:
        block.self_attn.log_temperature.fill_(9.0)
    assert torch.equal(model(words, condition), before)


def test_queries_and_keys_of_zero_length_have_a_gradient() -> None:
    model = transformer()
    for block in model.blocks:
        torch.nn.init.zeros_(block.self_attn.qkv.weight)
        torch.nn.init.zeros_(block.self_attn.q_bias)
    _, found = gradients(model, None)
    assert all(g.isfinite().all() for g in found.values())


def test_drop_path(model: ARTransformer) -> None:
    model = transformer(dataclasses.replace(MICRO, drop_path=0.5))
    words, condition = inputs()
    with torch.no_grad():
        # Rates are 0, 0.25 and 0.5: numbers of zero drop all but the first block, high ones scale what is kept.
        none = model(words, condition, drop=torch.zeros(2, 3, 3))
        mixed = model(words, condition, drop=torch.stack([torch.zeros(3, 3), torch.full((3, 3), 0.9)]))
        only_first = transformer(dataclasses.replace(MICRO, drop_path=0.5))
        only_first.blocks = only_first.blocks[:1]
        torch.testing.assert_close(none, only_first(words, condition))
        torch.testing.assert_close(mixed[0], none[0])
        assert not torch.allclose(mixed[1], model(words, condition)[1])
    first_kept = model.blocks[1].mlp[2].weight
    model(words, condition, drop=torch.zeros(2, 3, 3)).sum().backward()
    assert first_kept.grad is not None
    assert not first_kept.grad.any()
    assert model.blocks[0].mlp[2].weight.grad.any()


@torch.no_grad()
def test_drop_path_keeps_the_mean_of_a_branch() -> None:
    block = transformer().blocks[1]
    x, cond, tokens = torch.randn(1, 3, 24), torch.randn(1, 24), torch.randn(1, 6, 7)
    attend = scale_causal_attention("dense", (3,), x.device)
    for part in (block.cross_attn.proj, block.mlp[2]):  # one branch alone
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    kept = block(x, cond, tokens, attend, torch.full((1, 3), 1 / 0.75)) - x
    torch.testing.assert_close(0.75 * kept, block(x, cond, tokens, attend) - x, atol=1e-5, rtol=1e-4)


def test_checkpointed_activations_give_the_same_gradients(model: ARTransformer) -> None:
    drop = torch.rand(2, 3, 3)
    kept, expected = gradients(model, None, drop=drop)
    model.checkpoint_activations = True
    again, found = gradients(model, None, drop=drop)
    assert torch.equal(kept, again)
    assert all(torch.allclose(found[name], gradient, atol=1e-5) for name, gradient in expected.items())


@torch.no_grad()
def test_bf16_keeps_embeddings_modulation_stream_and_logits_in_float32(model: ARTransformer) -> None:
    words, condition = inputs()
    seen: dict[str, torch.dtype] = {}
    block = model.blocks[1]
    block.register_forward_pre_hook(lambda _, args: seen.update(stream=args[0].dtype, cond=args[1].dtype))
    block.modulation.register_forward_hook(lambda _, args, out: seen.update(modulation=out[0].dtype))
    block.mlp.register_forward_hook(lambda _, args, out: seen.update(mlp=out.dtype))
    block.self_attn.proj.register_forward_pre_hook(lambda _, args: seen.update(attention=args[0].dtype))
    exact = model(words, condition)
    half = Condition(condition.tokens.half(), condition.pooled.half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(words, half)
        assert model.start_tokens(model.condition_vector(half)).dtype == torch.float32
    assert seen == {
        "stream": torch.float32,
        "cond": torch.float32,
        "modulation": torch.float32,
        "mlp": torch.bfloat16,
        "attention": torch.bfloat16,
    }
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()


def test_the_start(model: ARTransformer) -> None:
    config = dataclasses.replace(MICRO, width=192, heads=4, codebook_size=500)
    torch.manual_seed(3)
    one, state = ARTransformer(config), torch.get_rng_state()
    torch.manual_seed(3)
    other = ARTransformer(config)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    deviation = (1 / 192 / 3) ** 0.5
    block = one.blocks[0]
    for weight, factor in (
        (block.self_attn.qkv.weight, 1),
        (block.self_attn.proj.weight, 6**-0.5),
        (block.mlp[2].weight, 6**-0.5),
        (block.cross_attn.proj.weight, 1),
        (block.modulation.linear.weight[: 2 * 192], 1e-4),
        (block.modulation.linear.weight[2 * 192 :], 0.5),
        (one.head.linear.weight, 0.02),
        (one.pos_embed, 1),
    ):
        assert abs(weight.std() / (factor * deviation) - 1) < 0.1
    words, condition = inputs(config)
    with torch.no_grad():
        logits = one(words, condition)
        loss = F.cross_entropy(logits.flatten(0, 1), torch.randint(500, (2 * 117,)))
    assert abs(loss - torch.tensor(500.0).log()) < 0.01
    block = ARTransformer(dataclasses.replace(config, gate_init=0.3)).blocks[0]
    for shift, scale, gate in block.modulations(torch.zeros(1, 192)):
        assert torch.equal(gate, torch.full((1, 1, 192), 0.3))
        assert not shift.any()
        assert not scale.any()


@pytest.mark.parametrize(
    ("name", "kind", "width", "count"),
    [
        ("d16", "text", 768, 382_798_336),
        ("d16", "image", 1024, 391_449_088),
        ("d24", "image", 1024, 1_243_270_912),
    ],
)
def test_parameters_of_the_presets(name: str, kind: Any, width: int, count: int) -> None:
    scales = ARConfig().scales
    config = preset(name, kind, codebook_size=16384, code_dim=8, scales=scales, context_dim=width, pooled_dim=width)
    with torch.device("meta"):
        model = ARTransformer(config)
    assert sum(p.numel() for p in model.parameters()) == count
    assert (config.tokens, config.begins[:3], config.ends[-2:]) == (2040, (0, 3, 15), (1272, 2040))
    assert config.drop_path_rate == pytest.approx(0.1 * config.depth / 24)


def test_parameters_grow_with_depth_by_one_rule() -> None:
    """The published counts fix the polynomial; d30 is a point of it."""
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in ARTransformer(ARConfig(depth=d, width=64 * d)).parameters()) for d in (16, 24, 30)
        ]
    for depth, count in zip((16, 24, 30), counts, strict=True):
        width = 64 * depth
        per_block = 20 * width**2 + 2 * 1024 * width + 18 * width + 2 * 16
        outside = width * (1024 + 8 + 2040 + 10 + 3 + 16384 + 3) + 2 * width**2 + 2 * width + 16384
        assert count == depth * per_block + outside


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"heads": 5}, "width of 24, which 5 heads do not divide"),
        ({"depth": 0}, "depth is 0: choose a positive number"),
        ({"scales": ()}, r"cannot have the scales \[\]"),
        ({"drop_path": 1.0}, "drop_path is 1.0: it is a rate"),
        ({"sequential_scales": 5}, "sequential_scales is 5: it is 0 or a number of its 4 scales"),
        ({"sequential_scales": -1}, "sequential_scales is -1"),
        ({"color": 1}, "wrong at color"),
        ({"condition": "sound"}, "wrong at condition"),
    ],
)
def test_configurations_that_are_none(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        from_dict({**to_dict(MICRO), **change})
    assert "\n" not in str(caught.value)


def test_the_configuration_comes_back_and_needs_no_torch() -> None:
    assert from_dict(to_dict(MICRO)) == MICRO
    with pytest.raises(UserError, match="no preset d17 of the transformer: choose one of tiny, d16, d24, d30"):
        preset("d17", "text", codebook_size=1, code_dim=1, scales=(1,), context_dim=1, pooled_dim=1)
    loaded = "import sys, sar3d.ar.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "tokens", "pooled", "scales", "sentence"),
    [
        ((2, 100, 4), 7, 5, None, "takes 114 inputs of 4 channels per sample for 4 scales"),
        ((2, 114, 8), 7, 5, None, "takes 114 inputs of 4 channels"),
        ((2, 114, 4), 9, 5, None, "takes conditions of 7 channels and pooled ones of 5, not 9 and 5"),
        ((2, 114, 4), 7, 6, None, "not 7 and 6: use the encoder it was trained with"),
        ((2, 114, 4), 7, 5, 5, "cannot compute 5 scales: it has 4"),
        ((2, 114, 4), 7, 5, 0, "cannot compute 0 scales"),
    ],
)
def test_what_does_not_fit(
    model: ARTransformer, words: tuple[int, ...], tokens: int, pooled: int, scales: int | None, sentence: str
) -> None:
    condition = Condition(torch.zeros(2, 6, tokens), torch.zeros(2, pooled))
    with pytest.raises(UserError, match=sentence):
        model(torch.zeros(words), condition, scales=scales)


def test_conditions_are_joined_chosen_and_repeated() -> None:
    _, condition = inputs(batch=3)
    both = Condition.cat([condition.select([2, 0]), condition.select(torch.tensor([1])).expand(2)])
    assert len(both) == 4
    for mine, theirs in zip(range(4), (2, 0, 1, 1), strict=True):
        assert torch.equal(both.tokens[mine], condition.tokens[theirs])
        assert torch.equal(both.pooled[mine], condition.pooled[theirs])
    assert condition.to("meta").pooled.device.type == "meta"


@torch.no_grad()
@pytest.mark.parametrize("sequential", [0, 2])
def test_flops_are_those_that_a_counter_counts(sequential: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = dataclasses.replace(MICRO, sequential_scales=sequential)
    model, (words, condition) = transformer(config), inputs(batch=1)
    model.attention = "scales"
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        model(words, condition, code_vectors=torch.randn(1, 15, 4))
    assert forward_flops(config, 6) == counter.get_total_flops()
    assert training_flops(config, 6) == 3 * forward_flops(config, 6)


def _attention_flops(
    q: Any, k: Any, v: Any, dropout: float = 0.0, causal: bool = False, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    batch, heads, queries, width = q
    pairs = queries * (queries + 1) // 2 if causal else queries * k[2]
    return 4 * batch * heads * pairs * width


_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def test_peaks_of_known_gpus() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("NVIDIA GeForce GTX 1080") is None
