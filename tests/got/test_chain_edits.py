"""Changing a plan box by box: text, boxes and mask colours stay consistent, whatever the order of the changes."""

import dataclasses
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_chain import TWO, nonsense

from got.plan.chain import MASK_COLORS, Chain, Region, format_box
from got.plan.wording import is_plural

BOX = (10, 20, 300, 400)
names = st.sampled_from(["a red dog", "an orange cat", "two blue cups", "the bear", "a man in a red hat"])
spans = st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(sorted)
boxes = st.builds(lambda x, y: (x[0], y[0], x[1], y[1]), spans, spans)
simple_names = st.sampled_from(["a red dog", "an orange cat", "two blue cups", "the bear"])
items = st.lists(st.tuples(simple_names, boxes), min_size=1, max_size=30)


def plan(things):
    """A list of things as a chain, written down independently of the code under test."""
    parts = [f"{name} {format_box(box, MASK_COLORS[i % 26])}" for i, (name, box) in enumerate(things)]
    if not parts:
        return ""
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"there {'are' if len(parts) > 1 or is_plural(things[0][0]) else 'is'} {listed}"


def plain(chain):
    """The text with [red] for a box."""
    return re.sub(r"<\|box_start\|>[^|]*<\|box_end\|> \((\w+)\)", r"[\1]", str(chain))


def read(text):
    """The other way round."""
    return Chain.parse(re.sub(r"\[(\w+)\]", lambda match: format_box(BOX, match[1]), text))


def objects(chain):
    return [(region.text, region.box_1000) for region in chain.regions]


class EditedPlan(RuleBasedStateMachine):
    """Any sequence of changes gives the chain that one would write for the things that are left."""

    def __init__(self):
        super().__init__()
        self.things = [("a red dog", BOX)]
        self.chain = Chain.parse(plan(self.things))

    @rule(name=names, box=boxes, where=st.integers(0, 40))
    def add(self, name, box, where):
        place = where % (len(self.things) + 1)
        self.things.insert(place, (name, box))
        self.chain = self.chain.add(name, box, place)

    @precondition(lambda self: self.things)
    @rule(which=st.integers(0, 40))
    def remove(self, which):
        del self.things[which % len(self.things)]
        self.chain = self.chain.remove(which % (len(self.things) + 1))

    @precondition(lambda self: self.things)
    @rule(name=names, which=st.integers(0, 40))
    def replace(self, name, which):
        which %= len(self.things)
        self.things[which] = (name, self.things[which][1])
        self.chain = self.chain.replace(which, name)

    @precondition(lambda self: self.things)
    @rule(box=boxes, which=st.integers(0, 40))
    def move(self, box, which):
        which %= len(self.things)
        self.things[which] = (self.things[which][0], box)
        self.chain = self.chain.move(which, box)

    @invariant()
    def the_text_is_what_one_would_write(self):
        assert str(self.chain) == plan(self.things)
        assert objects(self.chain) == self.things
        assert self.chain.warnings == ()


EditedPlan.TestCase.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
TestEditedPlan = EditedPlan.TestCase


@given(items, names, boxes, st.data())
def test_what_was_added_can_be_removed_again(things, name, box, data):
    chain = Chain.parse(plan(things))
    place = data.draw(st.integers(0, len(things)))
    assert str(chain.add(name, box, place).remove(place)) == str(chain)


@given(nonsense, st.lists(st.tuples(names, boxes), min_size=1, max_size=4), st.data())
def test_whatever_the_text_is_what_was_added_goes_without_a_trace(text, added, data):
    """Also of several, the last one first; and read anew, the text is the chain's that it was."""
    chains = [Chain.parse(text)]
    places = []
    for name, box in added:
        places.append(data.draw(st.integers(0, len(chains[-1].regions))))
        try:
            chains.append(chains[-1].add(name, box, places[-1]))
        except ValueError as error:
            assume("torn boxes" not in str(error))
            raise
    changed = chains.pop()
    for place, before in zip(reversed(places), reversed(chains), strict=True):
        changed = changed.remove(place)
        assert changed == before
        assert changed.text == before.text
    assert changed.text == text


def test_a_chain_that_was_changed_since_forgets_what_was_added_last():
    chain = read("a cup [red]  and a dog [green]")
    added = chain.add("a cat", BOX)
    assert added.remove(2).text == chain.text
    assert plain(added.remove(-1)) == plain(chain)
    assert plain(added.move(2, BOX).remove(2)) == "a cup [red] and a dog [green]"
    assert plain(added.remove(0)) == "a dog [red] and a cat [green]"
    assert plain(added.add("a bus", BOX, 0).remove(3)) == "a bus [red], a cup [green] and a dog [blue]"


@given(items, boxes, names, st.data())
def test_moving_and_replacing_can_be_undone_and_touch_nothing_else(things, box, name, data):
    chain = Chain.parse(plan([("a dog", at) for _, at in things]))
    which = data.draw(st.integers(0, len(things) - 1))
    moved = chain.move(which, box)
    assert moved.regions[which] == dataclasses.replace(chain.regions[which], box_1000=box)
    assert moved.regions[:which] + moved.regions[which + 1 :] == chain.regions[:which] + chain.regions[which + 1 :]
    assert moved.move(which, chain.regions[which].box_1000) == chain
    assert chain.replace(which, name).replace(which, "a dog") == chain


@given(nonsense, names, boxes, st.data())
def test_no_text_whatever_can_be_broken_by_a_change(text, name, box, data):
    """A change is refused in words, or the others' boxes and order stay and the text says what the regions say."""
    chain = Chain.parse(text)
    operation = data.draw(st.sampled_from(["add", "remove", "replace", "move"]))
    assume(chain.regions or operation == "add")
    which = data.draw(st.integers(0, max(len(chain.regions) - 1, 0)))
    others = [region.box_1000 for region in chain.regions]
    try:
        if operation == "add":
            changed = chain.add(name, box, which)
            others.insert(which, box)
        elif operation == "remove":
            changed = chain.remove(which)
            del others[which]
        elif operation == "replace":
            changed = chain.replace(which, name)
        else:
            changed = chain.move(which, box)
            others[which] = box
    except ValueError as error:
        if "torn boxes" not in str(error):
            raise
        return
    assert [region.box_1000 for region in changed.regions] == others
    again = Chain.parse(str(changed))
    assert [(r.box_1000, r.color) for r in again.regions] == [(r.box_1000, r.color) for r in changed.regions]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("there is a dog [red]", "there are a dog [red] and a cat [green]"),
        (
            "a dog [red], a cup [green], and a bus [blue]",
            "a dog [red], a cup [green], a bus [blue], and a cat [yellow]",
        ),
        ("a cup [red] above a dog [green]", "a cup [red] above a dog [green], and a cat [blue]"),
        ("a dog [red] on grass", "a dog [red] on grass, and there is a cat [green]"),
        ("A dog [red] sleeps. It is late.", "A dog [red] sleeps. There is a cat [green]. It is late."),
        ("A dog [red] is here", "A dog [red] is here, and there is a cat [green]"),
        ("A dog [red] sleeps\nat night", "A dog [red] sleeps, and there is a cat [green]\nat night"),
        ("", "there is a cat [red]"),
        ("a park", "a park, and there is a cat [red]"),
        ("A park.", "A park. There is a cat [red]."),
    ],
)
def test_an_added_box_joins_a_list_or_gets_its_own_sentence_and_goes_without_a_trace(before, after):
    chain = read(before)
    added = chain.add("a cat", BOX)
    assert plain(added) == after
    assert plain(added.remove(len(chain.regions))) == before


@pytest.mark.parametrize(
    ("before", "index", "after"),
    [
        ("there are a dog [red] and a cat [green]", 0, "there is a cat [red]"),
        ("there are two dogs [red] and a cat [green]", 1, "there are two dogs [red]"),
        ("a dog [red], a cat [green], and a cup [blue]", 1, "a dog [red] and a cup [green]"),
        ("a cup [red] above a dog [green]", 0, "a dog [red]"),
        ("a cup [red] above a dog [green]", 1, "a cup [red]"),
        ("a cup [red] above a dog [green] below a cat [blue]", 1, "a cup [red] and a cat [green]"),
        ("A dog [red] lies on a mat [green], near a cat [blue].", 2, "A dog [red] lies on a mat [green]."),
        ("A dog [red] sleeps. Beside it a cat [green] eats. It rains.", 1, "A dog [red] sleeps. It rains."),
        ("A dog [red] sleeps.\nA cat [green] eats.", 0, "A cat [red] eats."),
        ("a dog [red] on grass, and there are a cup [green] and a cat [blue]", 1,
         "a dog [red] on grass, and there is a cat [green]"),
        ("there is a dog [red]", 0, ""),
    ],
)  # fmt: skip
def test_a_removed_box_takes_along_only_the_words_that_join_it(before, index, after):
    assert plain(read(before).remove(index)) == after


def test_a_box_between_two_that_are_related_turns_the_relation_into_a_list():
    chain = read("a cup [red] above a dog [green]").add("a cat", BOX, 1)
    assert plain(chain) == "a cup [red], a cat [green] and a dog [blue]"


def test_a_first_box_before_a_sentence_gets_its_own():
    assert plain(read("A dog [red] sleeps.").add("a cat", BOX, 0)) == "There is a cat [red]. A dog [green] sleeps."
    assert plain(read("a dog [red] and a cup [green]").add("a cat", BOX, 0)) == (
        "a cat [red], a dog [green] and a cup [blue]"
    )


def test_colours_out_of_order_are_left_alone_and_a_new_box_takes_a_free_one():
    chain = read("a dog [blue] and a cup [red]")
    assert plain(chain.add("a cat", BOX)) == "a dog [blue], a cup [red] and a cat [green]"
    assert plain(chain.remove(0)) == "a cup [red]"
    assert plain(read("a dog [red]").add("a cat", BOX, 0, color="Teal")) == "a cat [Teal] and a dog [red]"


def test_more_boxes_than_colours_start_over():
    chain = Chain.parse("")
    for _ in range(30):
        chain = chain.add("a dog", BOX)
    assert [region.color for region in chain.regions] == [*MASK_COLORS, *MASK_COLORS[:4]]


def test_a_name_with_joining_words_is_kept_whole_until_it_is_replaced():
    chain = read("a dog [red]").replace(0, "a man in a red hat")
    assert chain.regions[0].text == "a man in a red hat"
    assert plain(chain.add("a cat", BOX).replace(0, "a dog")) == "a dog [red] and a cat [green]"
    assert Chain.parse(str(chain)).regions[0].box_1000 == BOX


def test_a_new_name_leaves_a_box_alone_even_if_it_is_an_odd_one():
    chain = Chain.parse("a dog <|box_start|>(900,310),(520,1200)<|box_end|> (reddish)")
    assert str(chain.replace(0, "a cat")) == str(chain).replace("a dog", "a cat")
    assert str(chain.move(0, BOX)) == f"a dog {format_box(BOX, 'red')}"


@pytest.mark.parametrize("change", [lambda c: c.replace(2, "a cat"), lambda c: c.move(-3, BOX), lambda c: c.remove(2)])
def test_a_region_that_is_not_there_is_named_in_the_error(change):
    with pytest.raises(IndexError, match="from 0 to 1; got index"):
        change(Chain.parse(TWO))


def test_an_empty_chain_has_nothing_to_change():
    with pytest.raises(IndexError, match="has none"):
        Chain.parse("words").remove(0)
    with pytest.raises(IndexError, match="from 0 to 2"):
        Chain.parse(TWO).add("a cat", BOX, 3)


@pytest.mark.parametrize(
    "box", [(5, 0, 4, 9), (0, 0, 1, 1001), (-1, 0, 1, 1), (0.5, 0, 1, 1), (float("nan"), 0, 1, 1), (1, 2, 3), 7, None]
)
def test_an_impossible_box_is_refused(box):
    with pytest.raises(ValueError, match="Expected"):
        Chain.parse(TWO).add("a cat", box)


@pytest.mark.parametrize("name", ["", "  ", "a <|box_start|>", "a cat <|im_gen_start|>"])
def test_a_name_that_is_none_is_refused(name):
    for change in (lambda: Chain.parse(TWO).add(name, BOX), lambda: Chain.parse(TWO).replace(0, name)):
        with pytest.raises(ValueError, match="Expected"):
            change()


def test_hand_written_regions_compose_into_a_chain_that_can_be_changed():
    dog = Region(text="a dog", box_1000=BOX, color="red")
    assert plain(Chain.parse(f"a park with {dog}").add("a cat", BOX)) == "a park with a dog [red] and a cat [green]"


def test_a_caption_names_what_the_plan_holds():
    chain = read("there are a red dog [red], a cup [green] and a bus [blue] on grass")
    assert chain.caption() == "a photo of a red dog, a cup and a bus"
    assert chain.remove(1).remove(1).caption("") == "a red dog"
    assert Chain.parse("a park").caption() == "a park"
