"""A judge's scores of captions in MLflow's evaluation view: each caption is a trace with the score and its reason."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.runtime.mlflow_run import Place, connect
from sar3d.metrics.caption_judge import Judgement


@dataclass(frozen=True)
class Judged:
    """One caption and what the judge said of it."""

    uid: str
    caption: str
    reference: str
    judgement: Judgement


def log_judgements(where: Place, run_id: str, metric: str, judged: Sequence[Judged]) -> None:
    """Add the judged captions to a run, as MLflow evaluates generative models, with the mean under the metric's name.

    Args:
        metric: of `judge_name`.
    """
    connect(where)
    import mlflow
    from mlflow.entities import Feedback
    from mlflow.genai import evaluate, scorer

    by_uid = {one.uid: one.judgement for one in judged}

    @scorer(name=metric)
    def given(inputs: dict[str, str]) -> Feedback:
        found = by_uid[inputs["uid"]]
        return Feedback(value=found.score, rationale=found.reason)

    rows = [
        {"inputs": {"uid": one.uid}, "outputs": one.caption, "expectations": {"expected_response": one.reference}}
        for one in judged
    ]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(where.uri)
    try:
        with mlflow.start_run(run_id=run_id):
            evaluate(data=rows, scorers=[given])
    finally:
        mlflow.set_tracking_uri(before)
