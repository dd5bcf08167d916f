"""A language model as the judge of captions, behind any endpoint that speaks the chat completions protocol.

Off unless an address is given. Its scores depend on the model, its version and the prompt, which are their identity; they
are no metric that others can reproduce.
"""

import hashlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import ClassVar

import requests

from sar3d.errors import ObjectError, UserError

KEY = "SAR3D_JUDGE_KEY"
"""Environment variable with the endpoint's key; no key is sent where it is not set."""

PROMPT = (
    "You compare two descriptions of one 3D object. The reference was written by a person. List for yourself what the "
    "reference says of the object: what it is, its parts, colors, materials, and style. Give every point the same weight "
    "and count how much of it the candidate says too; close synonyms count, half of what is partly right counts, and "
    "what the candidate adds does not. Answer with JSON only: "
    '{"score": <integer from 0 to 100>, "reason": "<one sentence>"}'
)


_WHERE: dict[str, bool] = {"identity": False}
"""What changes no score."""


@dataclass(frozen=True)
class JudgeConfig:
    """Where the judge is and how it is asked."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    url: str = field(default="", metadata=_WHERE)
    """Address of the endpoint up to and without `/chat/completions`; empty: no judge."""
    model: str = ""
    """Name of the model, as the endpoint calls it."""
    prompt: str = PROMPT
    """What the judge is told; it must ask for JSON with `score` and `reason`."""
    seconds: float = field(default=60.0, metadata=_WHERE)
    """Time for one answer."""
    attempts: int = field(default=3, metadata=_WHERE)
    """Tries for one answer."""


@dataclass(frozen=True)
class Judgement:
    """Of one caption."""

    score: float
    """From 0 to 100."""
    reason: str


def judge_name(config: JudgeConfig) -> str:
    """Name of the metric: the model, and the beginning of the prompt's digest."""
    model = re.sub(r"\W+", "_", config.model)
    return f"judge_{model}_{hashlib.sha256(config.prompt.encode()).hexdigest()[:8]}"


def judge(prediction: str, reference: str, config: JudgeConfig) -> Judgement:
    """The judge's score of a caption against its reference.

    Raises:
        UserError: the endpoint refuses the key, the model or the address, or there is none.
        ObjectError: it cannot be reached (`judge_unreachable`), or gives no score (`judge_answer`).
    """
    if not config.url or not config.model:
        raise UserError("a judge needs an address and the name of its model: set judge.url and judge.model")
    failure = ObjectError("judge_answer", "the judge was not asked")
    for attempt in range(config.attempts):
        try:
            return _parsed(_asked(prediction, reference, config))
        except ObjectError as error:
            failure = error
            if attempt + 1 < config.attempts:
                time.sleep(0.5 * 2**attempt)
    failure.attempts = config.attempts
    raise failure


def _asked(prediction: str, reference: str, config: JudgeConfig) -> str:
    """The text of one answer."""
    key = os.environ.get(KEY, "")
    question = f"Reference: {reference}\nCandidate: {prediction or '(nothing)'}"
    body = {
        "model": config.model,
        "temperature": 0,
        "messages": [{"role": "system", "content": config.prompt}, {"role": "user", "content": question}],
    }
    try:
        answer = requests.post(
            f"{config.url.rstrip('/')}/chat/completions",
            json=body,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=config.seconds,
        )
    except requests.RequestException as error:
        raise ObjectError("judge_unreachable", f"{config.url} does not answer ({type(error).__name__})") from error
    if answer.status_code in (400, 401, 403, 404):
        raise UserError(
            f"the judge at {config.url} refuses the request with status {answer.status_code}: check judge.url, judge.model "
            f"({config.model}) and the key in {KEY}"
        )
    if answer.status_code != 200:
        raise ObjectError("judge_unreachable", f"{config.url} answers with status {answer.status_code}")
    try:
        return str(answer.json()["choices"][0]["message"]["content"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ObjectError("judge_answer", f"{config.url} does not speak the chat completions protocol") from error


def _parsed(text: str) -> Judgement:
    """From JSON, alone or inside other text."""
    for found in re.finditer(r"\{.*?\}", text, re.DOTALL):
        try:
            values = json.loads(found[0])
            score = float(values["score"])
        except (ValueError, KeyError, TypeError):
            continue
        if 0 <= score <= 100:
            return Judgement(score, str(values.get("reason", "")))
    raise ObjectError("judge_answer", f"the judge gave no score from 0 to 100 but {text[:80]!r}")
