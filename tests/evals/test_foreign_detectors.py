"""Detectors that people have: files of several kinds and generations, and models of transformers that want a prompt."""

import json
import shutil
import struct
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from evals.core import weights
from evals.core.records import UserError
from evals.core.vocabulary import CLASSES
from evals.detectors import open_vocabulary, photo
from evals.detectors.registry import make_detector
from evals.embedders.lpips import make_lpips
from evals.embedders.registry import make_embedder, make_image_embedder
from got.util import weight_files


def noise_image(size=(60, 40), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def seeded(network):
    """The network with weights that are the same every time."""
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=source) * 0.2)
    return network


# ---------------------------------------------------------------------------------------------------------- state dicts
STATE = {"a.weight": torch.arange(3.0), "b": torch.zeros(2)}


OTHER = {key: value + 1 for key, value in STATE.items()}
PREFIXED = {f"_orig_mod.module.{key}": value for key, value in STATE.items()}
AVERAGED = {"steps": torch.tensor(4), **{f"module.{key}": value for key, value in STATE.items()}}


@pytest.mark.parametrize(
    ("saved", "suffix"),
    [
        (STATE, ".pth"),
        (STATE, ".safetensors"),
        ({"state_dict": STATE, "meta": {"epoch": 3}}, ".pth"),
        ({"model": STATE, "optimizer": {"state": {0: torch.ones(1)}}}, ".pth"),
        ({"ema_state_dict": AVERAGED}, ".pth"),
        ({"state_dict": STATE, "ema_state_dict": OTHER}, ".pth"),
        (PREFIXED, ".pth"),
        (PREFIXED, ".safetensors"),
        ({"state_dict": {f"model.{key}": value for key, value in STATE.items()}, "epoch": 1}, ".pth"),
        ({"model": {"state_dict": STATE}}, ".pth"),
        *(
            ({kept: OTHER, averaged: AVERAGED}, ".pth")
            for kept, averaged in (
                ("model", "ema"),
                ("model", "model_ema"),
                ("model_state_dict", "ema_state_dict"),
                ("state_dict", "state_dict_ema"),
            )
        ),
        ({"model": OTHER, "ema": {"module": STATE, "updates": 7}}, ".pth"),
    ],
)
def test_weights_are_found_in_the_usual_wrappings(tmp_path, saved, suffix):
    path = tmp_path / f"checkpoint{suffix}"
    (torch.save if suffix == ".pth" else safetensors.torch.save_file)(saved, path)
    read = weights.read_checkpoint(path)
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[key], value) for key, value in STATE.items())


def test_a_checkpoint_without_weights_says_what_it_holds(tmp_path):
    torch.save({"optimizer": {"lr": 0.1}, "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"holds no weights; a state dict was expected.*not optimizer, epoch"):
        weights.read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_checkpoint_is_read_or_refused_but_never_ends_in_another_error(tmp_path, zipped):
    """torch and pickle answer damage with errors of many kinds."""
    path, rng = tmp_path / "a.pth", np.random.default_rng(0)
    torch.save({"state_dict": STATE, "meta": {"epoch": 3}}, path, _use_new_zipfile_serialization=zipped)
    whole, said = path.read_bytes(), set()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            weights.read_checkpoint(path)
        except UserError as error:
            said.add((len(str(error).splitlines()), type(error.__cause__).__name__))
    assert {lines for lines, _ in said} == {1}
    assert len(said) > 4


# -------------------------------------------------------------------------------------------------- files that are none
def pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")


def page(path):
    path.write_text("\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>")


def cut(path):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({"a": torch.zeros(100)}, path)
    else:
        torch.save({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-50])


WRONG = {
    "is a Git LFS pointer, not the weights: `git lfs pull`": pointer,
    "is a web page, not weights": page,
    "is text, not weights: Entry not found": lambda path: path.write_text("Entry not found\n"),
    """is text, not weights: {"error": "Invalid name"}""": lambda path: path.write_text('{"error":\n"Invalid name"}'),
    "is empty": lambda path: path.write_bytes(b""),
    "is cut short": cut,
    "is a folder": lambda path: path.mkdir(),
    "does not exist": lambda path: None,
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize(
    ("make", "suffix"),
    [
        (lambda path: make_detector(f"icon:{path}"), ".safetensors"),
        (lambda path: make_detector(f"mask2former:{path}"), ".pth"),
        (lambda path: make_detector(f"mask2former:{path}"), ".safetensors"),
        (lambda path: make_lpips(f"squeeze:{path}"), ".pth"),
    ],
)
def test_a_file_that_holds_no_weights_is_called_what_it_is(tmp_path, monkeypatch, what, make, suffix):
    """Before the detector's libraries are imported: they may be missing, which is another matter."""
    monkeypatch.setitem(sys.modules, "mmdet", None)
    path = tmp_path / f"weights{suffix}"
    WRONG[what](path)
    with pytest.raises(UserError, match=f"{path.name} {what}"):
        make(path)


@pytest.mark.parametrize("what", [what for what in WRONG if what not in ("is a folder", "does not exist")])
def test_a_clip_from_a_file_that_holds_no_weights_says_so(tmp_path, what):
    WRONG[what](tmp_path / "clip.pt")
    with pytest.raises(UserError, match=f"clip.pt {what}"):
        make_embedder(f"openclip:ViT-B-32/{tmp_path / 'clip.pt'}")


def test_weights_of_another_format_than_their_name_says_are_read(tmp_path):
    safetensors.torch.save_file(STATE, tmp_path / "a.pth")
    assert weights.read_checkpoint(tmp_path / "a.pth").keys() == STATE.keys()


@pytest.mark.parametrize("header", [b'{"a":', b"[1]", b'{"a": 3}'])
def test_a_damaged_header_is_no_traceback(tmp_path, header):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "is no safetensors file" in weight_files.fault(path)


def test_safetensors_beside_pointers_that_nobody_needs_are_taken(tmp_path):
    pointer(tmp_path / "pytorch_model.bin")
    assert "pytorch_model.bin is a Git LFS pointer" in weight_files.fault_in(tmp_path)
    safetensors.torch.save_file(STATE, tmp_path / "model.safetensors")
    assert weight_files.fault_in(tmp_path) is None


@pytest.mark.parametrize("what", [pointer, page, lambda path: path.write_bytes(b""), cut])
def test_a_folder_of_transformers_names_the_file_that_is_wrong(tmp_path, yolos, what):
    folder = shutil.copytree(yolos, tmp_path / "model")
    what(folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors is (a Git LFS|a web page|empty|cut short)"):
        make_detector(f"hf:{folder}")


def test_a_dino_whose_weights_are_a_pointer_says_so(tmp_path):
    from transformers import ViTConfig

    ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16).save_pretrained(
        tmp_path
    )
    pointer(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is a Git LFS pointer"):
        make_image_embedder(f"dino:{tmp_path}")


# ------------------------------------------------------------------------------------------------------- MMDetection 2
def older(key):
    """A weight's name in MMDetection 2, written from the layers' order there: cross attention, self attention, FFN."""
    if not key.startswith("panoptic_head.") or ".layers." not in key:
        return key
    if "pixel_decoder" in key:
        key = key.replace(".self_attn.", ".attentions.0.")
    else:
        key = key.replace(".cross_attn.", ".attentions.0.").replace(".self_attn.", ".attentions.1.")
    return key.replace(".ffn.", ".ffns.0.")


@pytest.mark.usefixtures("mmdet")
def test_both_generations_of_mask2former_load_and_see_the_same(tmp_path):
    network = photo.build_mmdet(photo.mmdet_config(photo.MASK2FORMER))
    state = network.state_dict()
    aged = {older(key): value for key, value in state.items()}
    assert len(aged.keys() - state.keys()) == 180
    torch.save({"state_dict": state}, tmp_path / "new.pth")
    torch.save({"meta": {"mmdet_version": "2.24.0"}, "state_dict": aged}, tmp_path / "old.pth")
    seen = []
    for name in ("new", "old"):
        detector = photo.load_mask2former(tmp_path / f"{name}.pth", image_scale=(96, 64))
        loaded = detector.network.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in state.items())
        detector.min_score = 0.0
        seen.append(detector.detect([noise_image()])[0])
    assert len(seen[0]) == 100
    assert [(d.name, d.score, d.box_xyxy_px) for d in seen[0]] == [(d.name, d.score, d.box_xyxy_px) for d in seen[1]]


# -------------------------------------------------------------------------------------------------------- transformers
@pytest.fixture(scope="module")
def yolos(tmp_path_factory):
    """A tiny detector of transformers with labels for five classes."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    folder = tmp_path_factory.mktemp("yolos")
    labels = ["person", "mouse", "dog", "cat", "bus"]
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[64, 64],
        patch_size=16, num_detection_tokens=5, use_mid_position_embeddings=False, id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
    )  # fmt: skip
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_a_detector_knows_its_classes(yolos):
    assert make_detector(f"hf:{yolos}").classes == {"person", "computer mouse", "dog", "cat", "bus"}
    assert make_detector("icon").classes == set(CLASSES)
    assert photo.MMDetDetector.classes == set(CLASSES)


def swin():
    from transformers import SwinConfig

    return SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def test_a_model_that_asks_for_more_than_a_image_is_refused_when_it_is_loaded(tmp_path):
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation, OneFormerImageProcessor

    config = OneFormerConfig(
        backbone_config=swin(), hidden_dim=32, conv_dim=32, mask_dim=32, dim_feedforward=16, encoder_layers=1,
        decoder_layers=2, encoder_feedforward_dim=16, num_attention_heads=2, num_queries=4, text_encoder_width=32,
        text_encoder_num_layers=1, text_encoder_vocab_size=50, text_encoder_context_length=7, task_seq_len=7,
        is_training=False, id2label={0: "dog", 1: "cat"}, label2id={"dog": 0, "cat": 1},
    )  # fmt: skip
    OneFormerForUniversalSegmentation(config).save_pretrained(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps({"0": {"name": "dog", "isthing": 1}}))
    OneFormerImageProcessor(repo_path=str(tmp_path), class_info_file="classes.json").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a oneformer model cannot be used here, because it needs more: task_inputs"):
        make_detector(f"hf:{tmp_path}")


def test_a_segmenter_that_numbers_its_instances_gives_masks_too(tmp_path):
    from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor

    names = ["dog", "cat"]
    config = EomtConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=64, patch_size=16,
        num_queries=5, num_blocks=1, num_upscale_blocks=1, id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    network = seeded(EomtForUniversalSegmentation(config))
    with torch.no_grad():
        network.class_predictor.bias[1] = 8.0
    network.save_pretrained(tmp_path)
    EomtImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 64}, do_split_image=False, do_pad=True
    ).save_pretrained(tmp_path)
    (found,) = make_detector(f"hf:{tmp_path}").detect([noise_image()])
    assert found
    for detection in found:
        assert detection.name == "cat"
        assert detection.mask.shape == (40, 60)
        assert detection.box_xyxy_px == photo.mask_box(detection.mask)


def test_what_cannot_look_at_a_blank_image_fails_before_the_first_one(yolos, tmp_path):
    folder = shutil.copytree(yolos, tmp_path / "model")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**config, "image_processor_type": "ViTImageProcessor"})
    )
    with pytest.raises(UserError, match="a yolos model cannot look at an image here: AttributeError"):
        make_detector(f"hf:{folder}")


# ------------------------------------------------------------------------------------------------------ open vocabulary
@pytest.fixture(scope="module")
def bert_words(tmp_path_factory):
    """A tokenizer of BERT with the numbers that Grounding DINO expects of separators; two classes need two pieces."""
    from transformers import BertTokenizer

    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    words = sorted({word for name in CLASSES for word in name.split()} - {"toothbrush"})
    vocabulary = [f"[unused{i}]" for i in range(1100)]
    vocabulary[0] = "[PAD]"
    vocabulary[100:104] = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary[1012], vocabulary[1029] = ".", "?"
    vocabulary[200 : 200 + len(words)] = words
    vocabulary[400:402] = ["tooth", "##brush"]
    path.write_text("\n".join(vocabulary))
    return BertTokenizer(vocab=str(path), do_lower_case=True)


def test_every_name_is_found_again_in_its_text(bert_words):
    for room in (256, 40, 12):
        prompts = open_vocabulary.grounded_prompts(bert_words, room)
        assert [name for prompt in prompts for name in prompt.names] == list(CLASSES)
        for prompt in prompts:
            (ids,) = prompt.ids.tolist()
            assert len(ids) <= room
            assert (ids[0], ids[-2:]) == (101, [1012, 102])
            for name, (first, last) in zip(prompt.names, prompt.spans, strict=True):
                assert bert_words.decode(ids[first:last]) == name
                assert ids[last] == 1012
    assert len(open_vocabulary.grounded_prompts(bert_words, 256)) == 1
    whole = bert_words(". ".join(CLASSES) + ".")["input_ids"]
    assert open_vocabulary.grounded_prompts(bert_words, 256)[0].ids[0].tolist() == whole


def test_a_class_scores_the_mean_of_its_tokens():
    prompt = open_vocabulary.Prompt(
        names=("dog", "toothbrush"), ids=torch.zeros(1, 7), mask=torch.ones(1, 7), spans=((1, 2), (3, 5))
    )
    logits = torch.tensor([[[-9.0, 1.0, 9.0, 0.0, 2.0, 9.0, 9.0, -torch.inf]]])
    found = open_vocabulary.class_logits(logits, prompt).sigmoid()[0, 0].tolist()
    assert found == pytest.approx([1 / (1 + np.exp(-1)), (0.5 + 1 / (1 + np.exp(-2))) / 2], abs=1e-5)


def save_grounding(folder, tokenizer, kind, **changes):
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        MMGroundingDinoConfig,
        MMGroundingDinoForObjectDetection,
    )

    config_of, network_of = {
        "grounding-dino": (GroundingDinoConfig, GroundingDinoForObjectDetection),
        "mm-grounding-dino": (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection),
    }[kind]
    backbone = swin()
    backbone.out_features = ["stage2", "stage3", "stage4"]
    words = BertConfig(
        vocab_size=1100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=256,
    )  # fmt: skip
    config = config_of(
        backbone_config=backbone, text_config=words, d_model=32, encoder_layers=1, encoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_layers=2, decoder_ffn_dim=16, decoder_attention_heads=2, num_queries=12,
        **changes,
    )  # fmt: skip
    seeded(network_of(config)).save_pretrained(folder)
    GroundingDinoImageProcessor(size={"height": 128, "width": 128}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["grounding-dino", "mm-grounding-dino"])
@pytest.mark.parametrize("room", [256, 60])
def test_grounding_dino_is_prompted_with_the_class_names(tmp_path, bert_words, kind, room):
    save_grounding(tmp_path, bert_words, kind, max_text_len=room)
    detector = make_detector(f"hf:{tmp_path}")
    assert detector.classes == set(CLASSES)
    detector.min_score = 0.0
    images = [noise_image(), noise_image((90, 120), 1)]
    found = detector.detect(images)
    for image, detections in zip(images, found, strict=True):
        assert len(detections) == 12 * len(open_vocabulary.grounded_prompts(bert_words, room))
        assert {d.name for d in detections} <= set(CLASSES)
        assert [d.score for d in detections] == sorted((d.score for d in detections), reverse=True)
        boxes = np.array([d.box_xyxy_px for d in detections])
        assert (boxes[:, 2:] <= [1.5 * image.width, 1.5 * image.height]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    alone = detector.detect(images[:1])[0]
    assert [d.name for d in alone] == [d.name for d in found[0]]
    assert [d.score for d in alone] == pytest.approx([d.score for d in found[0]], abs=1e-4)


def save_owl(folder, kind):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import (
        Owlv2Config,
        Owlv2ForObjectDetection,
        Owlv2ImageProcessor,
        OwlViTConfig,
        OwlViTForObjectDetection,
        OwlViTImageProcessor,
        PreTrainedTokenizerFast,
    )

    config_of, network_of, processor_of = {
        "owlvit": (OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor),
        "owlv2": (Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor),
    }[kind]
    words = ["!", "<unk>", "<s>", "</s>", "a", "photo", "of", *sorted({w for name in CLASSES for w in name.split()})]
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="!", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = config_of(
        text_config={**shared, "vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": 3},
        vision_config={**shared, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    seeded(network_of(config)).save_pretrained(folder)
    processor_of(size={"height": 64, "width": 64}).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["owlvit", "owlv2"])
def test_owl_has_a_text_for_each_class(tmp_path, kind):
    save_owl(tmp_path, kind)
    detector = make_detector(f"hf:{tmp_path}")
    detector.min_score = 0.0
    images = [noise_image(), noise_image((90, 120), 1)]
    found = detector.detect(images)
    assert [len(detections) for detections in found] == [16, 16]
    assert {d.name for detections in found for d in detections} <= set(CLASSES)
    (prompt,) = detector._prompts
    assert len(prompt.ids) == 80
    # A network that is asked for one class at a time gives the class that won the same score.
    from transformers import AutoTokenizer

    best = found[0][0]
    single = open_vocabulary.matched_prompt(AutoTokenizer.from_pretrained(tmp_path), 16, [best.name])
    again = open_vocabulary.OpenVocabularyDetector("again", detector.network, detector._processor, [single], "cpu")
    again.min_score = 0.0
    assert best.score == pytest.approx(max(d.score for d in again.detect(images[:1])[0]), abs=1e-5)


@pytest.mark.parametrize(("kind", "box"), [("owlvit", (12, 8, 18, 12)), ("owlv2", (12, 12, 18, 18))])
def test_owl_says_boxes_in_the_pixels_of_the_image(tmp_path, kind, box):
    """OWL-ViT squeezes an image of 60 x 40 into a square, OWLv2 fills it up below."""
    save_owl(tmp_path, kind)
    detector = make_detector(f"hf:{tmp_path}")
    detector.min_score = 0.0

    def place(network, inputs, outputs):
        outputs.pred_boxes[:] = torch.tensor([0.25, 0.25, 0.1, 0.1])
        return outputs

    detector.network.register_forward_hook(place)
    found = detector.detect([noise_image((60, 40))])[0]
    assert len(found) == 16
    assert all(each.box_xyxy_px == pytest.approx(box, abs=1e-4) for each in found)


def test_open_vocabulary_of_another_family_is_refused_by_name(tmp_path, monkeypatch):
    from types import SimpleNamespace

    network = SimpleNamespace(config=SimpleNamespace(model_type="omdet-turbo"))
    with pytest.raises(UserError, match="a omdet-turbo model is not known here; of open vocabulary, grounding-dino"):
        open_vocabulary.load("hf:x", network, None, None, "cpu")
