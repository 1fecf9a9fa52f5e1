"""What a call of the pipeline is checked for before anything is computed: words, lengths, numbers, one value each."""

from __future__ import annotations

import numbers
import operator
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The chat template, the image tokens and the source image's tokens (256 at the published scale).
_RESERVED_TOKENS = 400
_MOST = 65504  # float16's largest number


def check_words(text: object, what: str, *, empty_ok: bool = False) -> None:
    """Refuse text that no one can have meant.

    Any language will do. Control characters other than tab and line break, and halves of surrogate pairs, will not.

    >>> check_words("ein roter Apfel, 赤いりんご", "prompt")

    Raises:
        ValueError: If the text is empty, is none, or contains such a character.
    """
    if not isinstance(text, str) or not (empty_ok or text.strip()):
        raise ValueError(f"Expected a {what} with words but got {text!r}")
    for place, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r":
            raise ValueError(f"Expected a {what} in plain text, but character {place} of it is U+{ord(character):04X}")


def check_length(tokenizer: PreTrainedTokenizerBase, prompt: str, chain: str | None, limit: int) -> None:
    """Refuse a prompt and a chain that do not fit into the reasoner's context of `limit` tokens.

    Raises:
        ValueError: If they are too long together.
    """
    room = limit - _RESERVED_TOKENS
    # A token has at least one character, so short texts need no tokenizer.
    if len(prompt) + len(chain or "") <= room:
        return
    count = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (prompt, chain or ""))
    if count > room:
        raise ValueError(f"Expected a prompt and a chain of at most {room} tokens together but got {count}")


def unknown_words(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[str, ...]:
    """A warning that names the words which a small vocabulary lacks, or nothing."""
    unknown = tokenizer.unk_token_id
    words = [
        word
        for word in dict.fromkeys(prompt.split())
        if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]
    ]
    shown = ", ".join(words[:5]) + (", ..." if len(words) > 5 else "")
    return (f"not in the model's vocabulary: {shown}",) if words else ()


def finite(value: Any, name: str) -> float:
    """The number; an error if it is not finite.

    >>> finite(1.5, "spatial_scale")
    1.5

    Raises:
        ValueError: If it is NaN, more than weights in half precision can hold, or no number.
    """
    known = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not known or not -_MOST <= value <= _MOST:
        raise ValueError(f"Expected {name} to be a finite number, at most {_MOST} in size, but got {value!r}")
    return float(value)


def part_of_one(value: Any, name: str) -> tuple[float, float]:
    """Begin and end of an interval inside [0, 1]; an error for any other.

    >>> part_of_one([0, 0.7], "guidance_interval")
    (0.0, 0.7)

    Raises:
        ValueError: If it is not two numbers from 0 to 1 in order.
    """
    ends = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    real = all(isinstance(end, numbers.Real) and not isinstance(end, bool) for end in ends)
    if len(ends) != 2 or not real or not 0 <= ends[0] <= ends[1] <= 1:
        raise ValueError(f"Expected {name} to be two numbers from 0 to 1, the lesser first, but got {value!r}")
    return float(ends[0]), float(ends[1])


def per_prompt(
    value: Any, single: type | tuple[type, ...], count: int, name: str, *, alone_ok: bool = False, gaps_ok: bool = False
) -> Any:
    """One value per prompt: None stays, a single value serves a single prompt (or any number), a list must fit.

    Args:
        value: What was given.
        single: What one value is.
        count: How many prompts there are.
        name: What errors call it.
        alone_ok: Whether one value may serve all prompts.
        gaps_ok: Whether a list may contain None.

    Raises:
        ValueError: If the number or the type of the values is wrong.
    """
    if value is None:
        return None
    if isinstance(value, single):
        if alone_ok and count > 1:
            return value
        value = [value] * count if count == 1 else [value]
    kinds = " or ".join(kind.__name__ for kind in (single if isinstance(single, tuple) else (single,)))
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise ValueError(f"Expected {name} to be of type {kinds}, one per prompt, but got {type(value).__name__}")
    if len(value) != count:
        raise ValueError(f"Expected one {name} per prompt ({count}) but got {len(value)}")
    for one in value:
        if not (isinstance(one, single) or (gaps_ok and one is None)):
            raise ValueError(f"Expected {name} to be of type {kinds} but got {type(one).__name__}")
    return list(value)


def at_least_one(value: int | None, usual: int, name: str) -> int:
    """The whole number that was given, at least one, or else the default.

    Raises:
        ValueError: If it is no whole number from 1 up.

    >>> at_least_one(None, 10, "steps")
    10
    """
    if value is None:
        return usual
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"Expected {name} to be a whole number from 1 up but got {value!r}")
    return number


def one_of(value: str, known: Sequence[str], name: str) -> str:
    """The word; an error if it is none of the known ones.

    >>> one_of("np", ("pil", "np"), "output_type")
    'np'

    Raises:
        ValueError: If it is not.
    """
    if value not in known:
        raise ValueError(f"Expected {name} to be one of {', '.join(known)} but got {value!r}")
    return value


def given_once(value: Any, other: Any, name: str, other_name: str) -> Any:
    """The value that was given under one of two names.

    >>> given_once(None, 4.0, "semantic_scale", "guidance_scale")
    4.0

    Raises:
        ValueError: If both are given and differ.
    """
    if value is not None and other is not None and value != other:
        raise ValueError(f"Expected {name} or {other_name}, which are the same, but got {value!r} and {other!r}")
    return other if value is None else value


def places(values: Any, name: str) -> tuple[float, ...]:
    """Numbers in a list, an array or a tensor.

    >>> places([999, 499, 249.5], "timesteps")
    (999, 499, 249.5)

    Raises:
        ValueError: If there is none, or something else among them.
    """
    numbered = values.tolist() if hasattr(values, "tolist") else values
    listed = list(numbered) if isinstance(numbered, Sequence) and not isinstance(numbered, str) else []
    if not listed or not all(isinstance(one, numbers.Real) and not isinstance(one, bool) for one in listed):
        raise ValueError(f"Expected {name} to be a list of numbers but got {values!r:.60}")
    return tuple(listed)
