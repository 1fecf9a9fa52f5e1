import json
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from evals.assets.training import command, detector_report, icon_scenes, train_detector
from evals.core import weights
from evals.core.records import UserError
from evals.core.vocabulary import CLASSES
from evals.detectors import icon, mmcv_ops, photo
from evals.detectors.icon import Calibration, IconDetector
from evals.detectors.registry import make_detector

COCO_RENAMED = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
COCO_NAMES = [{v: k for k, v in COCO_RENAMED.items()}.get(name, name) for name in CLASSES]


@pytest.fixture(scope="module")
def network():
    return icon.build()


@pytest.fixture
def checkpoint(network, tmp_path):
    """A well-formed weights file of the icon detector, untrained."""
    path = tmp_path / "detector.safetensors"
    save(network.state_dict(), path)
    return path


def save(state, path, **changes):
    metadata = {
        "config_sha256": icon.config_sha256(),
        "calibration": json.dumps({"slope": 1.0, "bias": 0.0}),
        **changes,
    }
    safetensors.torch.save_file({k: v.clone() for k, v in state.items()}, path, metadata)  # shared convolutions


def noise_image(size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


# -------------------------------------------------------------------------------------------------------- mmdetection
def test_a_missing_operator_says_so_when_called_not_before():
    operators = mmcv_ops.TorchOps("mmcv._ext")
    missing = operators.roi_align_forward
    with pytest.raises(mmcv_ops.MissingOperatorError, match="roi_align_forward"):
        missing()
    assert not hasattr(operators, "__path__")


@pytest.mark.usefixtures("mmdet")
def test_deformable_attention_has_the_shape_of_the_compiled_one():
    shapes = torch.tensor([[4, 4], [2, 2]])
    out = mmcv_ops.ms_deform_attn_forward(
        torch.randn(2, 20, 3, 8),
        shapes,
        torch.tensor([0, 16]),
        torch.rand(2, 5, 3, 2, 4, 2),
        torch.rand(2, 5, 3, 2, 4),
        64,
    )
    assert out.shape == (2, 5, 24)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ImportError("libGL.so.1: cannot open shared object file"), r"libGL\.so\.1.*mends it: pip install .*headless"),
        (OSError("libgthread-2.0.so.0: cannot open"), r"libgthread.*apt-get install libgl1 libglib2\.0-0"),
        (ModuleNotFoundError("No module named 'mmengine'", name="mmengine"), "mends it: pip install onedl-mmengine$"),
        (ModuleNotFoundError("No module named 'imaug.x'", name="imaug.x"), "mends it: pip install imaug$"),
        (ImportError("libGLX.so.0: cannot open"), "pip install .*headless"),
        (ImportError("libxcb-shm.so.0: cannot open"), "pip install .*headless"),
        (ImportError("libcudart.so.12: cannot open shared object file"), "mends it: install the project again"),
        (
            ImportError(
                "/v/lib/python3.11/site-packages/mmcv/_ext.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZN2at"
            ),
            "undefined symbol.*mends it: install the project again",
        ),
        (ValueError("numpy.dtype size changed"), r"numpy\.dtype size changed; .*fresh environment"),
    ],
)
def test_where_mmdetection_cannot_be_imported_one_line_says_what_mends_it(monkeypatch, raised, said):
    def fail():
        sys.path.insert(0, "site-packages/cv2")  # as OpenCV does before it fails
        raise raised

    before = list(sys.path)
    monkeypatch.setattr(mmcv_ops, "_import_quietly", fail)
    with pytest.raises(mmcv_ops.MMDetectionError, match=said) as caught:
        make_detector("mask2former")
    assert "\n" not in str(caught.value)
    assert sys.path == before


# ------------------------------------------------------------------------------------------------------ icon detector
def test_detections_are_sorted_and_inside_images_of_any_size(checkpoint):
    detector = make_detector(f"icon:{checkpoint}")
    images = [noise_image((64, 64)), noise_image((100, 40))]
    for image, found in zip(images, detector.detect(images), strict=True):
        scores = [d.score for d in found]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) >= detector.min_score
        boxes = np.array([d.box_xyxy_px for d in found])
        assert (boxes >= 0).all()
        assert (boxes <= [image.width, image.height] * 2).all()
        assert {d.name for d in found} <= set(CLASSES)


def test_a_prediction_does_not_depend_on_its_batch(network):
    network.eval()
    centres, _ = icon.points([8, 16, 32], 128, "cpu")
    images = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        together = icon.predict(network, images, centres)
        alone = icon.predict(network, images[1:2], centres)
    for all_of_them, one in zip(together, alone, strict=True):
        assert torch.allclose(all_of_them[1], one[0], atol=1e-3)


@pytest.mark.usefixtures("mmdet")
def test_the_network_is_the_one_that_mmdetection_builds_of_the_config(network):
    from mmdet.registry import MODELS
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        theirs = MODELS.build(icon.read_config()["model"])
    theirs.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 255
    processor = theirs.data_preprocessor
    with torch.inference_mode():
        ours = network.eval()(images)
        for ours_of_kind, theirs_of_kind in zip(
            ours, theirs.eval()((images - processor.mean) / processor.std), strict=True
        ):
            for one, other in zip(ours_of_kind, theirs_of_kind, strict=True):
                assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert [name for name, _ in network.named_parameters()] == [name for name, _ in theirs.named_parameters()]


def test_no_images_no_detections(checkpoint):
    assert make_detector(str(checkpoint)).detect([]) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("bbox_head.rtm_cls.0.bias"), r"1 missing \(bbox_head.rtm_cls.0.bias\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (
            lambda state: state.update({"bbox_head.rtm_cls.0.bias": torch.zeros(7)}),
            r"1 mis-shaped \(bbox_head.rtm_cls.0.bias \(7,\) for \(80,\)\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(network, tmp_path, change, named):
    state = dict(network.state_dict())
    change(state)
    save(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=named):
        make_detector(f"icon:{tmp_path / 'w.safetensors'}")


def test_weights_of_another_config_are_refused(network, tmp_path):
    save(network.state_dict(), tmp_path / "w.safetensors", config_sha256="0" * 64)
    with pytest.raises(UserError, match=r"another version of icon_detector\.json"):
        make_detector(f"icon:{tmp_path / 'w.safetensors'}")


@pytest.mark.parametrize("spec", ["icons", "", "mask2former2", "runs/x.pth"])
def test_an_unknown_detector_is_refused_with_the_known_ones(spec):
    with pytest.raises(UserError, match=r"mask2former.*hf:ID.*icon"):
        make_detector(spec)


@pytest.mark.parametrize("spec", ["icon:nowhere.safetensors", "mask2former:nowhere.pth", "hf:./nowhere", "hf"])
def test_missing_weights_are_one_error(spec):
    with pytest.raises(UserError):
        make_detector(spec)


def test_a_text_file_is_no_weights_file(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_text("not weights")
    with pytest.raises(UserError, match="is text, not weights: "):
        weights.read(path)


def test_the_embedded_detector_is_as_good_as_its_card_says():
    recorded = json.loads(command.numbers_path(icon.WEIGHTS).read_text())
    detector = IconDetector.load()
    matches = detector_report.judge(detector, icon_scenes.held_out(100, 128, seed=9))
    precision = detector_report.average_precision(matches)
    assert np.mean(list(precision.values())) >= recorded["map50"] - 0.04
    sure = detector.calibration(matches.scores) > 0.9
    assert matches.right[sure].mean() >= recorded["precision_above_0.9"] - 0.04


def test_the_embedded_detector_is_silent_on_empty_images():
    recorded = json.loads(command.numbers_path(icon.WEIGHTS).read_text())
    found = detector_report.silence(IconDetector.load(), count=40)["above_threshold"]
    assert found <= recorded["empty_pictures"]["above_threshold"] + 0.05


# --------------------------------------------------------------------------------------------------- training, scores
def test_every_icon_has_a_grid_point_that_answers_for_it():
    centres, strides = icon.points([8, 16, 32], 128, "cpu")
    for batch in icon_scenes.held_out(100, 128, seed=0):
        chosen, positive = train_detector.assign(batch.boxes, batch.labels, centres, strides)
        for labels, icons, answers in zip(batch.labels, chosen, positive, strict=True):
            assert set(icons[answers].tolist()) == set(range(int((labels >= 0).sum())))


def test_points_of_an_empty_image_answer_for_nothing():
    centres, strides = icon.points([8, 16, 32], 128, "cpu")
    _, positive = train_detector.assign(torch.zeros(1, 1, 4), torch.full((1, 1), -1), centres, strides)
    assert not positive.any()


def test_a_perfect_prediction_has_almost_no_loss_and_a_wrong_class_much():
    centres, strides = icon.points([8, 16, 32], 128, "cpu")
    boxes, labels = torch.tensor([[[16.0, 16, 48, 48]]]), torch.tensor([[3]])
    _, positive = train_detector.assign(boxes, labels, centres, strides)
    logits = torch.full((1, len(centres), 80), -12.0)
    logits[0, positive[0], 3] = 12.0
    predicted = boxes.expand(1, len(centres), 4)
    right = train_detector.loss(logits, predicted, boxes, labels, centres, strides)
    wrong = train_detector.loss(logits, predicted, boxes, labels + 1, centres, strides)
    assert sum(right.values()) < 1e-3
    assert wrong["class"] > 10


def test_every_weight_learns_from_the_loss(network):
    network.train()
    centres, strides = icon.points([8, 16, 32], 128, "cpu")
    batch = icon_scenes.training_batch(16, 128, np.random.default_rng(0))
    logits, predicted = icon.predict(network, batch.images, centres)
    losses = train_detector.loss(logits, predicted, batch.boxes, batch.labels, centres, strides)
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_average_precision_of_the_truth_is_one_and_misses_cost_recall():
    right = detector_report.Matches(
        scores=np.array([0.9, 0.8, 0.7]),
        labels=np.array([0, 0, 1]),
        right=np.array([True, False, True]),
        objects=np.bincount([0, 0, 1], minlength=80),
    )
    assert detector_report.average_precision(right) == {CLASSES[0]: 0.5, CLASSES[1]: 1.0}


def test_calibrated_scores_are_the_share_that_is_right():
    rng = np.random.default_rng(0)
    true = Calibration(slope=1.7, bias=2.0)
    scores = rng.uniform(0.02, 0.98, 20_000)
    matches = detector_report.Matches(
        scores=scores, labels=np.zeros(20_000, int), right=rng.random(20_000) < true(scores), objects=np.zeros(80, int)
    )
    fitted = detector_report.calibrate(matches)
    assert np.allclose(fitted([0.1, 0.3, 0.6, 0.9]), true([0.1, 0.3, 0.6, 0.9]), atol=0.02)


def test_calibration_keeps_every_ranking():
    scores = np.sort(np.random.default_rng(0).random(1000))
    assert (np.diff(Calibration(slope=0.4, bias=-3.0)(scores)) > 0).all()


def test_held_out_scenes_differ_from_training_and_repeat():
    first, again = (icon_scenes.held_out(50, 128, seed=3)[0] for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert {scene.background for scene in first.scenes}.isdisjoint(icon_scenes.iconworld.BACKGROUNDS)


# --------------------------------------------------------------------------------------------------------- photographs
def test_every_coco_name_has_its_geneval_name():
    assert [photo.geneval_name(name) for name in COCO_NAMES] == list(CLASSES)


def test_labels_that_name_no_class_are_left_out():
    assert photo.map_labels({0: "N/A", 1: "person", 2: "door"}, "some model") == {1: "person"}


def test_a_detector_of_other_things_is_refused():
    with pytest.raises(UserError, match="of its 2 labels none names"):
        photo.map_labels({0: "table", 1: "table rotated"}, "some model")


@pytest.fixture(scope="module")
def yolos(tmp_path_factory):
    """A tiny detector of transformers that sees a dog in every box."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    folder = tmp_path_factory.mktemp("yolos")
    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=5,
        use_mid_position_embeddings=False,
        id2label=dict(enumerate(COCO_NAMES)),
        label2id={name: i for i, name in enumerate(COCO_NAMES)},
    )
    model = YolosForObjectDetection(config)
    with torch.no_grad():
        model.class_labels_classifier.layers[-1].bias[CLASSES.index("dog")] = 8.0
    model.save_pretrained(folder)
    YolosImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_a_transformers_detector_finds_boxes_in_pixels(yolos):
    images = [noise_image((90, 50)), noise_image((40, 60), 1)]
    found = make_detector(f"hf:{yolos}").detect(images)
    assert [len(detections) for detections in found] == [5, 5]
    for image, detections in zip(images, found, strict=True):
        assert {d.name for d in detections} == {"dog"}
        x1, y1, x2, y2 = np.array([d.box_xyxy_px for d in detections]).T
        assert ((x2 > x1) & (y2 > y1) & (x1 > -image.width) & (x2 < 2 * image.width)).all()


def test_transformers_weights_that_leave_a_part_untrained_are_refused(yolos, tmp_path):
    for file in yolos.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del state["class_labels_classifier.layers.2.bias"]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"class_labels_classifier\.layers\.2\.bias"):
        make_detector(f"hf:{tmp_path}")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """A tiny Mask2Former of transformers that sees nothing but cats."""
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    folder = tmp_path_factory.mktemp("segmenter")
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=4,
        id2label=dict(enumerate(COCO_NAMES)), label2id={name: i for i, name in enumerate(COCO_NAMES)},
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        model.class_predictor.bias[CLASSES.index("cat")] = 8.0
    model.save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_a_transformers_segmenter_gives_masks_and_their_boxes(segmenter):
    (found,) = make_detector(f"hf:{segmenter}").detect([noise_image((90, 50))])
    assert found
    for detection in found:
        assert detection.name == "cat"
        assert detection.mask.shape == (50, 90)
        assert detection.box_xyxy_px == photo.mask_box(detection.mask)


def test_a_classifier_is_no_detector(tmp_path):
    from transformers import ViTConfig

    ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16).save_pretrained(
        tmp_path
    )
    with pytest.raises(UserError, match="vit model is no object detector"):
        make_detector(f"hf:{tmp_path}")


@pytest.fixture(scope="module")
def mask2former_file(mmdet, tmp_path_factory):
    """GenEval's detector at full size, untrained, as mmengine saves it."""
    path = tmp_path_factory.mktemp("mask2former") / "fresh.pth"
    network = photo.build_mmdet(photo.mmdet_config(photo.MASK2FORMER))
    torch.save({"state_dict": network.state_dict(), "meta": {"epoch": 0}}, path)
    return path


def test_full_size_mask2former_infers_boxes_and_masks(mask2former_file):
    detector = photo.load_mask2former(mask2former_file, image_scale=(96, 64))
    detector.min_score = 0.0  # untrained, it is sure of nothing
    (found,) = detector.detect([noise_image((60, 40))])
    assert sum(p.numel() for p in detector.network.parameters()) > 68e6
    assert len(found) == 100
    assert all(d.mask.shape == (40, 60) and d.mask.dtype == bool for d in found)
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)


@pytest.mark.usefixtures("mmdet")
def test_mask2former_refuses_weights_of_another_model(network, tmp_path):
    torch.save({"state_dict": network.state_dict()}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"missing \(backbone\..*unexpected \("):
        make_detector(f"mask2former:{tmp_path / 'other.pth'}")
