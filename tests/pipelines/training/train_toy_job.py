"""Train the toy as a program of its own: `python tests/pipelines/training/train_toy_job.py ROOT key=json ...`.

Keys of the training settings begin with `train.`, those of the cluster with `cluster.`; `tracking=true` logs to MLflow.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import toy_stage
import toy_task
from ray import cloudpickle

from pipelines.runtime.cluster import ClusterConfig, in_job
from pipelines.runtime.interrupt import Interrupted
from pipelines.runtime.progress import log
from pipelines.runtime.runner import run
from pipelines.runtime.tracking import TrackingConfig
from sar3d.errors import UserError

for module in (toy_task, toy_stage):
    cloudpickle.register_pickle_by_value(module)
words = {key: json.loads(value) for key, value in (word.split("=", 1) for word in sys.argv[2:])}
tracking = TrackingConfig(enabled=words.pop("tracking", False))
part = {
    name: {k.removeprefix(name): words.pop(k) for k in list(words) if k.startswith(name)}
    for name in ("train.", "cluster.")
}
config = toy_stage.toy_pipeline(
    sys.argv[1],
    toy_stage.ToyTrainConfig(train=toy_stage.settings(**part["train."]), **words),
    tracking=tracking,
    cluster=ClusterConfig(**{"cpus": 4, "address": "auto" if in_job() else "local", **part["cluster."]}),
)
try:
    report = run(toy_stage.TrainToyStage(), config, log=log)
except UserError as error:
    log(f"error: {error}")
    sys.exit(2)
except Interrupted as error:
    log(str(error))
    sys.exit(error.code)
log(f"{report.state} {report.fingerprint} in {report.seconds:.2f} s: {report.why}")
