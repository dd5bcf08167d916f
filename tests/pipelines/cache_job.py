"""Run one cache stage as the entrypoint of a submitted job: `python cache_job.py STAGE CONFIG key=value ...`."""

import sys

from pipelines.cache_conditions import CacheConditionsStage
from pipelines.cache_tokens import CacheTokensStage
from pipelines.registry import load
from pipelines.runtime.engine import run_stage
from pipelines.runtime.interrupt import Interrupted
from pipelines.runtime.progress import log
from sar3d.errors import UserError

stages = {stage.name: stage for stage in (CacheTokensStage(), CacheConditionsStage())}
try:
    report = run_stage(stages[sys.argv[1]], load(sys.argv[2], sys.argv[3:]))
except (UserError, Interrupted) as error:
    log(f"error: {error}")
    sys.exit(2)
log(f"{report.state} {report.fingerprint} in {report.seconds:.2f} s: {report.why}")
