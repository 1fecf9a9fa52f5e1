"""CLIPs: the embedded one of the icon world and those of open_clip."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core import weights
from evals.core.records import UserError
from evals.embedders.registry import OPENCLIP_CONFIG, SQUASH, openclip_fault
from got.util.files import sha256
from got.util.weight_files import why

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray
    from PIL import Image


ASSETS = Path(__file__).parents[1] / "assets"
CONFIG = ASSETS / "icon_clip.json"
WEIGHTS = ASSETS / "icon_clip.safetensors"
PHOTO_MODEL = "ViT-L-14/openai"
BATCH = 64
"""Images or texts in one forward pass."""


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

    def squash(self) -> None:
        """Makes the preprocessing squeeze whole images into the model's square (bicubic) instead of cutting them.

        That is how InstructPix2Pix's own metric sees an image (without antialiasing); others cut out the centre.
        """
        from torchvision.transforms import Normalize
        from torchvision.transforms.functional import pil_to_tensor

        size_px = getattr(self.network.visual, "image_size", 224)
        height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
        normalize = next(step for step in self._preprocess.transforms if isinstance(step, Normalize))  # type: ignore[attr-defined]

        def preprocess(image: Image.Image) -> torch.Tensor:
            import torch

            pixels = pil_to_tensor(image.convert("RGB"))[None].float() / 255
            small = torch.nn.functional.interpolate(pixels, (height, width), mode="bicubic", antialias=False)
            prepared: torch.Tensor = normalize(small)[0]
            return prepared

        self._preprocess = preprocess
        self.name += SQUASH

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is longer than the model reads, so that its end is not embedded."""
        encode = getattr(self._tokenize, "encode", None)
        if encode is None:
            raise NotImplementedError(f"{self.name}: its tokenizer does not tell the length of a text")
        room = int(self._tokenize(["a"]).shape[1]) - (1 if isinstance(self._tokenize, WordTokenizer) else 2)
        return [len(encode(text)) > room for text in texts]

    def _embed(self, encode: Callable[[Any], torch.Tensor], items: Sequence[Any]) -> NDArray[np.float32]:
        return _batched(encode, items)


def _batched(encode: Callable[[Any], torch.Tensor], items: Sequence[Any]) -> NDArray[np.float32]:
    import torch

    with torch.inference_mode():
        parts = [encode(items[i : i + BATCH]).float().cpu().numpy() for i in range(0, len(items), BATCH)]
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


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
            ids = [*self.encode(text)[: self._length - 1], self._end]
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def encode(self, text: str) -> list[int]:
        """Numbers of a text's known words, before it is cut to length."""
        return [self._ids[word] for word in re.findall(r"[a-z]+", text.lower()) if word in self._ids]


def build_icon_clip(config: Path = CONFIG) -> tuple[torch.nn.Module, Callable[..., Any], WordTokenizer]:
    """Network with arbitrary weights, preprocessing and tokenizer of a config."""
    import open_clip
    from open_clip.transform import image_transform

    read = json.loads(config.read_bytes())
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
    if metadata.get("config_sha256") != sha256(config):
        raise UserError(f"{path} was trained with another version of {config.name}: train it again")
    return OpenClipEmbedder("icon", network, transform, tokenizer, device)


def make_icon_clip(_: str, device: str) -> OpenClipEmbedder:
    """The embedded CLIP, which takes no argument."""
    return load_icon_clip(device=device)


def load_openclip(model: str, device: str = "cpu") -> OpenClipEmbedder:
    """A published model (`MODEL/PRETRAINED`, a tag or a file; empty is OpenAI's ViT-L-14), or a folder of open_clip.

    Raises:
        UserError: unknown model or tag, or weights that cannot be read or downloaded.
    """
    import open_clip

    model = model or PHOTO_MODEL
    folder = Path(model)
    if fault := openclip_fault(model):
        raise UserError(fault)
    if (folder / OPENCLIP_CONFIG).is_file():
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
    # open_clip only warns where a tag's weights were trained with another activation than the model's own: OpenAI's.
    quick = bool(open_clip.get_pretrained_cfg(name, pretrained or "").get("quick_gelu", False))
    if pretrained and Path(pretrained).is_file():
        weights.refuse_file(Path(pretrained))
    try:
        network, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, device=device, force_quick_gelu=quick
        )
    except Exception as error:  # open_clip, hub and network each raise their own
        place = pretrained if pretrained and Path(pretrained).is_file() else model
        raise UserError(f"openclip:{model} cannot be loaded: {why(place, error)}") from error
    return OpenClipEmbedder(f"openclip:{model}", network, transform, open_clip.get_tokenizer(name), device)
