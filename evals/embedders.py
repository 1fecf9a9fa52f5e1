"""CLIPs: images and texts as unit vectors of one space, and GenEval's way of naming a colour with them."""

from __future__ import annotations

import json
import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals import weights
from evals.records import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from evals.protocols import Embedder

ASSETS = Path(__file__).parent / "assets"
CONFIG = ASSETS / "icon_clip.json"
WEIGHTS = ASSETS / "icon_clip.safetensors"
PHOTO_MODEL = "ViT-L-14/openai"
BATCH = 64
"""Images or texts in one forward pass."""
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
"""GenEval's."""

_CLASSIFIERS: weakref.WeakKeyDictionary[Any, dict[tuple[str, tuple[str, ...]], NDArray[np.float32]]]
_CLASSIFIERS = weakref.WeakKeyDictionary()


def make_embedder(spec: str, device: str = "cpu") -> Embedder:
    """A CLIP by name.

    Args:
        spec: `icon` (embedded, icon world), `openclip:MODEL/PRETRAINED` with a tag of open_clip or a weights file
            (OpenAI's weights from a file want the model's `-quickgelu` variant), `openclip:FOLDER` with a model
            saved by open_clip, or `openclip` alone for ViT-L-14 of OpenAI, GenEval's own.
        device: torch device.

    Raises:
        UserError: no such model, or its weights cannot be had here.
    """
    kind, _, model = spec.partition(":")
    if kind == "icon" and not model:
        return load_icon_clip(device=device)
    if kind == "openclip":
        return load_openclip(model or PHOTO_MODEL, device=device)
    raise UserError(f"Expected an embedder among icon, openclip:MODEL/PRETRAINED, openclip:FOLDER but got {spec!r}")


class OpenClipEmbedder:
    """An open_clip model with its preprocessing and tokenizer."""

    def __init__(
        self,
        name: str,
        network: torch.nn.Module,
        preprocess: Callable[[Image.Image], torch.Tensor],
        tokenize: Callable[[Sequence[str]], torch.Tensor],
        device: str,
    ) -> None:
        self.name = name
        self.network: Any = network.to(device).eval()
        self._preprocess = preprocess
        self._tokenize = tokenize
        self._device = device

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""
        import torch

        def encode(chunk: Sequence[Image.Image]) -> torch.Tensor:
            pixels = torch.stack([self._preprocess(image.convert("RGB")) for image in chunk])
            vectors: torch.Tensor = self.network.encode_image(pixels.to(self._device), normalize=True)
            return vectors

        return self._embed(encode, images)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""

        def encode(chunk: Sequence[str]) -> torch.Tensor:
            tokens = self._tokenize(list(chunk)).to(self._device)
            vectors: torch.Tensor = self.network.encode_text(tokens, normalize=True)
            return vectors

        return self._embed(encode, texts)

    def _embed(self, encode: Callable[[Any], torch.Tensor], items: Sequence[Any]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            parts = [encode(items[i : i + BATCH]).float().cpu().numpy() for i in range(0, len(items), BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


# --------------------------------------------------------------------------------------------------------------- icon
class WordTokenizer:
    """Words of a fixed list, one number each. Other words are dropped: they are not of the icon world."""

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        self._ids = {word: i + 1 for i, word in enumerate(words)}  # 0 pads
        self.vocab_size = len(words) + 2
        self._end = self.vocab_size - 1  # the highest number: open_clip reads the text's vector there
        self._length = context_length

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Token numbers, int64 (n, context_length)."""
        import torch

        tokens = torch.zeros(len(texts), self._length, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            ids = [self._ids[word] for word in re.findall(r"[a-z]+", text.lower()) if word in self._ids]
            ids = [*ids[: self._length - 1], self._end]
            row[: len(ids)] = torch.tensor(ids)
        return tokens


def build_icon_clip(config: Path = CONFIG) -> tuple[torch.nn.Module, Callable[..., Any], WordTokenizer]:
    """Network with arbitrary weights, preprocessing and tokenizer of a config."""
    import open_clip
    from open_clip.transform import image_transform

    read = json.loads(config.read_text())
    tokenizer = WordTokenizer(read["vocabulary"], read["model"]["text_cfg"]["context_length"])
    model = {**read["model"], "text_cfg": {**read["model"]["text_cfg"], "vocab_size": tokenizer.vocab_size}}
    size_px = model["vision_cfg"]["image_size"]
    transform = image_transform(size_px, is_train=False, **read["preprocess"])
    return open_clip.CLIP(**model), transform, tokenizer


def load_icon_clip(path: Path = WEIGHTS, *, device: str = "cpu", config: Path = CONFIG) -> OpenClipEmbedder:
    """The embedded CLIP, or another training of the same config.

    Raises:
        UserError: the weights are missing or belong to another config.
    """
    network, transform, tokenizer = build_icon_clip(config)
    state, metadata = weights.read(path)
    weights.fit(network, state, str(path))
    if metadata.get("config_sha256") != weights.sha256(config):
        raise UserError(f"{path} was trained with another version of {config.name}: train it again")
    return OpenClipEmbedder("icon", network, transform, tokenizer, device)


# ---------------------------------------------------------------------------------------------------------- open_clip
def load_openclip(model: str, *, device: str = "cpu") -> OpenClipEmbedder:
    """A published model (`MODEL/PRETRAINED`, where PRETRAINED is a tag or a file), or a folder saved by open_clip.

    Raises:
        UserError: unknown model or tag, or weights that cannot be read or downloaded.
    """
    import open_clip

    folder = Path(model)
    if (folder / "open_clip_config.json").is_file():
        name, pretrained = f"local-dir:{folder}", None
    else:
        name, _, tag = model.partition("/")
        pretrained = tag or None
        if name not in open_clip.list_models():
            raise UserError(f"open_clip knows no model {name!r}; among others it knows ViT-L-14 and ViT-B-32")
        known = open_clip.list_pretrained_tags_by_model(name)
        if not pretrained or (pretrained not in known and not Path(pretrained).is_file()):
            tags = ", ".join(known)
            raise UserError(f"Expected {name}/PRETRAINED, a weights file or one of {tags}, but got {model!r}")
    try:
        network, _, transform = open_clip.create_model_and_transforms(name, pretrained=pretrained, device=device)
    except Exception as error:  # open_clip, hub and network each raise their own
        raise UserError(f"openclip:{model} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    return OpenClipEmbedder(f"openclip:{model}", network, transform, open_clip.get_tokenizer(name), device)


# ------------------------------------------------------------------------------------------------------------- colour
def classify_colors(
    embedder: Embedder, crops: Sequence[Image.Image], names: Sequence[str], colors: Sequence[str]
) -> list[str]:
    """GenEval's zero-shot colour of each crop: the colour whose averaged templates are nearest.

    Args:
        embedder: The CLIP.
        crops: RGB pictures of one object each.
        names: Class of each crop, part of the templates.
        colors: The colours to choose from.
    """
    if not crops:
        return []
    texts = _classifiers(embedder, sorted(set(names)), tuple(colors))
    images = embedder.embed_images(crops)
    return [colors[int((texts[name] @ image).argmax())] for name, image in zip(names, images, strict=True)]


def _classifiers(embedder: Embedder, names: Sequence[str], colors: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    """Class name -> unit vectors of the colours (colours, d); new names are embedded together and remembered."""
    known = _CLASSIFIERS.setdefault(embedder, {})
    new = [name for name in names if (name, colors) not in known]
    if new:
        texts = [t.format(color=c, name=name) for name in new for c in colors for t in TEMPLATES]
        vectors = embedder.embed_texts(texts).reshape(len(new), len(colors), len(TEMPLATES), -1).mean(2)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        known.update({(name, colors): vector for name, vector in zip(new, vectors, strict=True)})
    return {name: known[name, colors] for name in names}
