import json

import numpy as np
import pytest
import safetensors.torch
import torch
from edit_kit import save_dino, small_clip
from PIL import Image
from torchvision import transforms

from evals.core.records import UserError
from evals.embedders import cache as embedding_cache
from evals.embedders.cache import EmbeddingCache
from evals.embedders.clip import OpenClipEmbedder, build_icon_clip
from evals.embedders.registry import label, make_embedder, make_image_embedder


def noise_images(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (40 + i, 60, 3), np.uint8)) for i in range(count)]


@pytest.fixture(scope="module")
def icon():
    """The icon CLIP, untrained."""
    return OpenClipEmbedder("icon", *build_icon_clip(), "cpu")


# ----------------------------------------------------------------------------------------------------------------- DINO
@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_a_dino_from_a_folder_gives_the_class_token_of_magicbrushs_crop(tmp_path, kind):
    model = save_dino(tmp_path, kind)
    dino = make_image_embedder(f"dino:{tmp_path}")
    crop = 28 if kind == "vit" else 224
    prepare = transforms.Compose(
        [
            transforms.Resize(crop * 256 // 224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = noise_images(3)
    with torch.inference_mode():
        expected = [model(prepare(image)[None]).last_hidden_state[0, 0] for image in images]
    expected = torch.nn.functional.normalize(torch.stack(expected), dim=-1).numpy()
    assert np.allclose(dino.embed_images(images), expected, atol=1e-5)
    assert label(dino.name).startswith(tmp_path.name + "#")


def test_what_is_no_dino_is_refused(tmp_path):
    with pytest.raises(UserError, match="Expected dino:ID"):
        make_image_embedder("dino")
    with pytest.raises(UserError, match="cannot be loaded"):
        make_image_embedder(f"dino:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="is a bert"):
        make_image_embedder(f"dino:{tmp_path}")


# --------------------------------------------------------------------------------------------------------------- labels
def test_weights_of_one_name_and_other_content_have_other_labels(tmp_path):
    path = tmp_path / "clip.safetensors"
    labels = []
    for value in (0.0, 1.0):
        safetensors.torch.save_file({"w": torch.full((2,), value)}, path)
        labels.append(label(f"openclip:ViT-B-32-quickgelu/{path}"))
    assert labels[0] != labels[1]
    assert all(one.startswith("ViT-B-32-quickgelu#") for one in labels)


# ------------------------------------------------------------------------------------------------------- preprocessing
def test_squash_is_a_plain_bicubic_interpolation_and_has_its_own_name(tmp_path):
    spec = small_clip(tmp_path)
    squashed, cut = make_embedder(spec + "+squash"), make_embedder(spec)
    image = noise_images(1)[0]
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    small = torch.nn.functional.interpolate(pixels, (32, 32), mode="bicubic")
    with torch.inference_mode():
        expected = cut.network.encode_image((small - 0.5) / 0.25, normalize=True).numpy()
    assert np.allclose(squashed.embed_images([image]), expected, atol=1e-5)
    assert not np.allclose(cut.embed_images([image]), expected, atol=1e-2)
    assert squashed.name == cut.name + "+squash"


def test_texts_that_do_not_fit_are_told(tmp_path, icon):
    clip = make_embedder(small_clip(tmp_path))  # 16 tokens, of which 2 mark the ends
    texts = ["a red dog", " ".join(["dog"] * 14), " ".join(["dog"] * 15)]
    assert clip.truncated(texts) == [False, False, True]
    room = icon._tokenize(["a"]).shape[1] - 1
    assert icon.truncated([" ".join(["dog"] * room), " ".join(["dog"] * (room + 1))]) == [False, True]


# ---------------------------------------------------------------------------------------------------------------- cache
class Counting:
    """The icon CLIP, and how much of it was used."""

    def __init__(self, inner):
        self.inner, self.name, self.network, self._preprocess = inner, inner.name, inner.network, inner._preprocess
        self.batches = []

    def embed_images(self, images):
        self.batches.append(len(images))
        return self.inner.embed_images(images)

    def embed_texts(self, texts):
        self.batches.append(len(texts))
        return self.inner.embed_texts(texts)


def test_a_image_is_embedded_once_under_any_name_and_in_one_batch(icon):
    counting = Counting(icon)
    cache = EmbeddingCache(counting)
    a, b = noise_images(2)
    first = cache.embed_images([a, b, a.copy()])
    again = cache.embed_images([b, a])
    assert counting.batches == [2]
    assert np.array_equal(first, np.stack([again[1], again[0], again[1]]))
    assert np.allclose(first, icon.embed_images([a, b, a]), atol=1e-6)
    cache.embed_texts(["a dog", "a dog", "a cat"])
    assert counting.batches == [2, 2]
    assert len(cache.embed_texts([])) == 0


def test_pixels_of_the_same_bytes_and_another_shape_are_another_image(icon):
    cache = EmbeddingCache(icon)
    wide = Image.fromarray(np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3))
    tall = Image.frombytes("RGB", (24, 32), wide.tobytes())
    vectors = cache.embed_images([wide, tall])
    assert not np.array_equal(vectors[0], vectors[1])


def test_a_folder_keeps_vectors_for_the_next_suite_but_not_for_another_encoder(tmp_path, icon):
    images = noise_images(3)
    first = EmbeddingCache(icon, tmp_path).embed_images(images)
    counting = Counting(icon)
    assert np.array_equal(EmbeddingCache(counting, tmp_path).embed_images(images), first)
    assert counting.batches == []
    other = Counting(OpenClipEmbedder("icon", *build_icon_clip(), "cpu"))
    EmbeddingCache(other, tmp_path).embed_images(images)
    assert other.batches == [3]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:40],
        lambda data: data[:4] + bytes([data[4] ^ 16]) + data[5:],  # of a vector whose length stays 1, nearly
        lambda data: data[:-8],  # an older version's
        lambda data: b"",
    ],
)
def test_a_damaged_file_is_made_anew(tmp_path, icon, damage):
    images = noise_images(2)
    first = EmbeddingCache(icon, tmp_path).embed_images(images)
    paths = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    paths[0].write_bytes(damage(paths[0].read_bytes()))
    counting = Counting(icon)
    assert np.allclose(EmbeddingCache(counting, tmp_path).embed_images(images), first, atol=1e-5)
    assert counting.batches == [1]


def test_a_fingerprint_holds_in_another_process(icon):
    """A printed function carries its address, which is another one in every process."""
    steps = [transforms.Lambda(lambda image: image), *icon._preprocess.transforms]
    one, two = (OpenClipEmbedder("icon", icon.network, transforms.Compose(steps), None, "cpu") for _ in range(2))
    two._preprocess.transforms = [transforms.Lambda(lambda image: image), *steps[1:]]
    assert embedding_cache.fingerprint(one) == embedding_cache.fingerprint(two)
    one._preprocess.transforms = steps[1:]
    assert embedding_cache.fingerprint(one) != embedding_cache.fingerprint(two)
