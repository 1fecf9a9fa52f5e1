"""Which file of a folder is which image of a suite, what is odd about the folder, and a hash of what was taken."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.folder_listing import METADATA, SAMPLES, Place, by_number, files_of, number_of, some
from evals.core.records import UserError, describes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from evals.core.folder_listing import Listing
    from evals.core.records import Case

_READERS = 8
"""Files that are hashed side by side."""


# ------------------------------------------------------------------------------------------------------------ matching
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Which file is which image."""

    root: Path
    files: dict[str, dict[int, Path]]
    """Case id -> index -> file."""
    faults: dict[str, str]
    """Case id -> why what lies at its place is not its own."""
    notes: tuple[str, ...]
    """What a person should know before the run, a sentence each."""
    counts: dict[str, int]
    """The same in numbers, for run.json; only what occurs."""


def is_same(metadata: Mapping[str, Any], case: Case) -> bool:
    """Whether a ``metadata.jsonl`` is of a case: the same prompt, and nothing else asked for."""
    silent = "include" not in metadata or "include" not in case.metadata
    return metadata["prompt"] == case.prompt and (silent or _asks_for_the_same(metadata, case))


def is_reworded(metadata: Mapping[str, Any], case: Case) -> bool:
    """Whether a ``metadata.jsonl`` asks for the same as a case in other words."""
    return (
        metadata["prompt"] != case.prompt
        and "include" in metadata
        and "include" in case.metadata
        and _asks_for_the_same(metadata, case)
    )


def _asks_for_the_same(metadata: Mapping[str, Any], case: Case) -> bool:
    return describes({"tag": case.tag, **metadata}) == describes(case.metadata)


class _Matcher:
    """Finds the case of a place: by its name, by its number, by what its metadata say."""

    def __init__(self, cases: Sequence[Case], listing: Listing) -> None:
        self.by_id = {case.id: case for case in cases}
        self.by_number = {number: case for case in cases if (number := number_of(case.id)) is not None}
        self.by_prompt: dict[str, list[Case]] = collections.defaultdict(list)
        self.by_content: dict[str, list[Case]] = collections.defaultdict(list)
        for case in cases:
            self.by_prompt[case.prompt].append(case)
            self.by_content[describes(case.metadata)].append(case)
        self.offset = self._offset(listing)

    def _offset(self, listing: Listing) -> int:
        """What is to be taken from a place's number to get its case's: not 0 where the first number is another."""
        stems = [path.stem for path in listing.flat]
        names = [*(place.name for place in listing.places), *stems, *(stem.rpartition("_")[0] for stem in stems)]
        numbers = [number for name in names if (number := number_of(name)) is not None]
        if not numbers or 0 not in self.by_number or min(numbers) == 0:
            return 0
        told = [place for place in listing.places if place.metadata is not None and place.number is not None]
        if told:
            fits = [offset for offset in (0, min(numbers)) if all(self._fits(place, offset) for place in told)]
            return fits[0] if fits else 0
        # Without metadata only the range tells: 1 to 553 are the prompts 0 to 552.
        whole = len(set(numbers)) == len(self.by_number) or min(numbers) == 1
        return min(numbers) if whole and max(numbers) - min(numbers) == max(self.by_number) else 0

    def _fits(self, place: Place, offset: int) -> bool:
        case = self.by_number.get((place.number or 0) - offset)
        return case is not None and place.metadata is not None and is_same(place.metadata, case)

    def by_name(self, name: str) -> Case | None:
        """The case that a name, or its number, stands for."""
        number = number_of(name)
        if self.offset and number is not None:
            return self.by_number.get(number - self.offset)
        return self.by_id.get(name) or (None if number is None else self.by_number.get(number))

    def of(self, place: Place) -> tuple[Case | None, str]:
        """A place's case, and what its metadata say of that: ``own``, ``moved``, ``reworded``, ``foreign``, ``broken``.

        Of a place that is moved the number is another case's; of a foreign one its case is the one by name.
        """
        case = self.by_name(place.name)
        if place.broken is not None:
            return case, "broken"
        if place.metadata is None or (case is not None and is_same(place.metadata, case)):
            return case, "own"
        same = [other for other in self.by_prompt[place.metadata["prompt"]] if is_same(place.metadata, other)]
        if len(same) == 1:
            return same[0], "moved"
        if case is not None and is_reworded(place.metadata, case):
            return case, "reworded"
        alike = [other for other in self.by_content[describes(place.metadata)] if is_reworded(place.metadata, other)]
        return (alike[0], "reworded") if len(alike) == 1 else (case, "foreign")

    def flat_places(self, paths: Sequence[Path]) -> list[Place]:
        """Flat files as places. A stem that is a case's name is that case's first image, otherwise ``CASE_NUMBER``."""
        found: dict[str, list[tuple[int, Path]]] = collections.defaultdict(list)
        for path in paths:
            name, number = path.stem, 0
            head, _, tail = path.stem.rpartition("_")
            if self.by_name(path.stem) is None and head and (told := number_of(tail)) is not None:
                name, number = head, told
            found[name].append((number, path))
        places = []
        for name, numbered in found.items():
            images, duplicates = by_number(numbered)
            places.append(Place(name=name, images=images, duplicates=duplicates))
        return places


def assign(listing: Listing, cases: Sequence[Case], chosen: Sequence[Case], images_per_prompt: int) -> Assignment:
    """The files of the chosen cases.

    Numbers that fit into 0 to ``images_per_prompt - 1``, counted from the folder's first, are indexes; any others, as
    seeds in names, are taken in order.

    Args:
        listing: What the folder holds.
        cases: All cases of the suite: a file of one that was not chosen is nothing to speak of.
        chosen: Those that will be run.
        images_per_prompt: Images each should have.

    Raises:
        UserError: The folder's prompts are those of the suite in other words.
    """
    matcher = _Matcher(cases, listing)
    places = [*listing.places, *matcher.flat_places(listing.flat)]
    told = [(place, *matcher.of(place)) for place in places]
    wanted = {case.id for case in chosen}
    own: dict[str, Place] = {}
    faults: dict[str, str] = {}
    odd: dict[str, list[Place]] = collections.defaultdict(list)
    # What is at its place goes before what only says whose it is.
    for place, case, kind in sorted(told, key=lambda one: one[2] != "own"):
        if case is None:
            odd["unknown"].append(place)
        elif kind in ("broken", "foreign"):
            faults.setdefault(case.id, _fault(place, case))
        elif own.setdefault(case.id, place) is not place:
            odd["double"].append(place)
        if case is not None and case.id in wanted:
            odd[kind].append(place)
    if odd["reworded"]:
        raise UserError(_reworded(listing.root, odd["reworded"], len(chosen)))
    numbers = [number for place in own.values() for number in place.images]
    files = {
        id: _indexed(place.images, min(numbers, default=0), max(numbers, default=0), images_per_prompt)
        for id, place in own.items()
        if id in wanted
    }
    faults = {id: fault for id, fault in faults.items() if id in wanted and id not in own}
    report = _Report(listing=listing, chosen=chosen, files=files, own=own, odd=odd, images_per_prompt=images_per_prompt)
    return Assignment(
        root=listing.root,
        files=files,
        faults=faults,
        notes=tuple(report.notes(matcher)),
        counts={name: number for name, number in report.counts().items() if number},
    )


def _fault(place: Place, case: Case) -> str:
    if place.metadata is None:
        return f"{place.name}/{METADATA}: unreadable ({place.broken})"
    return f"{place.name}/{METADATA} is for {place.metadata['prompt']!r}, not {case.prompt!r}"


def _indexed(images: Mapping[int, Path], first: int, last: int, images_per_prompt: int) -> dict[int, Path]:
    """Files by index, of a folder whose numbers go from `first` to `last`.

    >>> a, b = Path("a.png"), Path("b.png")
    >>> _indexed({1: a, 3: b}, 1, 4, 4) == {0: a, 2: b}, _indexed({42: a, 99: b}, 42, 99, 4) == {0: a, 1: b}
    (True, True)
    """
    if last - first < images_per_prompt:
        return {number - first: path for number, path in images.items()}
    return dict(enumerate([*images.values()][:images_per_prompt]))


def _reworded(root: Path, places: Sequence[Place], chosen: int) -> str:
    first = places[0]
    prompt = str((first.metadata or {}).get("prompt"))
    shown = prompt if len(prompt) <= 60 else prompt[:57] + "..."
    return (
        f"--model folder:{root}: {len(places):,} of {chosen:,} prompts ask for the same objects in other words "
        f"({first.name}/{METADATA}: {shown!r}); --prompts folder scores each by its own {METADATA}"
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    """What was found, in numbers and in sentences."""

    listing: Listing
    chosen: Sequence[Case]
    files: Mapping[str, Mapping[int, Path]]
    own: Mapping[str, Place]
    odd: Mapping[str, Sequence[Place]]
    images_per_prompt: int

    def counts(self) -> dict[str, int]:
        """Images in the folder, and how many of them are used, lacking or of no use, by the reason."""
        used = sum(map(len, self.files.values()))
        return {
            "images": len(self.listing.images),
            "used": used,
            "missing": len(self.chosen) * self.images_per_prompt - used,
            "prompts_without_images": sum(not self.files.get(case.id) for case in self.chosen),
            "unknown": len(self._unknown()),
            "superfluous": len(self._superfluous()),
            "duplicates": len(self._duplicates()),
            "unnumbered": len(self._unnumbered()),
            "folders_matched_by_metadata": len(self.odd.get("moved", ())),
            "folders_of_other_prompts": len(self.odd.get("foreign", ())),
            "folders_with_damaged_metadata": len(self.odd.get("broken", ())),
        }

    def notes(self, matcher: _Matcher) -> Iterator[str]:
        """A sentence for each oddity."""
        counts = self.counts()
        if not counts["used"]:
            yield self._nothing()
        elif counts["missing"]:
            yield self._missing(counts["missing"], counts["prompts_without_images"])
        if matcher.offset:
            yield f"its first number is {matcher.offset}: {matcher.offset} stands for case {matcher.by_number[0].id}"
        if moved := self.odd.get("moved"):
            yield (
                f"sub-folders matched by their {METADATA}, not by their names: {len(moved):,}"
                f" ({some([place.name for place in moved])})"
            )
        if foreign := self.odd.get("foreign"):
            names = some([place.name for place in foreign])
            yield (
                f"sub-folders of other prompts by their {METADATA}: {len(foreign):,} ({names});"
                f" --prompts folder scores each by its own"
            )
        for name, what in {
            "unknown": "images of no case",
            "superfluous": f"images beyond --images-per-prompt {self.images_per_prompt}",
            "duplicates": "further images of a number that is taken",
            "unnumbered": "images whose names are no number",
        }.items():
            paths: list[Path] = getattr(self, f"_{name}")()
            if paths and (counts["used"] or name != "unknown"):  # the first sentence has said it
                yield f"{what}, left out: {len(paths):,} ({some([self._short(path) for path in paths])})"

    def _of(self, kind: str) -> list[Path]:
        return [path for place in self.odd.get(kind, ()) for path in files_of(place)]

    def _unknown(self) -> list[Path]:
        return self._of("unknown")

    def _superfluous(self) -> list[Path]:
        used = {path for images in self.files.values() for path in images.values()}
        return [path for id in self.files for path in self.own[id].images.values() if path not in used]

    def _duplicates(self) -> list[Path]:
        return [*(path for place in self.own.values() for path in place.duplicates), *self._of("double")]

    def _unnumbered(self) -> list[Path]:
        return [path for place in self.own.values() for path in place.unnumbered]

    def _missing(self, missing: int, without: int) -> str:
        total = len(self.chosen) * self.images_per_prompt
        words = f"{missing:,} of {total:,} images are missing"
        if without:
            names = some([case.id for case in self.chosen if not self.files.get(case.id)])
            words += f"; {without:,} of {len(self.chosen):,} prompts have none ({names})"
        most = max(map(len, self.files.values()))
        if most < self.images_per_prompt:
            words += f"; no prompt has more than {most}: --images-per-prompt {most} asks for so many"
        return words

    def _nothing(self) -> str:
        root, case = self.listing.root, self.chosen[0].id if self.chosen else "CASE"
        there = self.listing.images[0]
        return (
            f"none of its {len(self.listing.images):,} images is of a wanted prompt; there is {there}, expected "
            f"{root / case / SAMPLES / '0000.png'}, or {root / f'{case}.png'}, or {root / f'{case}_0.png'}"
        )

    def _short(self, path: Path) -> str:
        return path.relative_to(self.listing.root).as_posix()


# ------------------------------------------------------------------------------------------------------------ identity
def fingerprints(assignment: Assignment, cases: Sequence[Case], images_per_prompt: int) -> list[dict[str, Any]]:
    """What each image of a run is made of: ``case``, ``index``, and ``file`` with its ``sha256``, or why there is none.

    Content alone counts: not times, not the suffix, not where the folder lies.
    """
    wanted = [(case, index) for case in cases for index in range(images_per_prompt)]
    paths = [assignment.files.get(case.id, {}).get(index) for case, index in wanted]
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        hashes = list(pool.map(_sha256, paths))
    return [
        {
            "case": case.id,
            "index": index,
            "file": None if path is None else path.relative_to(assignment.root).as_posix(),
            "sha256": digest,
            "fault": assignment.faults.get(case.id),
        }
        for (case, index), path, digest in zip(wanted, paths, hashes, strict=True)
    ]


def _sha256(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # a link to nowhere: its image will fail for the same reason
        return None


def content(fingerprint: Mapping[str, Any]) -> list[Any]:
    """The part of a fingerprint that decides what is seen."""
    return [fingerprint[key] for key in ("case", "index", "sha256", "fault")]


def digest_of(prints: Iterable[Mapping[str, Any]]) -> str:
    """One hash of all fingerprints."""
    return hashlib.sha256(json.dumps([content(one) for one in prints]).encode()).hexdigest()
