"""What crosses a stage boundary: frozen records, and their JSON forms. Imports nothing heavy."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, Any

from got.util.errors import UserError as UserError
from got.util.errors import note as note
from got.util.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

BoxPx = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the image, origin at the top left."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One prompt (or edit) of a suite."""

    id: str
    """Stable name inside the suite; GenEval uses the zero-padded line number, ``"00042"``."""
    prompt: str
    tag: str
    """The task the case belongs to, e.g. ``"two_object"``."""
    metadata: dict[str, Any]
    """The case's own line of the benchmark file, unchanged."""
    edit: EditCase | None = dataclasses.field(default=None, compare=False)
    """Source image and what is known of the outcome, where the case is an edit."""


def describes(metadata: Mapping[str, Any]) -> str:
    """What a case asks of its images, as a text without the prompt: cases with equal texts differ in wording at most.

    >>> describes({"tag": "t", "include": [], "prompt": "a"}) == describes({"prompt": "b", "include": [], "tag": "t"})
    True
    """
    return json.dumps([metadata.get(key) or None for key in ("tag", "include", "exclude")], sort_keys=True)


MAX_TAG = 200
"""Characters of a task's name, which names a file."""


def unfit(tag: str, prompt: str) -> str | None:
    r"""Why a case cannot be run, as far as its words tell; None if it can.

    >>> unfit("counting", "a dog"), unfit("a" * 300, "a dog")
    (None, 'tag has 300 characters; expected at most 200')
    >>> unfit("counting", "a \udc80")
    'prompt has a lone surrogate, which no file can hold; expected Unicode text'
    """
    for name, text in (("tag", tag), ("prompt", prompt)):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            return f"{name} has a lone surrogate, which no file can hold; expected Unicode text"
    return f"tag has {len(tag)} characters; expected at most {MAX_TAG}" if len(tag) > MAX_TAG else None


def alike(prompt: str, metadata: Mapping[str, Any]) -> str:
    """A key that cases share which are one case under several ids: their images form one cluster.

    >>> alike("a", {"tag": "t", "seed": 1}) == alike("a", {"tag": "t", "seed": 2}) != alike("b", {"tag": "t"})
    True
    """
    return json.dumps([prompt, describes(metadata)])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image to be made for a case."""

    case: Case
    index: int
    seed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What a generator returns for a sample: an image, or the reason why there is none."""

    image: Image.Image | None
    chain: str | None = None
    """The reasoning chain with boxes, where the model writes one."""
    warnings: tuple[str, ...] = ()
    error: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detection:
    """One detected object."""

    name: str
    """Class name in GenEval's spelling."""
    score: float
    """Confidence in [0, 1]."""
    box_xyxy_px: BoxPx
    color: str | None = None
    """Colour word, filled in only where the suite asks for it."""
    mask: NDArray[np.bool_] | None = None
    """Boolean (height, width) instance mask, if the detector gives one. Not logged."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """An image that is to be observed."""

    sample: Sample
    image: Image.Image
    """RGB, EXIF orientation applied."""
    chain: str | None = None
    """The chain behind it, if its model wrote one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What an observation means for its case. A suite that knows more adds fields."""

    correct: bool | None = None
    """None where nothing tells right from wrong."""
    reason: str = ""
    """Empty if not wrong; else one line per thing that is wrong."""
    kept: dict[str, tuple[Detection, ...]] = dataclasses.field(default_factory=dict)
    """Class name -> detections that passed the thresholds, best first."""
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    """What was measured, by name; empty where right or wrong is all."""

    @property
    def fault(self) -> str | None:
        """Where a wrong image went wrong, such as ``plan_wrong``; None where that is not known."""
        return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """An image with all that is known of it: what tables, sheets and reports are made of."""

    sample: Sample
    observation: Mapping[str, Any]
    """As it was logged, with ``case`` and ``index``."""
    score: Score

    @property
    def key(self) -> str:
        """Case and index, as in ``00042/1``."""
        return f"{self.sample.case.id}/{self.sample.index}"


# --------------------------------------------------------------------------------------------------------------- edits
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedImage:
    """An image of a data set, as its file holds it. Read when it is asked for, so that a case costs no memory."""

    name: str
    """Where it lies, for messages: ``"test-00000.parquet row 17 image"``."""
    read: Callable[[], bytes]
    """The bytes of the image file."""

    def sha256(self) -> str:
        """Hash of the file: the same image under two names is one image."""
        return hashlib.sha256(self.read()).hexdigest()

    def load(self) -> Image.Image:
        """The image as a person sees it: RGB, upright.

        Raises:
            ValueError: The bytes are no readable image.
        """
        from got.util.images import as_rgb

        return as_rgb(self._decode(), self.name, max_aspect=math.inf)

    def load_mask(self) -> NDArray[np.bool_]:
        """The image as a mask, bool (height, width): True where it is transparent, or white in black and white.

        Levels above 127 count as white, so the ringing of a JPEG file does not. Transparency goes first.

        Raises:
            ValueError: The bytes are no readable image, or show neither transparency nor black and white.
        """
        import numpy as np

        from got.util.images import as_rgb, turned

        image = self._decode()
        if "A" in image.getbands() or "transparency" in image.info:
            alpha = np.asarray(turned(image).convert("RGBA"))[..., 3]
            if (alpha < 128).any():
                clear: NDArray[np.bool_] = alpha < 128
                return clear
        levels = np.asarray(as_rgb(image, self.name, max_aspect=math.inf).convert("L"))
        if np.mean((levels > 63) & (levels < 192)) > 0.05:
            raise ValueError(f"{self.name}: expected a mask with transparency or in black and white but got an image")
        white: NDArray[np.bool_] = levels > 127
        return white

    def load_levels(self) -> NDArray[np.uint8]:
        """The image in grey levels, uint8 (height, width), as SmartEdit's own metrics take a mask.

        Raises:
            ValueError: The bytes are no readable image.
        """
        import numpy as np

        from got.util.images import as_rgb

        image = self._decode()
        if image.mode.startswith("I"):  # more than 8 bits, which Pillow would cut off
            image = as_rgb(image, self.name, max_aspect=math.inf)
        levels: NDArray[np.uint8] = np.asarray(image.convert("L"))
        return levels

    def _decode(self) -> Image.Image:
        from got.util.images import decode  # a case can be counted and named without Pillow

        try:
            return decode(self.read(), "the file")
        except Exception as error:  # of the image, of Parquet, of the file system, of a path that leads out
            raise ValueError(f"{self.name}: {one_line(error)}") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditCase:
    """One edit of an editing suite: what is to be done to which image, and what is known of the outcome."""

    id: str
    """Unique in its set, safe as a file name."""
    instruction: str
    source: EncodedImage
    target: EncodedImage | None = None
    """The image after the edit, where someone made one."""
    mask: EncodedImage | None = None
    """Where the edit belongs."""
    released: EncodedImage | None = None
    """A published system's own result, where the set comes with one."""
    captions: dict[str, str] = dataclasses.field(default_factory=dict)
    """``source`` and ``target`` describe the whole image before and after; ``target_local`` the edited part after;
    ``object`` the edited object. Only those that the set has."""
    category: str
    """Its kind in the set's own words, e.g. ``"background"`` or ``"1-Left-Right"``."""
    group: str | None = None
    """Name of the source image, to cluster by; None where the set gives none (then hash its bytes)."""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What else the set says, JSON-able; in the icon world the truth of the edit."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JudgeQuestion:
    """One question to a judge about one edit."""

    case: EditCase
    """The instruction, and for a judge that measures, the truth in ``case.extra``."""
    source: Image.Image
    """RGB, before."""
    result: Image.Image
    """RGB, after."""
    repeat: int = 0
    """The same question may be asked several times, to see how much the judge wavers."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A judge's answer, or why there is none. A missing answer is missing: never 0, never a guess."""

    judge: str
    """Protocol, judge id and hash of the prompts; the name of the column it may stand in."""
    repeat: int = 0
    scores_0_10: dict[str, float] = dataclasses.field(default_factory=dict)
    """The judge's single scores by name, each in [0, 10]; empty if the judgement failed."""
    value: float | None = None
    """The protocol's final score in [0, 1]; None if the judgement failed."""
    failure: str | None = None
    """One of `evals.metrics.judging.CAUSES`; None if it did not fail."""
    detail: str = ""
    """What went wrong, in one line."""
    replies: tuple[str, ...] = ()
    """Raw replies, those that were not legal included, in the order asked."""
    calls: int = 0
    """Requests sent; 0 if every reply came from the cache."""
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float | None = None
    """Money spent on these requests; None where no price is known."""

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return dataclasses.asdict(self)


_NAMED = re.compile(r"^(\w+: )?(?:(?:[^:]*\.\w{2,7}(?: row \d+)?|\S*/\S*): |(?:images/)?\d+/)")
"""How an error message begins: with a kind of error, if there is one, and the file that it is about."""


def causes_of(failures: Sequence[Mapping[str, Any]]) -> collections.Counter[str]:
    """How often each stage failed for each cause. Only a sample's last failure counts; names of its files are cut off.

    >>> errors = ["ValueError: a/b.png: cut short", "7/metadata.jsonl is for 'a', not 'b'", "no label for 'bear'"]
    >>> lines = [{"case": "0", "index": i, "stage": "generate", "error": words} for i, words in enumerate(errors)]
    >>> list(causes_of(lines))
    ['generate: ValueError: cut short', 'generate: metadata.jsonl is for …, not …', 'generate: no label for …']
    >>> causes_of([{**lines[0], "error": "out of memory"}, {**lines[0], "error": "00042/samples/0001: no such image"}])
    Counter({'generate: no such image': 1})
    """
    last = {(line["case"], line["index"]): line for line in failures}
    words = ((line["stage"], re.sub(r"'[^']*'|\"[^\"]*\"", "…", line["error"])) for line in last.values())
    return collections.Counter(f"{stage}: {_NAMED.sub(lambda found: found[1] or '', error)}" for stage, error in words)


class NothingLeft(UserError):
    """What was given is of the right kind, but no case is left of it: nothing is scored, and the exit code says so."""


_UNREAD = ("not in the model's vocabulary", "beyond what the text encoder reads")
"""How warnings begin that say what a model does not take in of a prompt."""


def unread(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Of log lines of chains, the prompts that a model does not take in whole, with what is lost, by the reason.

    >>> line = {"case": "00007", "index": 0, "warnings": ["not in the model's vocabulary: kraken", "something else"]}
    >>> unread([line, {**line, "index": 1}, {"case": "00008", "warnings": []}])
    {"not in the model's vocabulary": ['00007: kraken']}
    """
    found: dict[str, dict[str, str]] = {}
    for line in lines:
        for warning in line.get("warnings", ()):
            kind, _, words = warning.partition(": ")
            if kind in _UNREAD:
                found.setdefault(kind, {}).setdefault(line["case"], f"{line['case']}: {words}")
    return {kind: list(cases.values()) for kind, cases in found.items()}


def counted_causes(by_cause: Mapping[str, int]) -> str:
    """The most frequent causes with their counts, in one line.

    >>> counted_causes({"generate: no such image": 40, "observe: out of memory": 8})
    '40 × generate: no such image; 8 × observe: out of memory'
    """
    causes = [f"{count} × {cause}" for cause, count in by_cause.items()]
    more = [f"and {len(causes) - 3} more causes"] if len(causes) > 3 else []
    return "; ".join([*causes[:3], *more])


def unlabelled(failures: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The classes that the detector has no label for, from the log lines of failures; empty where none failed for that.

    >>> unlabelled([{"error": "no such image"}, {"missing_classes": ["zebra", "bear"]}]), unlabelled([])
    ({'classes': ['bear', 'zebra']}, {})
    """
    names = sorted({name for line in failures for name in line.get("missing_classes", ())})
    return {"classes": names} if names else {}


def sample_seed(suite: str, case_id: str, index: int, base_seed: int) -> int:
    """Seed of one sample, independent of batch, shard and run order.

    >>> sample_seed("geneval", "00000", 0, 42) == sample_seed("geneval", "00000", 0, 42)
    True
    >>> 0 <= sample_seed("geneval", "00000", 1, 42) < 2**63
    True
    """
    key = "\x1f".join((suite, case_id, str(index), str(base_seed))).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
