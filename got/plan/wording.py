"""How the prose between boxes stays grammatical when a box comes or goes. Strings only.

A chain of n boxes is seen as n + 1 pieces of prose: what stands before each named box, and the tail. A box that is
added joins a list ("a, b and c"), or gets a sentence of its own ("There is c.") where prose goes on behind the box
before it. A box that is removed takes along the words that only join it to its neighbours; a sentence of which it was
the only box goes altogether. Lists next to the change are written anew, and "there is" agrees with what follows it.
What prose says elsewhere about a box that has gone ("it", "both of them") cannot be known and stays.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Each begins where its blanks or stops begin: a search from every one of many blanks would take their square.
_SENTENCE_END = re.compile(r"(?<![.!?])[.!?]+(?:\s+|$)|(?<!\s)\s*\n\s*")
_LIST_JOINT = re.compile(r",\s*and\s+|,\s+|\s+and\s+", re.IGNORECASE)
_CLAUSE_JOINT = re.compile(r"(?:(?<!\s)\s+)?[,;:]\s*(?:and\s+)?|(?<!\s)\s+and\s+", re.IGNORECASE)
_THERE_IS = re.compile(r"(?P<joint>,? and )?\bthere (?P<verb>is|are) $", re.IGNORECASE)
_SEVERAL = re.compile(
    r"(?:two|three|four|five|six|seven|eight|nine|ten|some|several|many|few|both|[2-9]|\d{2,})\b", re.IGNORECASE
)


def is_plural(name: str) -> bool:
    """Whether a name speaks of several things, judged by its first word.

    >>> is_plural("two dogs"), is_plural("a pair of dogs")
    (True, False)
    """
    return _SEVERAL.match(name.lstrip()) is not None


def insert(prose: Sequence[str], names: Sequence[str], index: int) -> list[str]:
    """Prose around one more box.

    Args:
        prose: The prose before each of the boxes that are there, and the tail.
        names: The names of all boxes, with that of the new one.
        index: Which of them is new.

    Returns:
        The prose before each box, and the tail.

    >>> insert(["there is ", ""], ["a cat", "a dog"], 1)
    ['there are ', ' and ', '']
    >>> insert(["", " sleeps."], ["A cat", "a dog"], 1)
    ['', ' sleeps. There is ', '.']
    """
    there_is = "there are " if is_plural(names[index]) else "there is "
    if len(prose) == 1:
        return list(_after_prose(prose[0], there_is))
    if index == 0:
        return _insert_first(list(prose), names, there_is)
    new = [*prose[:index], "", *prose[index:]]  # new[index] goes before the new box, new[index + 1] behind it
    if index < len(prose) - 1 and _same_sentence(prose[index]):
        new[index], new[index + 1] = ", ", prose[index]
        if not _is_list(prose[index]):
            new[index + 1] = " and "
            new = _rejoined(new, index)
    elif _is_wordless(prose[index]):
        new[index] = " and "
        new = _rejoined(new, index)
    else:
        new[index], new[index + 1] = _after_prose(prose[index], there_is)
        return new
    return _with_verbs(new, names, index)


def remove(prose: Sequence[str], names: Sequence[str], index: int) -> list[str]:
    """Prose around the boxes that remain.

    Args:
        prose: The prose before each box, and the tail.
        names: The names of the boxes that remain.
        index: Which box goes.

    Returns:
        The prose before each box that remains, and the tail.

    >>> remove(["there are ", ", ", " and ", ""], ["a cat", "a cow"], 1)
    ['there are ', ' and ', '']
    >>> remove(["", " sits on ", ", next to ", "."], ["A cat", "a mat"], 2)
    ['', ' sits on ', '.']
    """
    before, after = prose[index], prose[index + 1]
    shared_before = index > 0 and _same_sentence(before)
    shared_after = index < len(prose) - 2 and _same_sentence(after)
    own_clause = _THERE_IS.search(before)
    if shared_after and (own_clause is not None or not shared_before):
        kept = before
    elif shared_after:
        kept = after if _is_list(after) else before if _is_list(before) else " and "
    elif own_clause is not None and own_clause["joint"]:
        kept = before[: own_clause.start()] + after
    elif shared_before:
        clauses = list(_CLAUSE_JOINT.finditer(before))
        kept = before[: clauses[-1].start() if clauses else 0] + after
    else:
        kept = _without_sentence(before, after)
        if index == len(prose) - 2:
            kept = kept.rstrip()
    new = [*prose[:index], kept, *prose[index + 2 :]]
    if shared_before and not (shared_after and _is_list(after) and _items(new, index) > 2):
        new = _rejoined(new, index - 1, _is_oxford(before))
    return _with_verbs(new, names, *[index - 1] * shared_before, *[index] * shared_after)


def agree(prose: Sequence[str], names: Sequence[str], index: int) -> list[str]:
    """The same prose with the right verb before the list that a box is in, after it was given another name.

    >>> agree(["there is ", ""], ["two cats"], 0)
    ['there are ', '']
    """
    return _with_verbs(list(prose), names, index)


def _insert_first(prose: list[str], names: Sequence[str], there_is: str) -> list[str]:
    opens_sentence = prose[0] == "" or any(end.end() == len(prose[0]) for end in _SENTENCE_END.finditer(prose[0]))
    tail = prose[1]
    if opens_sentence and not (_is_list(tail) or _is_wordless(tail)):
        return [prose[0] + there_is.capitalize(), ". ", *prose[1:]]
    if _items(prose, 0) > 1:
        return _with_verbs([prose[0], ", ", *prose[1:]], names, 0)
    return _with_verbs(_rejoined([prose[0], " and ", *prose[1:]], 0), names, 0)


def _after_prose(prose: str, there_is: str) -> tuple[str, str]:
    """Prose before and after a box that follows the sentence at the beginning of some prose."""
    end = _SENTENCE_END.search(prose)
    if end is not None and end[0][0] in ".!?":
        gap = prose[: end.end()].rstrip()
        return f"{gap} {there_is.capitalize()}", "." + prose[len(gap) :]
    head = prose[: end.start()] if end is not None else prose
    if not head.strip():
        return f"{head}{there_is}", prose[len(head) :]
    return f"{head}, and {there_is}", prose[len(head) :]


def _without_sentence(before: str, after: str) -> str:
    starts = [end.end() for end in _SENTENCE_END.finditer(before)]
    end = _SENTENCE_END.search(after)
    return before[: starts[-1] if starts else 0] + (after[end.end() :] if end is not None else "")


def _same_sentence(joint: str) -> bool:
    return _SENTENCE_END.search(joint) is None


def _is_list(joint: str) -> bool:
    return _LIST_JOINT.fullmatch(joint) is not None


def _is_list_joint(prose: Sequence[str], index: int) -> bool:
    """Whether the prose before a box joins it to the box before it, as items of one list."""
    return 0 < index < len(prose) - 1 and _is_list(prose[index])


def _is_oxford(joint: str) -> bool:
    return joint.startswith(",") and joint.strip(", \t").lower() == "and"


def _is_wordless(tail: str) -> bool:
    """Whether nothing is said between a box and the end of its sentence."""
    end = _SENTENCE_END.search(tail)
    return re.search(r"\w", tail[: end.start()] if end is not None else tail) is None


def _run(prose: Sequence[str], index: int) -> tuple[int, int]:
    """First and last box of the list that a box is in."""
    first = last = index
    while _is_list_joint(prose, first):
        first -= 1
    while _is_list_joint(prose, last + 1):
        last += 1
    return first, last


def _items(prose: Sequence[str], index: int) -> int:
    """How many boxes the list has that a box is in."""
    first, last = _run(prose, index)
    return last - first + 1


def _rejoined(prose: list[str], index: int, oxford: bool = False) -> list[str]:
    """The prose with the list that a box is in written as "a and b" or "a, b and c".

    A comma before "and" stays if there was one. Two boxes get it if their sentence has a third one that is no item of
    the list: "a above b, and c" does not say that a is above c.
    """
    first, last = _run(prose, index)
    if first == last:
        return prose
    joints = range(first + 1, last + 1)
    oxford = oxford or any(_is_oxford(prose[joint]) for joint in joints)
    if len(joints) == 1:
        related_before = first > 0 and _same_sentence(prose[first])
        related_after = last < len(prose) - 2 and _same_sentence(prose[last + 1])
        oxford = related_before or related_after
    new = list(prose)
    new[first + 1 : last + 1] = [", "] * (len(joints) - 1) + [", and " if oxford else " and "]
    return new


def _with_verbs(prose: list[str], names: Sequence[str], *indices: int) -> list[str]:
    """Make "there is" and "there are" agree with the lists that some boxes are in."""
    for index in indices:
        first, last = _run(prose, index)
        found = _THERE_IS.search(prose[first])
        if found is not None:
            verb = "are" if last > first or is_plural(names[first]) else "is"
            prose[first] = prose[first][: found.start("verb")] + verb + prose[first][found.end("verb") :]
    return prose
