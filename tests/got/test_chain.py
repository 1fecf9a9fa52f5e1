import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from got.plan.after_edit import after_edit
from got.plan.chain import BOX_END, BOX_START, MASK_COLORS, Chain, Region, format_box, is_color

APPLE = Region(text="a red apple", box_1000=(120, 300, 480, 660), color="red")
DOG = Region(text="a blue dog", box_1000=(520, 310, 900, 720), color="green")
TWO = (
    "a photo of a red apple <|box_start|>(120,300),(480,660)<|box_end|> (red) to the left of "
    "a blue dog <|box_start|>(520,310),(900,720)<|box_end|> (green)"
)

names = st.builds(
    " ".join,
    st.tuples(
        st.sampled_from(["a", "an", "the", "two"]), st.sampled_from(["red", "tiny"]), st.sampled_from(["dog", "cup"])
    ),
)
spans = st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(sorted)
regions = st.builds(
    lambda text, x, y, color: Region(text=text, box_1000=(x[0], y[0], x[1], y[1]), color=color),
    names,
    spans,
    spans,
    st.sampled_from(MASK_COLORS),
)
prose = st.text(alphabet=st.characters(exclude_characters="<|>()", codec="utf-8"), max_size=20)
# What a broken model writes: pieces of the grammar in any order, between any characters.
debris = st.sampled_from(
    [BOX_START, BOX_END, "(", ")", "),(", ",", " ", "12", "007", "1000", "-3", "٣", "9" * 5000, " (red)", " (reddish)"]
)
nonsense = st.lists(st.one_of(debris, st.text(max_size=8)), max_size=30).map("".join)


def test_reads_text_boxes_and_colors():
    chain = Chain.parse(TWO)
    assert chain.regions == (APPLE, DOG)
    assert chain.warnings == ()


@given(st.lists(st.tuples(prose, regions), max_size=6), prose)
def test_written_chains_are_read_back_exactly(parts, tail):
    chain = Chain.parse("".join(f"{prose}{region}" for prose, region in parts) + tail)
    assert [(r.box_1000, r.color) for r in chain.regions] == [(r.box_1000, r.color) for _, r in parts]
    assert all(r.text.endswith(written.text) for r, (_, written) in zip(chain.regions, parts, strict=True))
    assert chain.warnings == ()
    assert Chain.parse(chain.format()) == chain


@given(nonsense)
def test_anything_can_be_parsed_and_keeps_its_text(text):
    chain = Chain.parse(text)
    assert str(chain) == chain.format() == text
    assert all(is_color(region.color) for region in chain.regions)
    assert all(r.box_1000[0] <= r.box_1000[2] and r.box_1000[1] <= r.box_1000[3] for r in chain.regions)
    assert len(chain.spans) == len(chain.regions)


@given(nonsense)
def test_every_box_token_is_read_or_warned_of(text):
    chain = Chain.parse(text)
    if BOX_START in text:
        assert chain.regions or chain.warnings


@pytest.mark.parametrize(
    "broken",
    [
        "<|box_start|>(10,10),(500,500)<|box_end|>(red)",
        "<|box_start|>(10,10),(500,500)<|box_end|>  (red)",
        "<|box_start|>(10, 20),(300,400)<|box_end|> (blue)",
        "<|box_start|>(-1,20),(300,400)<|box_end|> (blue)",
        "<|box_start|>(1.5,20),(300,400)<|box_end|> (blue)",
        "<|box_start|>(0,0),(400,400)<|box_end|> (light blue)",
        "<|box_start|>(0,0),(400,400)<|box_end|> (#ff0000)",
        "<|box_start|>(0,0),(400,400)",
        "(0,0),(400,400)<|box_end|> (red)",
        f"<|box_start|>({'9' * 5000},0),(400,400)<|box_end|> (red)",
    ],
)
def test_malformed_boxes_are_left_out_with_one_warning_and_the_rest_is_read(broken):
    chain = Chain.parse(f"{broken} and {TWO}")
    assert chain.regions == (APPLE, DOG)
    assert len(chain.warnings) == 1
    assert "left out" in chain.warnings[0]
    ((start, end, words),) = chain.faults
    assert words == chain.warnings[0]
    assert 0 <= start < end <= len(broken) + 1


def test_unknown_colors_get_the_next_mask_color_and_a_warning():
    chain = Chain.parse(TWO.replace("(green)", "(reddish)"))
    assert chain.regions[1].color == MASK_COLORS[1]
    assert chain.warnings == ("unknown mask colour 'reddish', drawn in green",)
    assert "(reddish)" in str(chain)


def test_colors_are_known_in_any_case_and_kept_as_written():
    chain = Chain.parse("x <|box_start|>(100,150),(300,455)<|box_end|> (TOMATO)")
    assert chain.regions[0].color == "TOMATO"
    assert chain.warnings == ()


def test_corners_in_the_wrong_order_are_sorted_with_a_warning():
    chain = Chain.parse("a dog <|box_start|>(900,310),(520,720)<|box_end|> (red)")
    assert chain.regions[0].box_1000 == (520, 310, 900, 720)
    assert chain.warnings[0].startswith("corners in the wrong order, sorted")


def test_boxes_outside_the_image_are_kept_with_a_warning():
    chain = Chain.parse("a dog <|box_start|>(900,310),(1200,720)<|box_end|> (red)")
    assert chain.regions[0].box_1000 == (900, 310, 1200, 720)
    assert "outside the image" in chain.warnings[0]


def test_a_chain_without_boxes_is_clean():
    assert Chain.parse("only words") == Chain(text="only words", regions=(), warnings=(), spans=())


@pytest.mark.parametrize(
    ("before", "name"),
    [
        ("a photo of a red apple ", "a red apple"),
        ("a photo of a red apple", "a red apple"),
        ("On a wooden table, a bowl of soup ", "a bowl of soup"),
        ("a photo of apples and pears ", "pears"),
        ("a photo of pears ", "pears"),
        ("two dogs: one dog ", "one dog"),
        ("sunglasses ", "sunglasses"),
        ("", ""),
    ],
)
def test_the_name_of_a_region_is_the_phrase_just_before_its_box(before, name):
    assert Chain.parse(before + format_box((1, 2, 3, 4), "red")).regions[0].text == name


def test_editing_a_region_changes_nothing_else():
    chain = Chain.parse(TWO)
    moved = chain.edit(1, box_1000=(0, 0, 100, 100))
    assert moved.regions == (APPLE, Region(text="a blue dog", box_1000=(0, 0, 100, 100), color="green"))
    assert str(chain.edit(0, text="a green cup")) == TWO.replace("a red apple", "a green cup")
    assert str(chain.edit(0, color="cyan")) == TWO.replace("(red)", "(cyan)")
    assert str(chain.edit(0)) == TWO


@pytest.mark.parametrize("change", [{"box_1000": (5, 0, 4, 9)}, {"box_1000": (0, 0, 1, 1001)}, {"color": "reddish"}])
def test_an_edit_that_cannot_be_written_is_refused(change):
    with pytest.raises(ValueError, match="Expected"):
        Chain.parse(TWO).edit(0, **change)


def test_editing_a_region_that_is_not_there_is_refused():
    with pytest.raises(IndexError):
        Chain.parse(TWO).edit(2, text="a cat")


@pytest.mark.parametrize(
    "change",
    [
        lambda chain, index: chain.replace(index, "a cat"),
        lambda chain, index: chain.move(index, (0, 0, 9, 9)),
        lambda chain, index: chain.edit(index, color="red"),
        lambda chain, index: chain.remove(index),
        lambda chain, index: chain.add("a cat", (0, 0, 9, 9), index),
    ],
)
@pytest.mark.parametrize("index", ["dog", 1.0])
def test_a_region_is_told_by_its_number(change, index):
    with pytest.raises(TypeError, match=f"^Expected the number of a region but got {index!r}$"):
        change(Chain.parse(TWO), index)


def test_mask_colors_are_distinct_and_in_the_agreed_order():
    from PIL import ImageColor

    assert MASK_COLORS[:6] == ("red", "green", "blue", "yellow", "magenta", "cyan")
    assert len({ImageColor.getrgb(color) for color in MASK_COLORS}) == len(MASK_COLORS)


def test_plain_boxes_of_a_person_are_read_and_others_stay_prose():
    told = "a dog (0,100),(500,900), a cat( 520 , 100 ),(980,900) (teal) and a cup (blue) (1,2),(3,4) (big)"
    chain = Chain.read(told)
    assert [(region.text, region.box_1000, region.color) for region in chain.regions] == [
        ("a dog", (0, 100, 500, 900), "red"),
        ("a cat", (520, 100, 980, 900), "teal"),
        ("a cup (blue)", (1, 2, 3, 4), "green"),
    ]
    assert chain.text.endswith("(green) (big)")
    for text in ("a dog (1,2)", "a dog (1,2),(3", "two cats (very, happy)", chain.text, ""):
        assert Chain.read(text) == Chain.parse(text)


def test_a_plain_box_is_read_beside_boxes_of_tokens_and_gets_a_colour_of_its_own():
    chain = Chain.read(f"{TWO} and a cat (100,600),(400,900)")
    assert not chain.warnings
    assert str(chain) == f"{TWO} and a cat <|box_start|>(100,600),(400,900)<|box_end|> ({MASK_COLORS[2]})"
    torn = "an apple <|box_start|>(10,30),(410,<|box_end|> and a dog (500,500),(980,940)"
    assert [str(one) for one in Chain.read(torn).regions] == ["a dog <|box_start|>(500,500),(980,940)<|box_end|> (red)"]
    for half in ("a dog (1,2),(3,4)<|box_end|> (red)", "a dog <|box_start|> (1,2),(3,4)", "<|box_start|>(1,2),(3,4) x"):
        assert Chain.read(half) == Chain.parse(half), "half a box of tokens is none, plain or not"


def test_the_caption_of_a_plan_with_torn_boxes_has_none_of_their_letters():
    assert Chain.parse("a dog <|box_start|>(1,2),(3<|box_end|> (red) and a cat").caption() == "a dog and a cat"
    assert Chain.parse("a dog <|box_start|>(1,2)").caption() == "a dog"
    assert Chain.parse("a dog  here").caption() == "a dog  here"


@pytest.mark.parametrize(
    ("told", "boxes"),
    [
        ("paint the dog (500,510),(900,910) green . now there are a red cup and a green dog", 2),
        ("remove the dog (500,500),(900,900) . now there is a red cup", 1),
        ("add a dog (0,500),(400,900) . now there are a red cup , a blue dog and a dog", 3),
        ("replace the dog (500,500),(900,900) with a cat (1,1),(9,9) . now there are a red cup and a cat", 2),
        ("the background becomes pink . now there are a red cup and a blue dog", 2),
    ],
)
def test_an_edit_leaves_a_plan_of_all_objects(told, boxes):
    before = Chain.read("there are a red cup (0,0),(300,300) and a blue dog (500,500),(900,900)")
    after = after_edit(before, Chain.read(told))
    named = told.split("now there ")[1].removeprefix("are ").removeprefix("is ")
    assert [region.text for region in after.regions] == re.split(r" , | and ", named)
    assert len({region.box_1000 for region in after.regions}) == boxes
    assert not after.warnings


@pytest.mark.parametrize(
    "told", ["", "make it blue", "remove all . now there is nothing", "now there are", "now there is ."]
)
def test_an_edit_that_does_not_say_what_there_is_leaves_no_plan(told):
    assert after_edit(Chain.read("a cup (0,0),(300,300)"), Chain.read(told)) is None


PLAIN = "a blue dog (20,280),(460,720) and a red cup (520,280),(960,720) (teal) near a cat (0,0),(90,90)"
BOXES = [(match.start(), match.end()) for match in re.finditer(r"\(\d+,\d+\),\(\d+,\d+\)", PLAIN)]


@pytest.mark.parametrize(
    ("told", "place", "caption"),
    [
        ("a dog (0,100),(500,900 and a cat (520,100),(980,900)", 6, "a photo of a dog and a cat"),
        ("a dog (0,100),(500,900", 6, "a dog"),
        ("a dog 0,100,500,900 and a cat (520,100),(980,900)", 6, "a photo of a dog and a cat"),
        ("a dog (0.1,0.2),(0.5,0.9)", 6, "a dog"),
        ("a dog (0;100),(500;900)", 6, "a dog"),
        ("a dog [0,100,500,900]", 7, "a dog"),
        (f"a dog <|box_start|>(1,2),(3<|box_end|> (red) and {APPLE}", 6, "a photo of a dog and a red apple"),
        (f"a dog (1,2),(3 and {APPLE}", 6, "a photo of a dog and a red apple"),
    ],
)
def test_a_torn_box_is_named_with_its_place_and_its_object_stays_in_the_prompt(told, place, caption):
    chain = Chain.read(told)
    (warning,) = chain.warnings
    assert warning.startswith(f"malformed box left out at character {place}: ")
    assert chain.faults[0][0] == place
    assert chain.caption() == caption
    assert Chain.read(str(chain)).warnings == chain.warnings, "what is read again still says so"


@given(st.sampled_from(BOXES), st.data(), st.booleans())
def test_no_torn_plain_box_loses_an_object_silently(box, data, cut):
    start = data.draw(st.integers(box[0] + cut, box[1] - 1))
    end = len(PLAIN) if cut else data.draw(st.integers(start + 1, box[1]))
    torn = PLAIN[:start] + PLAIN[end:]
    rest = PLAIN[box[0] : start] + ("" if cut else PLAIN[end : box[1]])
    if not cut and re.fullmatch(r"\(?\d*\)?", rest):  # nothing is left of the box, or a number in brackets
        return
    chain = Chain.read(torn)
    assert all(name in chain.caption() for name in ("a blue dog", "a red cup", "a cat") if name in torn)
    assert not re.search(r"[\d(]", chain.caption())
    left_out = [warning for warning in chain.warnings if "left out" in warning]
    assert bool(left_out) == (re.fullmatch(r"\(\d+,\d+\),\(\d+,\d+\)", rest) is None)


@pytest.mark.parametrize(
    "told",
    ["two cats (very, happy)", "a person (2 years old)", "a bus (42)", "1,000 x", "1) a dog", "a :)", "a clock (10:30)",
     "a bottle (50%) here", "half (1/2) a pie", "a jar (5 €)", "in 2024 (3)", "call (555) 123-4567", "(1) (2) cats"],
)  # fmt: skip
def test_brackets_of_prose_are_no_torn_boxes(told):
    assert Chain.read(told) == Chain(text=told, regions=(), warnings=(), spans=())


@pytest.mark.parametrize(
    ("told", "caption"),
    [
        ("(0,100),(500,900)", "a photo of"),
        ("(0,100),(500,900) (red), (520,100),(900,900)", "a photo of"),
        ("a dog ((0,100),(500,900))", "a photo of a dog"),
        ("a dog (0,100),(500,900), a cat [5,6,7,8]", "a photo of a dog and a cat"),
    ],
)
def test_a_box_without_a_name_is_left_out_of_the_prompt(told, caption):
    chain = Chain.read(told)
    assert chain.caption() == caption
    assert len({region.color for region in chain.regions}) == len(chain.regions)


@given(nonsense)
def test_anything_has_a_caption(text):
    assert isinstance(Chain.parse(text).caption() + Chain.read(text).caption(), str)


@pytest.mark.parametrize(
    ("long", "boxes"), [("1", 0), ("(", 0), ("(0,", 1), ("(0" + " " * 9, 1), (" ", 0), ("1 ", 0), ("(a", 0)]
)
def test_long_debris_is_read(long, boxes):
    chain = Chain.read(long * (200_000 // len(long)))  # what is quadratic would take a quarter of an hour
    assert (chain.regions, len(chain.warnings)) == ((), boxes)
    assert len(chain.caption()) <= 200_000
