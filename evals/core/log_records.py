"""What lies in a run directory, as types: a line of each log, run.json and scores.json. docs/run-directory.md has them.

Suites of other packages add what they like to observations; the default methods of `evals.suite.Suite` write the rest.
"""

# No postponed annotations: they would hide which keys are not required.
from typing import Any, NotRequired, TypedDict


class SampleLine(TypedDict):
    """What every line of a log begins with."""

    case: str
    index: int


class ChainLine(SampleLine):
    """chains.jsonl: an image that was drawn."""

    seed: int
    sha256: str
    chain: str | None
    warnings: list[str]


class TimesLine(SampleLine):
    """times.jsonl: its share of the seconds of its batch."""

    generate_s: NotRequired[float]
    observe_s: float


class FailureLine(SampleLine):
    """failures.jsonl: a sample without an observation."""

    stage: str
    error: str
    raised: NotRequired[bool]
    missing_classes: NotRequired[list[str]]


class SourceLine(SampleLine):
    """sources.jsonl: the file that an image of a folder is made of."""

    file: str | None
    sha256: str | None
    fault: str | None


class DetectionRecord(TypedDict):
    """An object that was detected."""

    name: str
    score: float
    box_xyxy_px: list[float]
    color: str | None


class ObservationLine(SampleLine):
    """observations.jsonl: what was seen in an image. GenEval's are all of it."""

    width: int
    height: int
    detections: NotRequired[list[DetectionRecord]]
    plan: NotRequired[dict[str, Any] | None]


class EditObservationLine(ObservationLine):
    """observations.jsonl of an editing suite."""

    category: str
    group: str
    black: bool
    truncated: list[str]
    truncation_unknown: list[str]
    metrics: dict[str, float | str]
    identity: dict[str, float | str]
    target: dict[str, float | str]
    judgements: list[dict[str, Any]]
    truth: NotRequired[dict[str, Any]]
    measured: NotRequired[dict[str, Any]]


class ResultLine(TypedDict):
    """results.jsonl: the schema of GenEval's public scorer, and of suites that have none of their own."""

    filename: str
    tag: str
    prompt: str
    correct: bool | None
    reason: str
    metadata: str
    details: str
    values: NotRequired[dict[str, float]]


class EditResultLine(TypedDict):
    """results.jsonl of an editing suite."""

    filename: str
    case: str
    category: str
    instruction: str
    correct: bool | None
    reason: str
    metrics: dict[str, float | str]
    judge: list[float | None]
    details: str


class RunRecord(TypedDict):
    """run.json."""

    arguments: dict[str, Any]
    machine: dict[str, Any]
    identity: dict[str, dict[str, Any]]
    redo: str | None
    made_with: dict[str, str]
    resumed: NotRequired[list[dict[str, Any]]]


class ScoresRecord(TypedDict):
    """scores.json of a suite that sums up as `evals.suite.Suite` does, and what GenEval adds."""

    suite: str
    version: int
    title: NotRequired[str]
    model: str
    checkpoint: str | None
    detector: str
    world: str
    overall: dict[str, Any]
    images: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    missing: dict[str, Any]
    directions: dict[str, str]
    intervals: str
    prompts: NotRequired[str]
    wording: NotRequired[str | None]
    options: NotRequired[dict[str, Any]]
    faults: NotRequired[dict[str, str]]
    reference: NotRequired[dict[str, Any] | None]
    left_out: NotRequired[list[str]]


class EditScoresRecord(TypedDict):
    """scores.json of an editing suite."""

    suite: str
    version: int
    title: str
    protocol: str
    data: dict[str, Any]
    model: str
    checkpoint: str | None
    detector: str
    world: str
    overall: dict[str, Any]
    categories: dict[str, dict[str, Any]]
    pooled: dict[str, dict[str, Any]]
    missing: dict[str, Any]
    faults: dict[str, str]
    intervals: str
