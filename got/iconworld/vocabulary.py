"""The icon world's words: classes, colours, numbers, and the phrases made of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from got.iconworld.glyphs import DRAWINGS
from got.plan.chain import MASK_COLORS

if TYPE_CHECKING:
    pass


pass

pass


CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote",
    "computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock",
    "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""COCO's classes in COCO's order and GenEval's spelling."""
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""GenEval's ten colours, in its order."""
BACKGROUND_COLORS = ("yellow", "green", "blue", "purple", "pink")
"""Tints of a background that an edit may ask for."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")


def plural(name: str) -> str:
    """GenEval's plural.

    >>> plural("bus"), plural("dog")
    ('buses', 'dogs')
    """
    return name + ("es" if name.endswith("s") else "s")


def with_article(phrase: str) -> str:
    """GenEval's article, chosen by the first letter.

    >>> with_article("orange dog"), with_article("dog")
    ('an orange dog', 'a dog')
    """
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def vocabulary(*, edits: bool = False) -> list[str]:
    """Every word that captions and chains of this world can contain, sorted; with `edits`, also those of editing."""
    glue = "a an and of photo picture image icons the to is with in there left right above below next are on it one"
    texts = [*CLASSES, *map(plural, CLASSES), *COLORS, *MASK_COLORS, *NUMBERS[2:], glue]
    if edits:
        pass

        texts += [EDIT_WORDS, *reference_words()]
    return sorted({word for text in texts for word in text.split()})


def parse_phrase(text: str) -> tuple[str, str | None] | None:
    """Class and colour named by the last words of a region's text; None if no class is named there.

    >>> parse_phrase("three dogs : a red hot dog")
    ('hot dog', 'red')
    >>> parse_phrase("the bear")
    ('bear', None)
    """
    words = re.findall(r"\w+", text.lower())
    for length in (2, 1):
        name = " ".join(words[-length:])
        if len(words) >= length and name in DRAWINGS:
            before = words[-length - 1] if len(words) > length else ""
            return name, before if before in COLORS else None
    return None


PLACES = {
    "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1),
    "top left": (-1, -1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (1, 1),
}  # fmt: skip
"""Where an object can be moved: the sign of its centre's offset from the middle of the image, y pointing down."""
EDIT_WORDS = (
    "the image shows nothing now there is are add put remove delete take away erase from picture replace swap turn"
    " with for into make change color of paint move to side background ground becomes number three be should have in"
    " only it on then first next at a an and left right top bottom everything all objects mirror"
)
"""Words of instructions and chains beyond those of captions."""
DESCRIPTIONS: dict[str, tuple[str, str]] = {
    "person": ("the one who can talk", "the one who wears clothes"),
    "bicycle": ("what is moved by pedals", "what has two wheels and no engine"),
    "car": ("what a family drives", "what parks in a garage"),
    "motorcycle": ("what a rider with a helmet sits on", "what has two wheels and an engine"),
    "airplane": ("what flies with passengers", "what lands at an airport"),
    "bus": ("what takes many people through town", "what stops where people with tickets wait"),
    "train": ("what runs on rails", "what leaves from a railway station"),
    "truck": ("what carries heavy goods on the road", "what a mover loads with furniture"),
    "boat": ("what floats with a sail", "what crosses a lake"),
    "traffic light": ("what tells cars to stop or go", "what changes from red to green"),
    "fire hydrant": ("what gives firemen water", "what a hose is fixed to"),
    "stop sign": ("what has eight corners and a word", "what makes drivers halt"),
    "parking meter": ("what takes coins from drivers", "what you pay to leave a car"),
    "bench": ("what people sit on in a park", "a seat for several people outside"),
    "bird": ("the animal with feathers", "the animal that builds a nest"),
    "cat": ("the animal that hunts mice", "the animal that purrs"),
    "dog": ("the animal that barks", "the animal that guards a house"),
    "horse": ("the animal that wears a saddle", "the animal that gallops"),
    "sheep": ("the animal that gives wool", "the animal that a shepherd keeps"),
    "cow": ("the animal that gives milk", "the animal that says moo"),
    "elephant": ("the animal with a trunk", "the animal with big ears and tusks"),
    "bear": ("the wild animal that likes honey", "the animal that sleeps all winter"),
    "zebra": ("the animal with stripes", "the animal that looks like a painted horse"),
    "giraffe": ("the animal with the long neck", "the tallest animal"),
    "backpack": ("what a hiker carries on the back", "what pupils wear to school"),
    "umbrella": ("what keeps the rain off", "what you open in bad weather"),
    "handbag": ("what holds a purse and lipstick", "what a lady carries on her arm"),
    "tie": ("what is knotted around the collar", "what goes with a suit"),
    "suitcase": ("what you pack for a journey", "what goes on the luggage belt"),
    "frisbee": ("the disc that is thrown for fun", "what a dog catches in the air"),
    "skis": ("what two feet glide downhill on", "what comes in a pair for snow"),
    "snowboard": ("the one board for a snowy hill", "what both boots are bound to"),
    "sports ball": ("what players kick", "what goes into a goal"),
    "kite": ("what flies on a string", "what needs wind and a long line"),
    "baseball bat": ("what hits a thrown ball", "the wooden club of a game"),
    "baseball glove": ("what a catcher wears on the hand", "the leather that stops a fast ball"),
    "skateboard": ("the board with four small wheels", "what does tricks on a ramp"),
    "surfboard": ("what rides the waves", "the board for the sea"),
    "tennis racket": ("what has strings and a handle", "what serves over a net"),
    "bottle": ("what is closed with a cork", "what holds a litre of drink"),
    "wine glass": ("what is raised for a toast", "the drink holder with a thin stem"),
    "cup": ("what coffee is served in", "what has one handle and a saucer"),
    "fork": ("what has prongs", "what picks up food with points"),
    "knife": ("what slices bread", "the sharp blade on the table"),
    "spoon": ("what soup is eaten with", "what stirs tea"),
    "bowl": ("the round dish for cereal", "what salad is mixed in"),
    "banana": ("the long fruit that monkeys like", "the curved fruit"),
    "apple": ("the fruit that keeps the doctor away", "the fruit of pies and cider"),
    "sandwich": ("what lies between two slices", "lunch made of bread and cheese"),
    "orange": ("the round fruit that is pressed for juice", "the citrus fruit"),
    "broccoli": ("the vegetable like a small tree", "the vegetable with florets"),
    "carrot": ("the root that rabbits eat", "the nose of a snowman"),
    "hot dog": ("the sausage in a bun", "what is eaten with mustard"),
    "pizza": ("what an italian oven bakes", "the slice with melted cheese"),
    "donut": ("the sweet ring", "the snack with a hole"),
    "cake": ("what has candles on a birthday", "what a baker puts icing on"),
    "chair": ("the seat for one person", "what has four legs and a back"),
    "couch": ("the soft seat for a living room", "where one naps in front of a film"),
    "potted plant": ("what needs water and light", "the green thing that grows indoors"),
    "bed": ("what people sleep in", "what has a pillow and a blanket"),
    "dining table": ("what a meal is served on", "what plates are set on"),
    "toilet": ("what is flushed", "the seat of a bathroom"),
    "tv": ("what shows the evening news", "what has an antenna and channels"),
    "laptop": ("the computer that folds", "what you work with on a train ride"),
    "computer mouse": ("what moves the pointer", "what is clicked"),
    "tv remote": ("what changes the channel", "what couch users search for"),
    "computer keyboard": ("what one types on", "what has letters and a space bar"),
    "cell phone": ("what rings in a pocket", "what sends messages"),
    "microwave": ("what warms food in a minute", "what heats with waves"),
    "oven": ("where bread is baked", "what roasts a chicken"),
    "toaster": ("what browns slices", "what makes bread crisp"),
    "sink": ("where dishes are washed", "what has a tap and a drain"),
    "refrigerator": ("what keeps milk cold", "what has ice inside"),
    "book": ("what has pages", "what is read"),
    "clock": ("what tells the time", "what has two hands and no arms"),
    "vase": ("what holds cut flowers", "the tall pot for roses"),
    "scissors": ("what cuts paper", "what a tailor cuts cloth with"),
    "teddy bear": ("the soft toy", "what a child hugs at night"),
    "hair drier": ("what blows hot air", "what is used after a shower"),
    "toothbrush": ("what cleans teeth", "what needs paste and a mouth"),
}
"""Two ways to say each class without naming it."""


def reference_words() -> list[str]:
    """Words of these instructions beyond those of plain ones."""
    extra = "the one on left right bigger smaller larger and object thing"
    return [*(text for texts in DESCRIPTIONS.values() for text in texts), extra]
