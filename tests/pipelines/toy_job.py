"""Run the toy stage as the entrypoint of a submitted job: `python tests/pipelines/toy_job.py ROOT key=json ...`."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import toy
from ray import cloudpickle

from pipelines.runtime.engine import run_stage
from pipelines.runtime.progress import log
from sar3d.errors import UserError

cloudpickle.register_pickle_by_value(toy)
settings = dict(word.split("=", 1) for word in sys.argv[2:])
config = toy.toy_pipeline(root=sys.argv[1], toy=toy.ToyConfig(**{k: json.loads(v) for k, v in settings.items()}))
try:
    report = run_stage(toy.ToyStage(), config)
except UserError as error:
    log(f"error: {error}")
    sys.exit(2)
log(f"{report.state} {report.fingerprint} in {report.seconds:.2f} s: {report.why}")
