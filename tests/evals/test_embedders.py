import json

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image

from evals.assets.training import command, train_clip
from evals.core.records import UserError
from evals.core.vocabulary import CLASSES, COLORS
from evals.embedders.clip import CONFIG, WEIGHTS, OpenClipEmbedder, WordTokenizer, build_icon_clip, load_icon_clip
from evals.embedders.registry import make_embedder
from evals.suite.objects import TEMPLATES, classify_colors
from got.util.files import sha256


@pytest.fixture(scope="module")
def fresh():
    """The icon CLIP, untrained."""
    return OpenClipEmbedder("icon", *build_icon_clip(), "cpu")


def noise_images(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), np.uint8)) for i in range(count)]


def test_vectors_have_length_one_and_do_not_depend_on_the_batch(fresh):
    images = noise_images(3)
    together = fresh.embed_images(images)
    assert together.shape == (3, 128)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together, np.concatenate([fresh.embed_images([image]) for image in images]), atol=1e-5)


def test_no_items_no_vectors(fresh):
    assert len(fresh.embed_texts([])) == 0
    assert classify_colors(fresh, [], [], COLORS) == []


def test_colors_equal_open_clips_own_zero_shot_classifier(fresh):
    """open_clip's builder of zero-shot classifiers is the code that GenEval calls."""
    templates = [
        lambda c: f"a photo of a {c} dog",
        lambda c: f"a photo of a {c}-colored dog",
        lambda c: f"a photo of a {c} object",
    ]
    _, _, tokenizer = build_icon_clip()
    classifier = open_clip.build_zero_shot_classifier(fresh.network, tokenizer, list(COLORS), templates, device="cpu")
    images = noise_images(12)
    scores = fresh.embed_images(images) @ classifier.numpy()  # (n, colours)
    expected = [COLORS[i] for i in scores.argmax(1)]
    assert classify_colors(fresh, images, ["dog"] * 12, COLORS) == expected


class CountingEmbedder:
    """Sees the mean colour; reads red, green and blue. Counts the texts it has to embed."""

    name = "counting"

    def __init__(self):
        self.texts = 0

    def embed_images(self, images):
        means = np.array([np.asarray(image).reshape(-1, 3).mean(0) for image in images], np.float32)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def embed_texts(self, texts):
        self.texts += len(texts)
        return np.array([[c in text for c in ("red", "green", "blue")] for text in texts], np.float32)


def test_crops_of_different_classes_are_named_in_one_call_and_texts_are_embedded_once():
    embedder = CountingEmbedder()
    crops = [Image.new("RGB", (5, 5), c) for c in ("#f00", "#00f", "#0f0")]
    names = ["dog", "cat", "dog"]
    assert classify_colors(embedder, crops, names, ("red", "green", "blue")) == ["red", "blue", "green"]
    assert embedder.texts == 2 * 3 * 3
    classify_colors(embedder, crops, names, ("red", "green", "blue"))
    assert embedder.texts == 2 * 3 * 3


# ---------------------------------------------------------------------------------------------------------- tokenizer
def test_the_tokenizer_knows_every_word_of_the_templates():
    words = set(json.loads(CONFIG.read_text())["vocabulary"])
    texts = [t.format(color=c, name=n) for t in TEMPLATES for c in COLORS for n in CLASSES]
    assert {word for text in texts for word in text.replace("-", " ").split()} <= words


def test_the_tokenizer_knows_every_word_of_the_icon_world():
    words = set(json.loads(CONFIG.read_text())["vocabulary"])
    assert set(train_clip.iconworld.vocabulary()) <= words


def test_tokens_end_with_the_highest_number_and_fit():
    tokens = WordTokenizer(["a", "dog"], 4)(["A dog!", "unknown", "a dog a dog a dog"])
    assert tokens.tolist() == [[1, 2, 3, 0], [3, 0, 0, 0], [1, 2, 1, 3]]


# --------------------------------------------------------------------------------------------------------- by its name
@pytest.mark.parametrize("spec", ["clip", "icon:other", "", "hf:x"])
def test_an_unknown_embedder_is_refused(spec):
    with pytest.raises(UserError, match="Expected an embedder among icon"):
        make_embedder(spec)


def test_a_folder_that_open_clip_did_not_save_says_what_it_lacks(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError) as raised:
        make_embedder(f"openclip:{tmp_path}")
    assert f"{tmp_path} has no open_clip_config.json; expected a folder that open_clip saved" in str(raised.value)
    with pytest.raises(UserError, match=rf"there is no folder {tmp_path}/gone"):
        make_embedder(f"openclip:{tmp_path}/gone")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded") as raised:
        make_embedder(f"openclip:{tmp_path}")
    assert "\n" not in str(raised.value)


def test_an_unknown_model_or_tag_is_refused():
    with pytest.raises(UserError, match="knows no model 'ViT-Q-14'"):
        make_embedder("openclip:ViT-Q-14/openai")
    with pytest.raises(UserError, match=r"one of .*openai"):
        make_embedder("openclip:ViT-L-14/nobody")


@pytest.mark.parametrize(("tag", "activation"), [("openai", "QuickGELU"), ("laion2b_s34b_b79k", "GELU")])
def test_published_weights_get_the_activation_that_they_were_trained_with(monkeypatch, tag, activation):
    """The tag decides, not the model's name: GenEval asks for OpenAI's weights by a name whose own is another."""
    create = open_clip.create_model_and_transforms
    monkeypatch.setattr(  # without the weights, which are not here
        open_clip, "create_model_and_transforms", lambda name, pretrained, **options: create(name, **options)
    )
    embedder = make_embedder(f"openclip:ViT-B-32/{tag}")
    for tower in (embedder.network.visual.transformer, embedder.network.transformer):
        assert {type(block.mlp.gelu).__name__ for block in tower.resblocks} == {activation}


def test_icon_weights_must_fit_their_config(fresh, tmp_path):
    state = {k: v.contiguous() for k, v in fresh.network.state_dict().items()}
    path = tmp_path / "clip.safetensors"
    safetensors.torch.save_file(state, path, {"config_sha256": sha256(CONFIG)})
    assert load_icon_clip(path).name == "icon"
    safetensors.torch.save_file(state, path, {"config_sha256": "0" * 64})
    with pytest.raises(UserError, match=r"another version of icon_clip\.json"):
        load_icon_clip(path)
    del state["text_projection"]
    safetensors.torch.save_file(state, path, {"config_sha256": sha256(CONFIG)})
    with pytest.raises(UserError, match=r"1 missing \(text_projection\)"):
        load_icon_clip(path)


def test_a_folder_saved_by_open_clip_loads_without_network(tmp_path):
    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"model_cfg": model, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    network = open_clip.CLIP(**model)
    safetensors.torch.save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "open_clip_model.safetensors"
    )
    embedder = make_embedder(f"openclip:{tmp_path}")
    assert embedder.embed_images(noise_images(2)).shape == (2, 16)
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a red dog"])
        expected = network.eval().encode_text(tokens, normalize=True)
    assert np.allclose(embedder.embed_texts(["a red dog"]), expected.numpy(), atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ training
def test_a_caption_is_true_of_every_crop_it_describes():
    rng = np.random.default_rng(0)
    world = train_clip.iconworld
    scenes = [world.sample_scene(rng) for _ in range(40)]
    batch = train_clip.icon_scenes.draw(scenes, 64, 64)
    crops, texts, true, things = train_clip.crop_batch(batch, 32, rng)
    assert crops.shape == (len(texts), 3, 64, 64)
    assert true.diagonal().all()
    for thing, row in zip(things, true.tolist(), strict=True):
        said = {template.format(color=thing.color, name=thing.name) for template, _, _ in train_clip.TEMPLATES}
        assert row == [text in said for text in texts]


def test_contrast_is_least_for_matching_pairs():
    unit = torch.eye(4)
    true = torch.eye(4, dtype=torch.bool)
    scale = torch.tensor(20.0)
    assert train_clip.contrast(unit, unit, scale, true) < 1e-6
    assert train_clip.contrast(unit, unit.roll(1, 0), scale, true) > 10


def test_every_weight_learns_from_the_losses():
    network, _, tokenizer = build_icon_clip()
    modules = torch.nn.ModuleDict({"clip": network, "pairs": torch.nn.Linear(128, len(train_clip.PAIRS), bias=False)})
    losses = train_clip.losses(modules, train_clip.training_batch(64, tokenizer, np.random.default_rng(0)), "cpu")
    assert set(losses) == {"scenes", "crops", "names"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in modules.parameters())


# ------------------------------------------------------------------------------------------------------------ embedded
def test_the_embedded_clip_names_colors_of_flawless_crops():
    assert train_clip.color_accuracy(make_embedder("icon"), 150, degraded=False)["overall"] >= 0.96


def test_the_embedded_clip_finds_captions_and_images():
    recorded = json.loads(command.numbers_path(WEIGHTS).read_text())["retrieval"]
    found = train_clip.retrieval(make_embedder("icon"), 200)
    assert min(found.values()) >= min(recorded.values()) - 0.08
