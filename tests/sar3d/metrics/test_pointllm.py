"""Captions by the PointLLM protocol, and a judge behind a local server."""

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nltk
import pytest
import torch

from sar3d.errors import ObjectError, UserError
from sar3d.metrics.caption_judge import KEY, JudgeConfig, judge, judge_name
from sar3d.metrics.pointllm import pointllm_scores
from sar3d.metrics.sentences import SentenceEncoder


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_scores_are_those_of_the_protocol() -> None:
    """Worked out by hand; an empty answer counts as two signs that match nothing."""
    found = pointllm_scores(["a red cup", "", "a big old red cup"], ["a red cup", "a boat", "a red cup"])
    one, empty, long = zip(*(found.values[f"pointllm_bleu_{n}"] for n in (1, 2)), strict=True)
    assert one == pytest.approx((100, 100))
    assert empty == (0, 0)
    assert long[0] == pytest.approx(100 * 3 / 5)
    assert long[1] == pytest.approx(100 * math.sqrt(3 / 5 * 1 / 4))
    # 3-grams with weights of 0.33: (3/5 · 1/4 · 0.1/3) ** 0.33
    assert found.values["pointllm_bleu_3"][2] == pytest.approx(100 * (3 / 5 * 1 / 4 * 0.1 / 3) ** 0.33)
    assert found.values["pointllm_rouge_l_rouge_score"] == pytest.approx([100, 0, 100 * 2 * 0.6 / 1.6])
    assert "WordNet" in found.absent["pointllm_meteor"]
    for name in ("mpnet", "simcse"):
        assert f"sar3d weights fetch {name}" in found.absent[f"pointllm_{name}_similarity"]
    with pytest.raises(ValueError, match="one of each"):
        pointllm_scores(["a"], [])


def tiny(folder: Path) -> None:
    """A RoBERTa with random weights and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    words = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefgh"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        RobertaModel(RobertaConfig(vocab_size=len(words), pad_token_id=1, **size)).save_pretrained(folder)


def test_sentences_are_pooled_as_each_encoder_was_trained(tmp_path: Path) -> None:
    from transformers import AutoModel

    tiny(tmp_path / "encoder")
    sentences = ["a b c", "d", "a a a a"]
    mean, first = (SentenceEncoder(name, str(tmp_path / "encoder")).encode(sentences) for name in ("mpnet", "simcse"))
    model = AutoModel.from_pretrained(tmp_path / "encoder").eval()
    with torch.no_grad():
        out = model(input_ids=torch.tensor([[4, 5, 6]]))
    torch.testing.assert_close(mean[0], torch.nn.functional.normalize(out.last_hidden_state[0].mean(0), dim=0))
    torch.testing.assert_close(first[0], torch.nn.functional.normalize(out.pooler_output[0], dim=0))
    found = pointllm_scores(["a b", "c"], ["a b", "d"], *[str(tmp_path / "encoder")] * 2)
    assert found.values["pointllm_mpnet_similarity"][0] == pytest.approx(100, abs=1e-3)
    assert set(found.absent) == {"pointllm_meteor"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no sentence encoder"):
        SentenceEncoder("mpnet", str(tmp_path / "empty"))


class Stub(ThreadingHTTPServer):
    """Answers every request with the next of `answers`: a status and the text of the message."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, str]] = []
        self.asked: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        status, text = self.server.answers.pop(0)
        data = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    server = Stub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setattr("sar3d.metrics.caption_judge.time.sleep", lambda seconds: None)
    yield server
    server.shutdown()
    server.server_close()


def test_the_judge_is_asked_by_the_common_protocol(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    config = JudgeConfig(url=stub.url, model="some-model:7b")
    stub.answers = [(200, 'Sure: {"score": 85, "reason": "the color is right"}')]
    found = judge("a red cup", "a crimson mug", config)
    assert (found.score, found.reason) == (85.0, "the color is right")
    (asked,) = stub.asked
    assert (asked["path"], asked["key"], asked["model"]) == ("/v1/chat/completions", "Bearer secret", "some-model:7b")
    assert "a crimson mug" in asked["messages"][1]["content"]
    assert asked["temperature"] == 0
    assert judge_name(config).startswith("judge_some_model_7b_")
    assert judge_name(config) != judge_name(JudgeConfig(url=stub.url, model="some-model:7b", prompt="other"))


def test_a_judge_that_stumbles_is_asked_again_and_then_named(stub: Stub) -> None:
    config = JudgeConfig(url=stub.url, model="m", attempts=2)
    stub.answers = [(503, ""), (200, '{"score": 0, "reason": ""}')]
    assert judge("a", "b", config).score == 0
    stub.answers = [(200, "I like it"), (200, '{"score": 700}')]
    with pytest.raises(ObjectError, match="gave no score from 0 to 100") as caught:
        judge("a", "b", config)
    assert (caught.value.kind, caught.value.attempts) == ("judge_answer", 2)
    stub.answers = [(401, "")]
    with pytest.raises(UserError, match=rf"status 401: check judge\.url, judge\.model \(m\) and the key in {KEY}"):
        judge("a", "b", config)
    with pytest.raises(ObjectError, match="does not answer"):
        judge("a", "b", JudgeConfig(url="http://127.0.0.1:9/v1", model="m", attempts=1))
    with pytest.raises(UserError, match=r"set judge\.url and judge\.model"):
        judge("a", "b", JudgeConfig())
