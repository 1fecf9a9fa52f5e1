"""Special tokens, and the small word-level tokenizer of the embedded model.

The published model uses Qwen2.5's byte-level BPE; the embedded one knows a few hundred words. Both share the special
tokens below, so everything after tokenization is the same code. A space belongs to the piece that follows it
(``" apple"`` and ``"apple"`` are two entries), which makes decoding a plain concatenation and therefore exact.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from got.plan.chain import BOX_END, BOX_START, MASK_COLORS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedTokenizerBase

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
