"""Which file of a folder is which image of a suite, what is odd about the folder, and a hash of what was taken."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from evals.core.folder_listing import METADATA, SAMPLES, Place, by_number, files_of, indices, is_image, number_of, some
from evals.core.records import UserError, describes
from got.util.errors import shortened
from got.util.files import inside, left_out, read_object, sha256
from got.util.tables import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from evals.core.folder_listing import Listing
    from evals.core.records import Case

_READERS = 8
"""So many files are hashed at a time."""


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
    """The same findings in numbers, for run.json; zeros are left out."""


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


_KINDS = ("confirmed", "moved", "silent", "reworded", "foreign", "broken")
"""How a place's metadata relate to its case, the surest first; of two places for one case the surer one is taken."""
_FOREIGN = "images_of_other_prompts"


class _Matcher:
    """Finds the case of a place: by its name, by its number, by what its metadata say."""

    def __init__(self, listing: Listing, cases: Sequence[Case], chosen: Sequence[Case]) -> None:
        self.root = listing.root
        self.by_id = {case.id: case for case in cases}
        self.by_number = _numbered(cases)
        self.by_prompt: dict[str, list[Case]] = collections.defaultdict(list)
        for case in cases:
            self.by_prompt[case.prompt].append(case)
        self.contradictory = self.assumed = False
        """Whether no shift fits all metadata; whether nothing tells where the numbers begin."""
        self.counted: tuple[str, str] | None = None
        """The first and the last number where they seem to count the chosen cases, not all; None elsewhere."""
        self.chosen = chosen
        self.offset = self._offset(listing, set(_numbered(chosen)))
        self.places = [*listing.places, *self._flat_places(listing.flat)]

    def _offset(self, listing: Listing, chosen: set[int]) -> int:
        """How much larger folder numbers are than case numbers: as metadata prove, or else as the numbers suggest."""
        proofs = [shifts for place in listing.places if (shifts := self._shifts(place))]
        if proofs:
            common = set.intersection(*proofs)
            self.contradictory = not common
            return min(common, key=lambda shift: (abs(shift), shift), default=0)
        names = [*(place.name for place in listing.places), *(path.stem for path in listing.flat)]
        names += [path.stem.rpartition("_")[0] for path in listing.flat]
        numbers = {number for name in names if (number := number_of(name)) is not None}
        if not numbers or not self.by_number or numbers == chosen:
            return 0
        if 0 not in self.by_number:
            return self._offset_from_one(numbers)
        first, end = min(numbers), max(self.by_number) + 1
        if len(numbers) == len(chosen) == max(numbers) - first + 1 < len(self.by_number):
            self.counted = (str(first), str(max(numbers)))
        if numbers == {first + number for number in self.by_number}:
            return first
        if first == 0 and max(numbers) == end:
            raise UserError(
                f"--model folder:{self.root}: its numbers go from 0 to {end}, one more than there are prompts, so the "
                f"first one may be 0 or 1; take away what is no prompt's, or add {METADATA} to its sub-folders"
            )
        if first and end in numbers:
            return 1
        self.assumed = first > 0 or end in numbers
        return 0

    def _offset_from_one(self, numbers: set[int]) -> int:
        """How much larger they are than the numbers of cases, of which none is 0: by nothing, or each is 1 less.

        Raises:
            UserError: They seem to be shifted in another way.
        """
        end = max(self.by_number)
        if self.by_number.keys() == set(range(1, end + 1)) and numbers == set(range(end)):
            return -1
        strays, lost = sorted(numbers - self.by_number.keys()), sorted(self.by_number.keys() - numbers)
        if strays and lost and (strays[0] == 0 or len(strays) == len(lost)):
            raise _shifted(self.root, f"number {strays[0]}", self.by_number[lost[0]].id)
        return 0

    def _shifts(self, place: Place) -> set[int]:
        """How much larger a place's number is than that of each case which its metadata fit; empty if they fit none."""
        if place.number is None or place.metadata is None:
            return set()
        return {place.number - number for number in _numbered(self._same(place.metadata))}

    def _same(self, metadata: Mapping[str, Any]) -> list[Case]:
        return [case for case in self.by_prompt.get(metadata["prompt"], ()) if is_same(metadata, case)]

    def by_name(self, name: str) -> Case | None:
        """The case of this name, or of its number."""
        number = number_of(name)
        if number is None or (not self.offset and name in self.by_id):
            return self.by_id.get(name)
        return self.by_number.get(number - self.offset)

    def of(self, place: Place) -> tuple[Case | None, str]:
        """A place's case, and what its metadata say of that, one of `_KINDS`.

        Of a place that is moved the number is another case's; of a foreign one its case is the one by name.
        """
        case = self.by_name(place.name)
        if place.broken is not None:
            return None if self._is_unsure(place) else case, "broken"
        if place.metadata is None:
            return None if self._is_unsure(place) else case, "silent"
        same = self._same(place.metadata)
        if case in same:
            return case, "confirmed"
        if len(same) == 1:
            return same[0], "moved"
        return case, "reworded" if case is not None and is_reworded(place.metadata, case) else "foreign"

    def _is_unsure(self, place: Place) -> bool:
        return self.contradictory and place.number is not None and place.metadata is None

    def _flat_places(self, paths: Sequence[Path]) -> list[Place]:
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

    def notes(self) -> Iterator[str]:
        """How numbers were read, where that is not plain."""
        if self.counted is not None:
            first, last = self.counted
            yield (
                f"its numbers, {first} to {last}, are as many as the chosen prompts, but a prompt is found by its "
                f"number among all: the chosen ones are {some([case.id for case in self.chosen])}; name the images so, "
                f"or add {METADATA} to their sub-folders"
            )
        if self.offset:
            number = min(number for number in (key + self.offset for key in self.by_number) if number >= 0)
            yield f"its numbers are not the cases': {number} stands for case {self.by_number[number - self.offset].id}"
        if self.assumed:
            yield (
                f"nothing tells whether its first number is 0 or 1: 0 is taken for case {self.by_number[0].id}; "
                f"{METADATA} in its sub-folders, or an image for each prompt, makes it sure"
            )
        if unsure := [place.name for place in self.places if self._is_unsure(place)]:
            yield (
                f"the {METADATA} of its sub-folders do not go by their numbers, so those without one are of no case: "
                f"{len(unsure):,} ({some(unsure)})"
            )


def _numbered(cases: Iterable[Case]) -> dict[int, Case]:
    return {number: case for case in cases if (number := number_of(case.id)) is not None}


def assign(listing: Listing, cases: Sequence[Case], chosen: Sequence[Case], images_per_prompt: int) -> Assignment:
    """The files of the chosen cases.

    Args:
        listing: What the folder holds.
        cases: All cases of the suite: a file of one that was not chosen is nothing to speak of.
        chosen: Those that will be run.
        images_per_prompt: Images each should have.

    Raises:
        UserError: The folder's prompts are those of the suite in other words, or its numbers may begin with 0 or 1.
    """
    matcher = _Matcher(listing, cases, chosen)
    told = sorted(((place, *matcher.of(place)) for place in matcher.places), key=lambda one: _KINDS.index(one[2]))
    wanted = {case.id for case in chosen}
    own: dict[str, Place] = {}
    faults: dict[str, str] = {}
    left: dict[str, list[Path]] = collections.defaultdict(list)
    folders: dict[str, list[str]] = collections.defaultdict(list)
    reworded = []
    for place, case, kind in told:
        taken = case is not None and kind != "foreign" and own.setdefault(case.id, place) is place
        if case is None:
            left["unknown"] += files_of(place)
        elif case.id not in wanted:
            left["not_chosen"] += files_of(place)
        else:
            folders[kind].append(place.name)
            reworded += [place] * (kind == "reworded")
            if kind == "foreign":
                faults.setdefault(case.id, _fault(place, case))
            if taken:
                left["duplicates"] += place.duplicates
                left["unnumbered"] += place.unnumbered
            else:
                left[_FOREIGN if kind == "foreign" else "duplicates"] += files_of(place)
    if reworded:
        raise UserError(_reworded(listing.root, reworded, len(chosen)))
    numbers = [number for place in own.values() for number in place.images]
    first, last = min(numbers, default=0), max(numbers, default=0)
    files = {}
    for id in [id for id in own if id in wanted]:
        paths = own[id].images
        indexed = zip(indices(paths, first, last, images_per_prompt), paths.values(), strict=True)
        files[id] = {index: path for index, path in indexed if index < images_per_prompt}
        left["superfluous"] += [*paths.values()][len(files[id]) :]
    report = _Report(
        listing=listing, chosen=chosen, files=files, left=left, folders=folders, images_per_prompt=images_per_prompt
    )
    return Assignment(
        root=listing.root,
        files=files,
        faults={id: fault for id, fault in faults.items() if id not in own},
        notes=(*report.amount(), *matcher.notes(), *report.oddities(), *filter(None, [left_out(listing.others)])),
        counts={name: number for name, number in report.counts().items() if number},
    )


def assign_official(root: Path, layouts: Mapping[str, Sequence[str]], chosen: Sequence[Case]) -> Assignment | None:
    """The files of the chosen cases where a benchmark's own scripts look for them; None where none of any case is.

    Args:
        root: A model's folder.
        layouts: Of all cases, by id: paths that may hold the image, the first that is there counts.
        chosen: Those that will be run.

    Raises:
        UserError: The folder is complete but for its names: numbers that are shifted would score wrong images.
    """
    found = {id: path for id, names in layouts.items() if (path := _first_file(root, names)) is not None}
    if not found:
        return None
    folders, taken = {path.parent for path in found.values()}, set(found.values())
    here = (path for folder in sorted(folders) for path in sorted(folder.iterdir()))
    others = [path for path in here if is_image(path) and path not in taken]
    numbered = [path for path in others if number_of(path.stem) is not None]
    lost = [id for id in layouts if id not in found]
    numbers = {number_of(PurePosixPath(name).stem) for names in layouts.values() for name in names}
    before = [path for path in numbered if number_of(path.stem) == 0 and 0 not in numbers]
    if lost and numbered and (before or len(numbered) == len(lost)):
        raise _shifted(root, str((before or numbered)[0].relative_to(root)), lost[0])
    return _one_each(root, found, chosen, images=len(taken) + len(others))


def assign_by_prompt(path: Path, chosen: Sequence[Case]) -> Assignment:
    """The images that a JSON object names by their prompts, one each, as GenEval 2's script takes them.

    Args:
        path: The file; images lie in its folder, or below it.
        chosen: The cases that will be run.

    Raises:
        UserError: It is no such object, an image lies elsewhere, or no prompt is that of a case.
    """
    where = f"--model folder:{path}"
    named = read_object(path, UserError)
    root, places = path.resolve().parent, {}
    for prompt, name in named.items():
        place = inside(root, name.removeprefix(f"{root}/")) if isinstance(name, str) else None
        if place is None:
            raise UserError(f"{where}: expected the path of an image in {root} for {prompt!r} but got {name!r}")
        places[prompt] = place
    original = {case.id: case.metadata.get("prompt", case.prompt) for case in chosen}  # whatever was drawn from
    found = {id: places[prompt] for id, prompt in original.items() if prompt in places}
    if not found:
        raise UserError(f"{where}: of its {counted(len(places), 'prompts')} none is one of this run")
    return _one_each(root, found, chosen, images=len(places))


def _one_each(root: Path, found: Mapping[str, Path], chosen: Sequence[Case], images: int) -> Assignment:
    """One image for each chosen case that has one, of so many in all."""
    missing = [case.id for case in chosen if case.id not in found]
    note = f"{counted(len(missing), 'images', 'are', of=len(chosen))} missing ({some(missing)})"
    return Assignment(
        root=root,
        files={case.id: {0: found[case.id]} for case in chosen if case.id in found},
        faults={},
        notes=(note,) if missing else (),
        counts={"images": images, "used": len(chosen) - len(missing), "missing": len(missing)},
    )


def _shifted(root: Path, stray: str, lost: str) -> UserError:
    return UserError(
        f"--model folder:{root}: {stray} is of no case and case {lost} has no image: the numbers seem to be shifted"
    )


def _first_file(root: Path, names: Sequence[str]) -> Path | None:
    return next((path for name in names if (path := inside(root, name)) is not None and path.is_file()), None)


def _first_fault(places: Sequence[Place]) -> str:
    return f"; {places[0].name}/{METADATA}, {places[0].broken}" if places else ""


def _fault(place: Place, case: Case) -> str:
    said = (place.metadata or {}).get("prompt")
    return f"{place.name}/{METADATA} is for {said!r}, not {case.prompt!r}"


def _reworded(root: Path, places: Sequence[Place], chosen: int) -> str:
    first = places[0]
    shown = shortened(str((first.metadata or {}).get("prompt")), 60)
    return (
        f"--model folder:{root}: {counted(len(places), 'prompts', 'ask', of=chosen)} for "
        f"the same objects in other words "
        f"({first.name}/{METADATA}: {shown!r}); --prompts folder scores each by its own {METADATA}"
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    """What was found, in numbers and in sentences."""

    listing: Listing
    chosen: Sequence[Case]
    files: Mapping[str, Mapping[int, Path]]
    left: Mapping[str, Sequence[Path]]
    """Every image that is not used, by the reason."""
    folders: Mapping[str, Sequence[str]]
    """Of chosen cases, by what their metadata say."""
    images_per_prompt: int

    def counts(self) -> dict[str, int]:
        """Images in the folder: how many are used, missing, and not used by the reason."""
        used = sum(map(len, self.files.values()))
        return {
            "images": len(self.listing.images),
            "used": used,
            "missing": len(self.chosen) * self.images_per_prompt - used,
            "prompts_without_images": sum(not self.files.get(case.id) for case in self.chosen),
            **{reason: len(paths) for reason, paths in self.left.items()},
            "folders_matched_by_metadata": len(self.folders.get("moved", ())),
            "folders_of_other_prompts": len(self.folders.get("foreign", ())),
            "folders_with_damaged_metadata": len(self.folders.get("broken", ())),
            "left_out": len(self.listing.others),
        }

    def amount(self) -> Iterator[str]:
        """A phrase with the number of missing images; empty if none is missing."""
        counts = self.counts()
        if not counts["used"]:
            yield self._nothing()
        elif counts["missing"]:
            yield self._missing(counts["missing"], counts["prompts_without_images"])

    def oddities(self) -> Iterator[str]:
        """A sentence for each kind of folder or image that is not as usual."""
        broken = [place for place in self.listing.places if place.name in self.folders.get("broken", ())]
        for kind, words in {
            "moved": f"sub-folders matched by their {METADATA}, not by their names: {{}}",
            "foreign": f"sub-folders of other prompts by their {METADATA}: {{}};"
            " --prompts folder scores each by its own",
            "broken": f"sub-folders whose {METADATA} cannot be read, taken by their names: {{}}{_first_fault(broken)}",
        }.items():
            if names := self.folders.get(kind):
                yield words.replace("{}", f"{len(names):,} ({some(names)})", 1)
        for reason, what in {
            "unknown": "images of no case",
            "superfluous": f"images beyond --images-per-prompt {self.images_per_prompt}",
            "duplicates": "further images of a number that is taken",
            "unnumbered": "images whose names are no number",
        }.items():
            paths = self.left.get(reason)
            if paths and (any(self.files.values()) or reason != "unknown"):  # the first sentence has said it
                yield f"{what}, left out: {len(paths):,} ({some([self._short(path) for path in paths])})"

    def _missing(self, missing: int, without: int) -> str:
        total = len(self.chosen) * self.images_per_prompt
        words = f"{counted(missing, 'images', 'are', of=total)} missing"
        if without:
            names = some([case.id for case in self.chosen if not self.files.get(case.id)])
            words += f"; {counted(without, 'prompts', 'have', of=len(self.chosen))} none ({names})"
        most = max(map(len, self.files.values()))
        if most < self.images_per_prompt:
            words += f"; no prompt has more than {most}: --images-per-prompt {most} asks for so many"
        return words

    def _nothing(self) -> str:
        root, case = self.listing.root, self.chosen[0].id if self.chosen else "CASE"
        there = self.listing.images[0]
        places = dict.fromkeys((*self.listing.official, f"{case}/{SAMPLES}/0000.png", f"{case}.png", f"{case}_0.png"))
        return (
            f"of its {counted(len(self.listing.images), 'images')} none is of a wanted prompt, so none is "
            f"scored; there is {there}, expected {', or '.join(str(root / place) for place in places)}"
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
        return sha256(path)
    except OSError:  # a link to nowhere: its image will fail for the same reason
        return None


def content(fingerprint: Mapping[str, Any]) -> list[Any]:
    """The part of a fingerprint that stands for the image's content."""
    return [fingerprint[key] for key in ("case", "index", "sha256", "fault")]


def change(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> tuple[str, str]:
    """How an image's file changed between two fingerprints, and its name."""
    there, is_there = bool(before and before["sha256"]), bool(now["sha256"])
    kind = "changed" if there == is_there else "added" if is_there else "deleted"
    return kind, str(now["file"] or (before or now)["file"] or f"{now['case']}/{now['index']}")


def counted_changes(found: Iterable[tuple[str, str]]) -> str:
    """How many files changed, were added and were deleted, and the first names of each.

    >>> counted_changes([("deleted", "a.png"), ("changed", "b.png"), ("deleted", "c.png")])
    '1 changed (b.png), 2 deleted (a.png, c.png)'
    """
    names: dict[str, list[str]] = {"changed": [], "added": [], "deleted": []}
    for kind, name in found:
        names[kind].append(name)
    return ", ".join(f"{len(each):,} {kind} ({some(each)})" for kind, each in names.items() if each)


def digest_of(prints: Iterable[Mapping[str, Any]]) -> str:
    """One hash of all fingerprints."""
    return hashlib.sha256(json.dumps([content(one) for one in prints]).encode()).hexdigest()
