"""Small sets of the judged benchmarks, in their own files' schema, made up here; and a judge that answers by a rule."""

import json
import re

from judge_kit import says
from PIL import Image

COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "teal", "maroon")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in content) if lines else json.dumps(content))
    return path


def draw(path, number, size=(64, 48)):
    """A plain image that differs by number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLORS[number % len(COLORS)]).save(path)
    return path


def wise(root, edition="verified", each=2):
    """Some prompts of each of the six categories."""
    groups = {
        "cultural_common_sense": ("Cultural knowledge",),
        "spatio-temporal_reasoning": ("time", "Space"),
        "natural_science": ("Biology", "Physical Knowledge", "Chemistry"),
    }
    number = 0
    for part, categories in groups.items():
        rows = []
        for category in categories:
            for i in range(each):
                number += 1
                rows.append({
                    "Prompt": f"what number {number} hints at",
                    "Explanation": f"it is {number}",
                    "Category": category,
                    "Subcategory": "odd" if i % 2 else "even",
                    "prompt_id": number,
                })  # fmt: skip
        place = "data_verified/{}_verified.json" if edition == "verified" else "WISE_legacy/data/{}.json"
        write(root / place.format(part), rows)
    return root


def texts_of(request):
    """All words of a request."""
    parts = [turn["content"] for turn in request["messages"]]
    words = [part if isinstance(part, str) else " ".join(one.get("text", "") for one in part) for part in parts]
    return " ".join(words)


def answers(rule):
    """A server's script: what a rule says of a request's words."""
    return lambda request: says(rule(texts_of(request)))


def numbered(pattern, reply):
    """A rule that finds a number in the words, and says what a function makes of it."""
    return lambda words: reply(int(re.search(pattern, words)[1]))
