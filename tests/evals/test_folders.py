"""Folders of images made elsewhere: the layouts that people bring, and what is said of them."""

import json
from pathlib import Path

import pytest
from folder_kit import CASE, CASES, put, tell
from PIL import Image
from runner_kit import make_plan

from evals.core import folder_listing
from evals.core.records import Case, Sample, UserError
from evals.generators import folder_images
from evals.generators import registry as generators
from evals.generators.folder import FolderGenerator
from evals.harness.run_spec import spread
from evals.harness.runner import run
from got.util.files import IMAGE_SUFFIXES


def assign(root, cases=CASES, chosen=None, images=4):
    listing = folder_listing.list_folder(root)
    return folder_images.assign(listing, cases, [CASE] if chosen is None else chosen, images)


def names(assignment, case=CASE):
    """Its files by index, by their path in the folder."""
    return {i: path.relative_to(assignment.root).as_posix() for i, path in assignment.files.get(case.id, {}).items()}


def read(root, count=1):
    generator = FolderGenerator(assign(root, images=count))
    return generator.generate([Sample(case=CASE, index=i, seed=i) for i in range(count)])


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for index in range(3):
        put(root / "00003" / "samples" / f"{index:04d}.png", index * 40)
    return root


# -------------------------------------------------------------------------------------------------------------- layouts
def test_a_folder_gives_its_images(folder):
    assert [made.image.getpixel((0, 0)) for made in read(folder, 3)] == [(0, 0, 0), (40, 0, 0), (80, 0, 0)]


@pytest.mark.parametrize("suffix", [".PNG", ".jpg", ".JPEG", ".webp", ".gif", ".bmp", ".TIF", ".tiff"])
@pytest.mark.parametrize("stem", ["00003/samples/0000", "3/samples/0", "3/0", "00003", "3", "00003_0", "3_0000"])
def test_images_are_found_under_all_usual_names(tmp_path, stem, suffix):
    path = put(tmp_path / f"{stem}{suffix}", 90)
    assigned = assign(tmp_path, images=1)
    assert names(assigned) == {0: path.relative_to(tmp_path).as_posix()}
    assert assigned.notes == ()
    assert read(tmp_path)[0].image.size == (8, 6)


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([0, 1, 2, 3], {0: 0, 1: 1, 2: 2, 3: 3}),
        ([1, 2, 3, 4], {0: 1, 1: 2, 2: 3, 3: 4}),
        ([42, 43, 44, 45], {0: 42, 1: 43, 2: 44, 3: 45}),
        ([7, 100, 1234, 99999], {0: 7, 1: 100, 2: 1234, 3: 99999}),
        ([0, 1, 3], {0: 0, 1: 1, 3: 3}),
        ([9, 10, 11, 12, 13, 8], {0: 8, 1: 9, 2: 10, 3: 11}),
    ],
)
def test_image_numbers_may_begin_anywhere_and_be_seeds(tmp_path, numbers, found):
    for number in numbers:
        put(tmp_path / f"3/samples/{number}.png")
        put(tmp_path / "flat" / f"3_{number}.png")
    assert names(assign(tmp_path)) == {index: f"3/samples/{number}.png" for index, number in found.items()}
    assert names(assign(tmp_path / "flat")) == {index: f"3_{number}.png" for index, number in found.items()}


def test_the_numbering_is_the_folders_not_the_prompts(tmp_path):
    """One prompt that lacks its first image does not shift the others."""
    for name, number in [("3", 2), ("4", 1), ("4", 2)]:
        put(tmp_path / name / "samples" / f"{number}.png")
    assert names(assign(tmp_path)) == {1: "3/samples/2.png"}


def fill(root, numbers, told=(), first=0):
    """Sub-folders of one image, those of `told` with the metadata of the case whose number is less by `first`."""
    for number in numbers:
        (root / f"{number}/samples").mkdir(parents=True)
        (root / f"{number}/samples/0.png").touch()
        if number in told:
            tell(root, str(number), CASES[number - first].metadata)


def places(assignment):
    """The sub-folder's number of each case that has images, by the case's number."""
    return {
        int(id): int(path.relative_to(assignment.root).parts[0])
        for id, files in assignment.files.items()
        for path in files.values()
    }


def shifted(numbers, by):
    return {number - by: number for number in numbers}


@pytest.mark.parametrize(("first", "last"), [(1, 553), (1000, 1552), (2, 553), (1, 300), (-1, 551)])
def test_metadata_prove_where_numbers_begin(tmp_path, first, last):
    """Also where the first or the last folders are lost, one is of another prompt, and one says nothing."""
    numbers, by = range(max(first, 0), last + 1), first if first < 2 or first == 1000 else 1
    fill(tmp_path, numbers, told=set(numbers) - {last - 20}, first=by)
    tell(tmp_path, str(last - 40), {"prompt": "a photo of a kraken"})
    assigned = assign(tmp_path, chosen=CASES, images=1)
    assert places(assigned) == shifted(set(numbers) - {last - 40}, by)
    number = max(by, 0)
    assert f"its numbers are not the cases': {number} stands for case {number - by:05d}" in assigned.notes
    assert assigned.counts["folders_of_other_prompts"] == 1
    assert "folders_matched_by_metadata" not in assigned.counts


def test_metadata_go_before_a_number_that_says_nothing(tmp_path):
    """Sub-folder 20 says that it is of case 50, sub-folder 50 says nothing."""
    fill(tmp_path, range(60), told=set(range(60)) - {50})
    tell(tmp_path, "20", CASES[50].metadata)
    assigned = assign(tmp_path, chosen=CASES, images=1)
    assert places(assigned) == {**shifted(set(range(60)) - {20}, 0), 50: 20}
    assert (
        "the metadata.jsonl of its sub-folders do not go by their numbers, so those without one are of no case: 1 (50)"
    ) in assigned.notes
    assert assigned.counts["unknown"] == 1


@pytest.mark.parametrize(
    ("numbers", "by"),
    [(range(1, 554), 1), (range(1000, 1553), 1000), (range(2, 554), 1), ([1, 7, 553], 1), (range(551), 0), ([0, 9], 0)],
)
@pytest.mark.parametrize("flat", [False, True])
def test_numbers_alone_tell_where_they_begin(tmp_path, numbers, by, flat):
    for number in numbers:
        (tmp_path / str(number)).mkdir(exist_ok=True)
        (tmp_path / (f"{number}_0.png" if flat else f"{number}/0.png")).touch()
    assigned = assign(tmp_path, chosen=CASES, images=1)
    assert {int(id): int(path.stem.split("_")[0] if flat else path.parent.name)
            for id, files in assigned.files.items() for path in files.values()} == shifted(numbers, by)  # fmt: skip
    assert any(f"{by} stands for case 00000" in note for note in assigned.notes) == bool(by)
    assert not any("nothing tells" in note for note in assigned.notes)


@pytest.mark.parametrize("numbers", [range(1, 553), [7], [*range(1, 553), 600], [0, 553, 600]])
def test_numbers_that_may_begin_with_0_or_1_are_said_to(tmp_path, numbers):
    fill(tmp_path, numbers)
    notes = assign(tmp_path, chosen=CASES, images=1).notes
    said = "nothing tells whether its first number is 0 or 1: 0 is taken for case 00000; metadata.jsonl in its sub-fol"
    assert sum(note.startswith(said) for note in notes) == 1
    fill(tmp_path / "told", numbers, told=[numbers[0]], first=min(numbers[0], 1))
    assigned = assign(tmp_path / "told", chosen=CASES, images=1)
    assert not any(note.startswith(said) for note in assigned.notes), "one metadata.jsonl makes it sure"
    assert places(assigned) == shifted([n for n in numbers if n - min(numbers[0], 1) < 553], min(numbers[0], 1))


def test_one_number_too_many_is_not_guessed_about(tmp_path):
    """As one stray 0.png beside 1 to 553: every score would be of the wrong prompt, or only one image superfluous."""
    fill(tmp_path, range(1, 554))
    (tmp_path / "0.png").touch()
    with pytest.raises(
        UserError, match=r"its numbers go from 0 to 553, one more .* add metadata\.jsonl to its sub-fol"
    ):
        assign(tmp_path)
    for number in range(1, 554):
        tell(tmp_path, str(number), CASES[number - 1].metadata)
    assert names(assign(tmp_path, images=1)) == {0: "4/samples/0.png"}


def test_the_numbers_of_the_chosen_prompts_are_theirs(tmp_path):
    chosen = [case for case in CASES if case.tag == "position"]
    fill(tmp_path, [int(case.id) for case in chosen])
    assigned = assign(tmp_path, chosen=chosen, images=1)
    assert assigned.notes == ()
    assert places(assigned) == {int(case.id): int(case.id) for case in chosen}


def test_metadata_say_which_prompt_a_folder_is_of(tmp_path):
    """Where neither the number nor a shift of all numbers fits, the prompt itself does."""
    for name, case in [("700", CASE), ("12", CASES[8]), ("8", CASES[500])]:
        tell(tmp_path, name, case.metadata)
        put(tmp_path / name / "samples/0.png")
    assigned = assign(tmp_path, images=1, chosen=[CASE, CASES[8], CASES[500]])
    assert [names(assigned, case) for case in (CASE, CASES[8], CASES[500])] == [
        {0: "700/samples/0.png"},
        {0: "12/samples/0.png"},
        {0: "8/samples/0.png"},
    ]
    assert assigned.notes == ("sub-folders matched by their metadata.jsonl, not by their names: 3 (8, 12, 700)",)
    assert assigned.counts["folders_matched_by_metadata"] == 3


def test_editing_cases_are_found_flat_and_by_folder(tmp_path):
    cases = [Case(id=id, prompt=id, tag="t", metadata={"prompt": id}) for id in ("add_12", "add", "local_7", "12")]
    for name in ("add_12.jpg", "add_3.png", "local_7/samples/0000.PNG", "012.tif", "nobody.png"):
        put(tmp_path / name)
    assigned = assign(tmp_path, cases, cases, images=1)
    assert [names(assigned, case) for case in cases] == [
        {0: "add_12.jpg"},
        {0: "add_3.png"},
        {0: "local_7/samples/0000.PNG"},
        {0: "012.tif"},
    ]
    assert assigned.notes == ("images of no case, left out: 1 (nobody.png)",)


# ---------------------------------------------------------------------------------------------------------------- notes
def test_what_is_odd_is_counted_and_said(tmp_path):
    for name in (
        *("00003/samples/0000.png", "00003/samples/0.jpg", "00003/samples/0001.png", "00003/samples/0003.png"),
        *("00003/samples/0004.png", "00003/samples/best.png", "00003/grid.png"),
        *("3/samples/0000.png", "700/samples/0000.png", "notes.png"),
    ):
        put(tmp_path / name)
    assigned = assign(tmp_path, chosen=[CASE, CASES[4]])
    found = ["0.jpg", "0001.png", "0003.png", "0004.png"]
    assert names(assigned) == {index: f"00003/samples/{name}" for index, name in enumerate(found)}
    assert assigned.notes == (
        "4 of 8 images are missing; 1 of 2 prompts has none (00004)",
        "nothing tells whether its first number is 0 or 1: 0 is taken for case 00000; metadata.jsonl in its "
        "sub-folders, or an image for each prompt, makes it sure",
        "images of no case, left out: 2 (700/samples/0000.png, notes.png)",
        "further images of a number that is taken, left out: 2 (00003/samples/0000.png, 3/samples/0000.png)",
        "images whose names are no number, left out: 1 (00003/samples/best.png)",
    )
    asked = {"used": 4, "missing": 4, "prompts_without_images": 1}
    assert assigned.counts == {"images": 9, **asked, "unknown": 2, "duplicates": 2, "unnumbered": 1}
    fewer = assign(tmp_path, images=2)
    assert "images beyond --images-per-prompt 2, left out: 2" in " ".join(fewer.notes)


@pytest.mark.parametrize("chosen", [CASES[:2], CASES[:5]])
def test_every_image_is_used_or_counted_under_a_reason(tmp_path, chosen):
    for name in ("0/samples/0", "1/1", "1/1a", "2/samples/0", "3/samples/0", "3/samples/1", "4/samples/0", "no/0"):
        put(tmp_path / f"{name}.png")
    for name in ("0/samples/00.png", "0/samples/9.png", "00000/samples/0.png", "2/samples/0.jpg", "2/samples/b.png"):
        put(tmp_path / name)
    for number in (0, 1, 2):
        tell(tmp_path, str(number), CASES[number].metadata)
    tell(tmp_path, "3", {"prompt": "a photo of a kraken"})
    (tmp_path / "4/metadata.jsonl").write_text("{")
    (tmp_path / "1/samples").mkdir()  # empty: its images are beside it
    assigned = assign(tmp_path, chosen=chosen, images=1)
    counts = assigned.counts
    assert names(assigned, CASES[1]) == {0: "1/1.png"}
    reasons = ("unknown", "not_chosen", "superfluous", "duplicates", "unnumbered", "images_of_other_prompts")
    assert counts["images"] == counts["used"] + sum(counts.get(reason, 0) for reason in reasons) == 13
    everything = {"images": 13, "used": 4, "missing": 1, "prompts_without_images": 1, "unknown": 1, "superfluous": 1}
    everything |= {"duplicates": 3, "unnumbered": 2, "images_of_other_prompts": 2}
    everything |= {"folders_of_other_prompts": 1, "folders_with_damaged_metadata": 1}
    few = {"images": 13, "used": 2, "unknown": 1, "not_chosen": 6, "superfluous": 1, "duplicates": 2, "unnumbered": 1}
    assert counts == (few if len(chosen) == 2 else everything)
    said = " ".join(assigned.notes)
    broken = "sub-folders whose metadata.jsonl cannot be read, taken by their names: 1 (4)"
    assert (broken in said, "left out: 2 (1/1a.png, 2/samples/b.png)" in said) == ((len(chosen) == 5,) * 2)


def test_images_of_prompts_that_were_not_chosen_are_nothing_to_speak_of(tmp_path):
    for case in CASES:
        (tmp_path / case.id).mkdir()
        (tmp_path / case.id / "0.png").touch()
    assert assign(tmp_path, images=1).notes == ()


def test_a_folder_of_fewer_images_a_prompt_says_which_flag_says_so(folder):
    assert "no prompt has more than 3: --images-per-prompt 3 asks for so many" in assign(folder).notes[0]


def test_where_every_image_is_missing_the_layout_is_shown(tmp_path):
    put(tmp_path / "a photo of a bench.png")
    (note,) = assign(tmp_path).notes
    assert note == (
        f"of its 1 image none is of a wanted prompt, so none is scored; there is {tmp_path}/a photo of a bench.png, "
        f"expected {tmp_path}/00003/samples/0000.png, or {tmp_path}/00003.png, or {tmp_path}/00003_0.png"
    )


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("place", ["{}.png", "{}/0.png"])
def test_images_numbered_as_the_chosen_prompts_are_counted_are_noticed_at_the_start(tmp_path, first, place):
    for number in range(first, first + 6):
        put(tmp_path / place.format(number))
    chosen = spread(CASES, 6)
    (said,) = [note for note in assign(tmp_path, chosen=chosen, images=1).notes if "as many as the chosen" in note]
    assert said.startswith(f"its numbers, {first} to {first + 5}, are as many as the chosen prompts")
    ids = ", ".join(case.id for case in chosen[:3])
    assert f"the chosen ones are {ids} and 3 more; name the images so" in said
    assert not any("as many" in note for note in assign(tmp_path, chosen=CASES[:6], images=1).notes) or first
    for number in range(first, first + 6):
        tell(tmp_path, str(number), chosen[number - first].metadata)
        put(tmp_path / f"{number}/0.png")
    assert not any("as many" in note for note in assign(tmp_path, chosen=chosen, images=1).notes)


def test_broken_metadata_is_named_with_its_line_and_column_and_what_is_expected(tmp_path):
    put(tmp_path / "00003/samples/0.png")
    (tmp_path / "00003/metadata.jsonl").write_text('{"tag": "counting"\n "prompt": 3}')
    assigned = assign(tmp_path, images=1)
    said = "00003/metadata.jsonl, line 2, column 2: not JSON (Expecting ',' delimiter); expected one JSON object"
    assert any(said in note for note in assigned.notes)
    assert names(assigned) == {0: "00003/samples/0.png"}, "its own name places it"
    (tmp_path / "00003/metadata.jsonl").write_text("[]")
    assert any("metadata.jsonl, a list; expected one JSON" in note for note in assign(tmp_path, images=1).notes)
    (tmp_path / "00003/metadata.jsonl").write_bytes(b"\xff")
    assert any("byte 0 is not UTF-8; expected" in note for note in assign(tmp_path, images=1).notes)


def test_a_folder_without_images_is_a_mistake_and_the_right_one_is_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        assign(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no images there; expected .*/00000/samples/0000\.png, or .*/CASE\.png"):
        assign(tmp_path)
    put(tmp_path / "outputs/00003/samples/0000.png")
    with pytest.raises(UserError, match=r"no images there; there are some in folder:.*/outputs"):
        assign(tmp_path)


def test_a_run_directory_hints_at_its_images(tmp_path):
    run(make_plan(tmp_path / "run", "--limit", "2"))
    with pytest.raises(UserError, match=rf"a run's own folder; its images are in folder:{tmp_path}/run/images"):
        make_plan(tmp_path / "other", "--model", f"folder:{tmp_path / 'run'}")
    assert make_plan(tmp_path / "other", "--limit", "2", "--model", f"folder:{tmp_path / 'run/images'}").sources


def test_notes_and_counts_reach_the_person_and_the_run(folder, tmp_path, capsys):
    run(make_plan(tmp_path / "run", "--limit", "6", "--model", f"folder:{folder}"))
    assert f"note: --model folder:{folder}: of its 3 images none is of a wanted prompt" in capsys.readouterr().err
    counts = json.loads((tmp_path / "run/run.json").read_text())["arguments"]["folder"]
    assert counts == {"images": 3, "missing": 12, "prompts_without_images": 6, "not_chosen": 3}


# --------------------------------------------------------------------------------------------------------------- faults
def test_missing_and_damaged_images_are_errors_of_their_sample(folder):
    (folder / "00003/samples/0000.png").unlink()
    whole = (folder / "00003/samples/0001.png").read_bytes()
    (folder / "00003/samples/0001.png").write_bytes(whole[:-30])
    put(folder / "00004/samples/0000.png")
    made = read(folder, 3)
    assert made[0].error == "00003/samples/0000: no such image"
    assert made[1].error.startswith("00003/samples/0001: Expected a")
    assert made[2].image is not None


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\0" * 40, b"\xff\xd8\xff\xe0junk"])
def test_no_bytes_bring_a_folder_down(folder, data):
    (folder / "00003/samples/0000.png").write_bytes(data)
    assert "Expected a" in read(folder)[0].error


def test_images_of_another_prompt_are_not_judged(folder):
    tell(folder, "00003", {"prompt": "a photo of a kraken"})
    assert read(folder)[0].error == f"00003/metadata.jsonl is for 'a photo of a kraken', not {CASE.prompt!r}"
    assert "sub-folders of other prompts by their metadata.jsonl: 1 (00003)" in " ".join(assign(folder).notes)
    tell(folder, "00003", {"prompt": CASE.prompt})
    assert read(folder)[0].image is not None
    tell(folder, "00003", {**CASE.metadata, "include": [{"class": "dog", "count": 2}]})
    assert "is for" in read(folder)[0].error, "the prompt alone does not say what is asked for"
    (folder / "00003/metadata.jsonl").write_text("{")
    assert read(folder)[0].image is not None
    (folder / "00003/metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(CASE.metadata).encode())
    assert read(folder)[0].image is not None


def test_links_are_followed_wherever_they_lead(folder, tmp_path):
    """As in a hub's cache: names are links to blobs elsewhere, without a suffix."""
    blob = put(tmp_path / "blobs/0a1b.png", 200).rename(tmp_path / "blobs/0a1b")
    first = folder / "00003/samples/0000.png"
    first.unlink()
    first.symlink_to(blob)
    assert read(folder)[0].image.getpixel((0, 0)) == (200, 0, 0)
    (tmp_path / "linked").symlink_to(folder)
    assert read(tmp_path / "linked")[0].image.getpixel((0, 0)) == (200, 0, 0)
    blob.unlink()
    assert "Cannot read the file" in read(folder)[0].error


def test_every_suffix_can_be_read():
    Image.init()
    assert set(Image.registered_extensions()) >= IMAGE_SUFFIXES - {
        ".heic",
        ".heif",
        ".avif",
    }
    assert generators.GENERATORS.written().count("folder:PATH") == 1
    assert all(Path("x" + suffix.upper()).suffix.lower() in IMAGE_SUFFIXES for suffix in IMAGE_SUFFIXES)
