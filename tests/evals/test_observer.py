"""What the studio is told of an image, and of a run's samples."""

import json

import pytest
from PIL import Image
from report_kit import BOTH, CHAIN, NO_DOG, write_run

from evals.core.records import UserError
from evals.generators.oracle import oracle_render
from evals.geneval.observer import Observer
from reports.studio import StudioRun

APPLE = "a red apple <|box_start|>(60,60),(480,480)<|box_end|> (red)"
DOG = "a blue dog <|box_start|>(520,520),(940,940)<|box_end|> (green)"
PROMPT = "a photo of a red apple and a blue dog"


@pytest.fixture(scope="module")
def observer():
    return Observer("icon", "cpu")


def test_planned_objects_are_found_in_their_boxes_and_colours(observer):
    chain = f"there are {APPLE} and {DOG}"
    seen = observer.observe(oracle_render(chain, 1), "of no benchmark", chain, 1)
    assert [(one["name"], one["color"], one["seen_color"], one["found"]) for one in seen["planned"]] == [
        ("apple", "red", "red", True),
        ("dog", "blue", "blue", True),
    ]
    assert {one["name"] for one in seen["objects"]} == {"apple", "dog"}
    assert seen["verdict"] is None


def test_what_is_elsewhere_is_not_found(observer):
    image = oracle_render(f"there are {APPLE} and {DOG}", 1)
    moved = APPLE.replace("(60,60),(480,480)", "(520,20),(940,440)")
    (one,) = observer.observe(image, "", f"there is {moved}", 1)["planned"]
    assert (one["found"], one["iou"] < 0.5) == (False, True)
    (one,) = observer.observe(image, "", "there is a cat <|box_start|>(0,0),(500,500)<|box_end|> (red)", 1)["planned"]
    assert (one["found"], one["iou"], one["seen_color"]) == (False, 0.0, None)


def test_a_prompt_of_geneval_gets_its_verdict_in_the_reports_words(observer):
    chain = "there is a bench <|box_start|>(100,300),(950,860)<|box_end|> (red)"
    right = observer.observe(oracle_render(chain, 1), "a photo of a bench", chain, 1)["verdict"]
    assert (right["case"], right["correct"], right["reason"]) == ("00000", True, "")
    wrong = observer.observe(Image.new("RGB", (128, 128)), "a photo of a bench", chain, 1)["verdict"]
    assert (wrong["correct"], wrong["fault"]) == (False, "unchecked")
    assert wrong["reason"].startswith("expected bench>=1, found 0")


def test_samples_of_a_run_come_with_all_that_draws_them_again(tmp_path):
    run = write_run(tmp_path / "run", [(CHAIN, NO_DOG, None), (CHAIN, BOTH, None)])
    opened = StudioRun(run)
    samples = opened.samples()
    assert [one["outcome"] for one in samples] == ["wrong", "right"], "wrong ones first"
    sample = opened.sample(samples[0]["key"])
    assert (sample["chain"], sample["prompt"], sample["source"]) == (CHAIN, samples[0]["prompt"], None)
    assert sample["image"].is_file()
    assert isinstance(sample["seed"], int)
    for key in ("nothing", "00000/77", "../x/0"):
        with pytest.raises(UserError, match="has no sample"):
            opened.sample(key)


def test_samples_of_a_run_are_drawn_with_its_settings(tmp_path):
    run = write_run(tmp_path / "run", [(CHAIN, BOTH, None)])
    record = json.loads((run / "run.json").read_text())
    settings = {"steps": 8, "semantic": "on", "spatial": "off", "reference_scale": 0.0, "own_size": True}
    record["arguments"] = {"resolved": {**settings, "scheduler": None}}
    (run / "run.json").write_text(json.dumps(record))
    wanted = {"num_inference_steps": 8, "spatial": False, "reference_scale": 0.0, "own_size": True}
    assert StudioRun(run).sample("00000/0")["options"] == wanted
