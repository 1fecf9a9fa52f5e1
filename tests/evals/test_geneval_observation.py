"""GenEval from images to observations: detection, colours, and whether the plan or the drawing went wrong."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image, ImageDraw

from evals.core.backends import Tools
from evals.core.records import Case, Detection, Drawn, Sample, UserError
from evals.core.vocabulary import CLASSES, COLORS
from evals.geneval import prompts, suite
from evals.geneval.suite import SUITE
from evals.harness import cli
from evals.metrics import layout
from evals.suite import objects
from got import iconworld

SIDE_PX = 60


class PaintDetector:
    """Finds rectangles by their fill: one class for each paint."""

    name = "paint"
    min_score = 0.01
    classes = frozenset(CLASSES)
    paints: ClassVar = {"red": "dog", "blue": "cat", "white": "bird"}

    def __init__(self, score=0.95, *, masks=False):
        self.score, self.masks, self.calls = score, masks, 0

    def detect(self, images):
        self.calls += 1
        return [list(self._find(np.asarray(image))) for image in images]

    def _find(self, pixels):
        for paint, name in self.paints.items():
            mask = (pixels == np.array(Image.new("RGB", (1, 1), paint))[0, 0]).all(axis=-1)
            if mask.any():
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
                yield Detection(name=name, score=self.score, box_xyxy_px=box, mask=mask if self.masks else None)
        yield Detection(name="person", score=0.02, box_xyxy_px=(0.0, 0.0, 9.0, 9.0))


class PaintEmbedder:
    """A CLIP of paints: an image is its mean colour, a text the colour that it names."""

    name = "paint"

    def __init__(self):
        self.batches = []

    def embed_images(self, images):
        self.batches.append([np.asarray(image).mean(axis=(0, 1)) for image in images])
        return self._unit(self.batches[-1])

    def embed_texts(self, texts):
        named = [re.search("|".join(COLORS), text)[0] for text in texts]
        return self._unit([np.array(Image.new("RGB", (1, 1), name))[0, 0] for name in named])

    def _unit(self, colors):
        vectors = np.asarray(colors, dtype=np.float32) / 127.5 - 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def paint(**boxes):
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), "#123456")
    for color, (x1, y1, x2, y2) in boxes.items():
        ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=color)
    return image


def tools(detector=None, embedder=None, oracle_render=None):
    return Tools(
        detector=lambda: detector or PaintDetector(),
        embedder=lambda: embedder or PaintEmbedder(),
        oracle_render=oracle_render,
    )


def arguments(*words):
    return cli.parse(SUITE, words).options


def observe(samples, images, chains, tools, options):
    drawn = zip(samples, images, chains, strict=True)
    batch = [Drawn(sample=sample, image=image, chain=chain) for sample, image, chain in drawn]
    return SUITE.observe(batch, SUITE.prepare(tools, options), options)


def case(tag, include, exclude=(), number=0):
    metadata = {"tag": tag, "include": include, **({"exclude": exclude} if exclude else {}), "prompt": "a photo"}
    return Case(id=f"{number:05d}", prompt="a photo", tag=tag, metadata=metadata)


def sample(of, index=0):
    return Sample(case=of, index=index, seed=index)


DOG = case("single_object", [{"class": "dog", "count": 1}])
RED_DOG = case("colors", [{"class": "dog", "count": 1, "color": "red"}])
CAT_LEFT_OF_DOG = case(
    "position", [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}]
)
GOOD_PLAN = (
    "a photo of a cat <|box_start|>(0,400),(200,600)<|box_end|> (red) left of "
    "a dog <|box_start|>(700,400),(900,600)<|box_end|> (green)"
)


# -------------------------------------------------------------------------------------------------------- observation
def test_a_batch_costs_one_detection_and_one_colour_check():
    detector, embedder = PaintDetector(), PaintEmbedder()
    samples = [sample(RED_DOG), sample(DOG), sample(RED_DOG, 1)]
    images = [paint(red=(5, 5, 30, 30)), paint(red=(1, 1, 9, 9)), paint(red=(0, 0, 20, 20), blue=(30, 30, 40, 40))]
    observations = observe(samples, images, [None] * 3, tools(detector, embedder), arguments())
    assert detector.calls == 1
    assert [len(batch) for batch in embedder.batches] == [2]
    assert [[(d["name"], d["color"]) for d in o["detections"]] for o in observations] == [
        [("dog", "red")],
        [("dog", None)],
        [("dog", "red"), ("cat", None)],
    ]
    assert json.loads(json.dumps(observations)) == observations
    verdicts = [SUITE.score(s.case, o, arguments()) for s, o in zip(samples, observations, strict=True)]
    assert all(judged.correct for judged in verdicts)


def test_no_colour_is_asked_where_no_prompt_names_one():
    embedder = PaintEmbedder()
    observe([sample(DOG)], [paint(red=(5, 5, 30, 30))], [None], tools(embedder=embedder), arguments())
    assert embedder.batches == []


def test_colours_are_known_for_any_threshold_tried_later():
    observed = observe(
        [sample(RED_DOG)], [paint(red=(5, 5, 30, 30))], [None], tools(PaintDetector(score=0.1)), arguments()
    )
    assert not SUITE.score(RED_DOG, observed[0], arguments()).correct
    assert SUITE.score(RED_DOG, observed[0], arguments("--threshold", "0.06")).correct


def test_a_colour_that_was_not_named_is_asked_for_and_not_taken_for_a_wrong_one():
    """Two red dogs that overlap, and a third: only with suppression does the third count."""
    two = case("colors", [{"class": "dog", "count": 2, "color": "red"}])
    dogs = [
        Detection(name="dog", score=score, box_xyxy_px=box)
        for score, box in ((0.9, (5, 5, 30, 30)), (0.8, (5, 5, 30, 29)), (0.7, (35, 35, 60, 60)))
    ]
    colored = [dataclasses.replace(dog, color=color) for dog, color in zip(dogs, ("red", "red", None), strict=True)]
    seen = {"width": SIDE_PX, "height": SIDE_PX, "detections": objects.as_log(colored), "plan": None}
    assert SUITE.score(two, seen, arguments()).correct
    with pytest.raises(UserError, match="case 00000: a dog counts whose colour was not named"):
        SUITE.score(two, seen, arguments("--max-overlap", "0.5"))


def test_outside_its_mask_an_object_is_painted_grey():
    mask = np.zeros((SIDE_PX, SIDE_PX), dtype=bool)
    mask[10:20, 10:15] = True
    detection = Detection(name="dog", score=1.0, box_xyxy_px=(10.2, 9.8, 19.6, 20.4), mask=mask)
    pixels = np.asarray(objects.crop(paint(red=(0, 0, SIDE_PX, SIDE_PX)), detection))
    assert pixels.shape == (10, 10, 3)
    assert (pixels[:, :5] == (255, 0, 0)).all()
    assert (pixels[:, 5:] == 0x99).all()


def test_a_box_without_area_still_gives_a_crop():
    detection = Detection(name="dog", score=1.0, box_xyxy_px=(10.1, 10.1, 10.3, 10.2))
    assert objects.crop(paint(), detection).size == (1, 1)


def test_a_detector_that_hides_what_the_threshold_asks_for_is_refused():
    detector = PaintDetector()
    detector.min_score = 0.5
    with pytest.raises(UserError, match=r"a threshold of 0.3 is below 0.5, the least that paint returns"):
        SUITE.prepare(tools(detector), arguments())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--threshold", "0.01"), "--threshold is 0.01; expected a number from 0.05 to 1.0"),
        (("--counting-threshold", "2"), "--counting-threshold is 2.0"),
        (("--max-objects", "0"), "--max-objects is 0; expected a number from 1"),
        (("--max-overlap", "nan"), "--max-overlap is nan"),
        (("--position-threshold", "-1"), "--position-threshold is -1.0"),
    ],
)
def test_a_threshold_out_of_range_is_one_clear_error(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        arguments(*words)


# ----------------------------------------------------------------------------------------------------- plan or drawing
def traced(image, chain, oracle_render, of=CAT_LEFT_OF_DOG):
    options = arguments()
    observed = observe([sample(of)], [image], [chain], tools(oracle_render=oracle_render), options)
    observation = json.loads(json.dumps(observed[0]))
    return SUITE.score(of, observation, options), observation


def exact(chain, seed):
    return paint(blue=(0, 24, 12, 36), red=(42, 24, 54, 36))


def test_a_wrong_image_is_traced_to_its_cause():
    swapped = paint(red=(0, 24, 12, 36), blue=(42, 24, 54, 36))
    bad_plan = GOOD_PLAN.replace("left of", "and").replace("a cat", "a zebra")
    assert traced(exact("", 0), GOOD_PLAN, exact)[0].fault is None
    assert traced(swapped, GOOD_PLAN, exact)[0].fault == "drawing_wrong"
    assert traced(swapped, GOOD_PLAN, lambda chain, seed: paint())[0].fault == "detector_doubt"
    assert traced(swapped, GOOD_PLAN, None)[0].fault == "unchecked"
    assert traced(swapped, bad_plan, exact)[0].fault == "plan_wrong"
    assert traced(swapped, "no boxes at all", exact)[0].fault == "plan_wrong"
    assert traced(swapped, None, exact)[0].fault == "no_plan"


def test_exact_drawings_are_made_only_where_they_can_tell_something():
    drawn = []

    def render(chain, seed):
        drawn.append((chain, seed))
        return exact(chain, seed)

    right, wrong = exact("", 0), paint(blue=(0, 24, 12, 36))
    samples = [sample(CAT_LEFT_OF_DOG, index) for index in range(3)]
    detector = PaintDetector()
    observe(
        samples, [right, wrong, wrong], [GOOD_PLAN, GOOD_PLAN, ""], tools(detector, oracle_render=render), arguments()
    )
    assert drawn == [(GOOD_PLAN, 1)]
    assert detector.calls == 2


def test_an_image_is_compared_with_its_plan():
    outcome, _ = traced(exact("", 0), GOOD_PLAN, exact)
    assert outcome.fit.ious == pytest.approx((1.0, 1.0))
    outcome, _ = traced(paint(red=(42, 24, 54, 36)), GOOD_PLAN, exact)
    assert outcome.fit.ious == pytest.approx((0.0, 1.0))
    assert len(outcome.fit.offsets) == 1


def test_the_plan_is_judged_in_the_images_own_proportions():
    red_plan = "a photo of a red dog <|box_start|>(0,0),(500,500)<|box_end|> (red)"
    assert traced(paint(red=(0, 0, 30, 30)), red_plan, None, of=RED_DOG)[0].plan_correct
    blue_plan = red_plan.replace("a red dog", "a blue dog")
    outcome, _ = traced(paint(red=(0, 0, 30, 30)), blue_plan, None, of=RED_DOG)
    assert (outcome.correct, outcome.plan_correct) == (True, False)


def test_the_words_are_those_of_the_icon_world():
    assert (iconworld.CLASSES, iconworld.COLORS) == (CLASSES, COLORS)


def test_flawless_chains_are_right_plans():
    """The whole grammar in use: prompt to scene to chain, and the chain read back as detections."""
    options = arguments()
    for of in prompts.cases(prompts.generate())[::6]:
        scene = iconworld.scene_from_include(of.metadata["include"], seed=7)
        planned = layout.parse_plan(iconworld.chain_text(scene))
        assert [(item.name, item.color) for item in planned] == [(item.name, item.color) for item in scene.objects]
        judged = suite.verdict(of, layout.as_detections(planned, SIDE_PX, SIDE_PX), options)
        assert judged.reason == ""
