"""Scores of texts in MLflow's evaluation view: each text is a trace with its score and the reason for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Assessment:
    """One text and what a judge said of it."""

    uid: str
    text: str
    reference: str
    score: float
    reason: str


def log_assessments(client: Any, run_id: str, metric: str, assessments: Sequence[Assessment]) -> None:
    """Add judged texts to a run as MLflow evaluates generative models; their mean becomes the metric `<metric>/mean`.

    A run that has this metric is left as it is.
    """
    import mlflow
    from mlflow.entities import Feedback
    from mlflow.genai import evaluate, scorer

    if not assessments or f"{metric}/mean" in client.get_run(run_id).data.metrics:
        return
    by_uid = {one.uid: one for one in assessments}

    @scorer(name=metric)
    def given(inputs: dict[str, str]) -> Feedback:
        found = by_uid[inputs["uid"]]
        return Feedback(value=found.score, rationale=found.reason)

    rows = [
        {"inputs": {"uid": one.uid}, "outputs": one.text, "expectations": {"expected_response": one.reference}}
        for one in assessments
    ]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        with mlflow.start_run(run_id=run_id):
            evaluate(data=rows, scorers=[given])
    finally:
        mlflow.set_tracking_uri(before)
