"""Special tokens, the word-level tokenizer of the embedded model, and conversations as tokens, images and tensors.

The published model uses Qwen2.5's byte-level BPE; the embedded one knows a few hundred words. Both share the special
tokens below, so everything after tokenization is the same code. A space belongs to the piece that follows it
(``" apple"`` and ``"apple"`` are two entries), which makes decoding a plain concatenation and therefore exact.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import torch
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from got.plan.chain import BOX_END, BOX_START, MASK_COLORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
IMAGE_PAD = "<|image_pad|>"
VIDEO_PAD = "<|video_pad|>"
IMAGE_START = "<|im_gen_start|>"
IMAGE_END = "<|im_gen_end|>"
UNKNOWN = "<|unk|>"

GENERATE_PREFIX = "Follow the caption to generate an image through a chain of thought process: "
EDIT_PREFIX = "Follow the instruction to edit the given image through a chain of thought process: "

# The order of Qwen2.5's own special tokens, without the ones that GoT has no use for.
_SPECIAL = (
    END_OF_TEXT, TURN_START, TURN_END, BOX_START, BOX_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD,
    UNKNOWN, IMAGE_START, IMAGE_END,
)  # fmt: skip
_TEMPLATE_WORDS = ("user", "assistant", "system", GENERATE_PREFIX, EDIT_PREFIX, "),(", *MASK_COLORS)
_PUNCTUATION = ".,:;!?'\"-/()"
# A word, one digit, one mark: each with the single space before it, if there is one; else one lone space or newline.
# The seam between the corners of a box is one piece, which shortens every chain.
_PIECE = r"\),\(| ?[^\W\d_]+| ?\d| ?[^\w\s]| ?_|\s"

# Qwen2.5-VL's chat template without its default system line: ten tokens less in every sequence.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def image_token(index: int) -> str:
    """Name of one image token.

    >>> image_token(7)
    '<|im_gen_0007|>'
    """
    return f"<|im_gen_{index:04d}|>"


def build_tokenizer(words: Iterable[str], image_tokens: int = 64) -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer; words (or phrases) outside ``words`` become ``<|unk|>``.

    Args:
        words: Vocabulary in any case; phrases are split into words, duplicates are dropped.
        image_tokens: How many ``<|im_gen_NNNN|>`` tokens to add.

    >>> tokenizer = build_tokenizer(["a red apple"])
    >>> text = "a red apple <|box_start|>(120,300),(480,660)<|box_end|> (red)"
    >>> tokenizer.decode(tokenizer(text)["input_ids"]) == text
    True
    """
    special = [*_SPECIAL, *(image_token(i) for i in range(image_tokens))]
    pieces = dict.fromkeys(["\n", " ", *"0123456789", *_PUNCTUATION])
    for phrase in (*_TEMPLATE_WORDS, *words):
        pieces.update(dict.fromkeys(piece.strip() for piece in re.findall(_PIECE, phrase.lower()) if piece.strip()))
    spaced = (f" {piece}" for piece in list(pieces) if not piece.isspace())
    vocabulary = {piece: i for i, piece in enumerate([*special, *pieces, *spaced])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Id of a special token.

    Raises:
        ValueError: If the tokenizer does not know the token.
    """
    # Not through `get_vocab`, which builds a dict of a hundred thousand entries at every call.
    index: int | None = tokenizer.convert_tokens_to_ids(token)
    if index is None or tokenizer.convert_ids_to_tokens(index) != token:
        raise ValueError(f"Expected a tokenizer with the token {token}, but {type(tokenizer).__name__} lacks it")
    return index


def image_token_ids(tokenizer: PreTrainedTokenizerBase, count: int = 64) -> list[int]:
    """Ids of the image tokens, in order; they are not assumed to be contiguous.

    Raises:
        ValueError: If one of them is missing.
    """
    return [token_id(tokenizer, image_token(i)) for i in range(count)]


# -------------------------------------------------------------------------------------------------------- conversations
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transcript:
    """One conversation so far."""

    ids: tuple[int, ...]
    """Every token; an image is a run of as many ``<|image_pad|>`` as the vision tower makes of it."""
    images: tuple[Image.Image, ...] = ()
    """The images behind those runs, in order."""

    def plus(self, ids: Iterable[int], images: Iterable[Image.Image] = ()) -> Transcript:
        """The conversation with more tokens (and images) at its end.

        >>> Transcript(ids=(1, 2)).plus([3]).ids
        (1, 2, 3)
        """
        return Transcript(ids=(*self.ids, *ids), images=(*self.images, *images))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """Some conversations as one batch, padded on the left."""

    input_ids: torch.Tensor
    """(rows, length)"""
    attention_mask: torch.Tensor
    """(rows, length), 1 where there is a token."""
    token_types: torch.Tensor
    """1 at image pads: without these the library silently numbers image tokens as if they were text."""
    position_ids: torch.Tensor
    """(3, rows, length)"""
    rope_deltas: torch.Tensor
    """(rows, 1): what to add to a text position that follows the images."""
    vision: dict[str, torch.Tensor] | None
    """Patches and grids of all images, row by row."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageInput:
    """How images enter the reasoner: squashed to one size, cut into patches."""

    processor: Qwen2VLImageProcessor
    side_px: int
    """Images are squashed to a square of this side."""

    def patches(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Patches of all images, and the grid of each."""
        side = (self.side_px, self.side_px)
        squares = [image.convert("RGB").resize(side, Image.Resampling.BICUBIC) for image in images]
        patches = self.processor(images=squares, return_tensors="pt")
        return {"pixel_values": patches["pixel_values"], "image_grid_thw": patches["image_grid_thw"]}

    @property
    def pads(self) -> int:
        """How many tokens an image takes."""
        return (self.side_px // (self.processor.patch_size * self.processor.merge_size)) ** 2


def image_prompt(tokenizer: PreTrainedTokenizerBase, image_input: ImageInput | None) -> list[int]:
    """The tokens of one image: start, pads, end."""
    pads = [token_id(tokenizer, IMAGE_PAD)] * require_image_processor(image_input).pads
    return [token_id(tokenizer, VISION_START), *pads, token_id(tokenizer, VISION_END)]


def batch(
    transcripts: Sequence[Transcript],
    mllm: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    image_input: ImageInput | None,
    device: torch.device,
) -> Inputs:
    """Pad conversations on the left, and number their positions in time, height and width.

    Raises:
        ValueError: If there are images and no image processor to see them.
    """
    images = [image for transcript in transcripts for image in transcript.images]
    vision = (
        {key: value.to(device) for key, value in require_image_processor(image_input).patches(images).items()}
        if images
        else None
    )
    longest = max(len(transcript.ids) for transcript in transcripts)
    pads = [longest - len(transcript.ids) for transcript in transcripts]
    rows = [[tokenizer.pad_token_id] * pad + [*row.ids] for pad, row in zip(pads, transcripts, strict=True)]
    input_ids = torch.tensor(rows, device=device)
    mask = (torch.arange(longest)[None] >= torch.tensor(pads)[:, None]).long().to(device)
    token_types = (input_ids == token_id(tokenizer, IMAGE_PAD)).int()
    if vision is None:
        position_ids = (mask.cumsum(1) - 1).clamp(min=0).expand(3, -1, -1)
        rope_deltas = torch.zeros_like(mask[:, :1])
    else:
        position_ids, rope_deltas = mllm.model.get_rope_index(
            input_ids, token_types, image_grid_thw=vision["image_grid_thw"], attention_mask=mask
        )
    return Inputs(
        input_ids=input_ids,
        attention_mask=mask,
        token_types=token_types,
        position_ids=position_ids,
        rope_deltas=rope_deltas,
        vision=vision,
    )


def require_image_processor(image_input: ImageInput | None) -> ImageInput:
    """The image processor, or an error that says what is missing."""
    if image_input is None:
        raise ValueError("Expected an image processor for source images, but this reasoner was made without one")
    return image_input
