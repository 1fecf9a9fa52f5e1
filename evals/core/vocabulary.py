"""GenEval's words: the 80 class names in its spelling and order, the ten colours, the four relations, the six tasks."""

CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote"),
    *("computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock"),
    *("vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
"""COCO's names in COCO's order, with GenEval's three renamings."""

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")

RELATIONS = ("left of", "right of", "above", "below")

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""In the order of the prompts."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def plural(name: str) -> str:
    """GenEval's plural.

    >>> plural("bus"), plural("sheep")
    ('buses', 'sheeps')
    """
    return name + ("es" if name.endswith("s") else "s")


def with_article(words: str) -> str:
    """The words with their article, chosen by the first letter.

    >>> with_article("orange cow"), with_article("dog")
    ('an orange cow', 'a dog')
    """
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


_TITLES = {
    "two_object": "two objects",
    "color_attr": "color attribution",
    # GenEval++, in whose tables these stand beside the last one
    "color_spatial_attr": "color and position",
    "color_count_attr": "color and count",
    "spatial_count_attr": "position and count",
    "size_spatial_attr": "size and position",
    "multi_object_count_attr": "counts of several objects",
}


def task_title(task: str) -> str:
    """What a task, a category or a column is called in tables, figures and documents.

    >>> [task_title(task) for task in TASKS]
    ['single object', 'two objects', 'counting', 'colors', 'position', 'color attribution']
    >>> task_title("color_count_attr"), task_title("subject-add"), task_title("03_atoms")
    ('color and count', 'subject-add', '3 atoms')
    """
    return _TITLES.get(task, task.replace("_", " ").lstrip("0") or task)
