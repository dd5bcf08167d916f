"""A language model judges the captions of `evaluate`: rows, table and MLflow have its scores, and what it did not score."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest
import rendered
from evaluated import configure, root

from pipelines.evaluate import EvaluateStage
from pipelines.evaluating.table import read_table
from pipelines.runtime.engine import prepare
from pipelines.runtime.reading import read_rows
from sar3d.errors import UserError

STAGE = EvaluateStage()


class Stub(BaseHTTPRequestHandler):
    """Scores the first caption, and says something useless of every other."""

    asked = 0

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Stub.asked += 1
        text = '{"score": 40, "reason": "the color is wrong"}' if Stub.asked == 1 else "It is hard to say."
        data = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()


@pytest.mark.slow
def test_captions_are_judged_once_and_logged(url: str, local_ray: object) -> None:
    root()
    words = [f"evaluate.{what}=false" for what in ("reconstruction", "text", "image")]
    judge = [f"evaluate.judge.url={url}", "evaluate.judge.model=m", "evaluate.judge.attempts=1"]
    config = configure(*words, *judge, "tracking.enabled=true", "evaluate.workers=1")
    report, output = rendered.run(STAGE, config)
    rows = list(read_rows(output))
    assert rows[0]["judged"] == "the color is wrong"
    assert rows[1]["judged"].startswith("judge_answer: the judge gave no score")
    (line,) = [line for line in read_table(output) if line.metric.startswith("judge_m_")]
    assert (line.ours, line.objects) == (40.0, 1)
    assert line.note.startswith("1 captions without a score, the first: judge_answer")
    run = mlflow.MlflowClient(f"sqlite:///{config.root}/mlflow.db").get_run(str(report.run_id))
    assert run.data.metrics[f"{line.metric}/mean"] == 40
    other = configure(*words, f"evaluate.judge.url={url}/", "evaluate.judge.model=m", "evaluate.judge.seconds=1")
    assert STAGE.identity(prepare(STAGE, other, lambda _: None)) == STAGE.identity(
        prepare(STAGE, config, lambda _: None)
    ), "where the judge is does not count"


def test_half_a_judge_is_one_sentence(local_ray: object) -> None:
    with pytest.raises(UserError, match="needs both its address and the name of its model"):
        prepare(STAGE, configure("evaluate.judge.model=m"), lambda _: None)


def test_no_judge_is_asked_by_default() -> None:
    assert not configure(where=Path("nowhere")).evaluate.judge.url
