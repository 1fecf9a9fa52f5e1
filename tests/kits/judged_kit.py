"""Small sets of the judged benchmarks, in their own files' schema, made up here; and a judge that answers by a rule."""

import base64
import io
import json
import re

from judge_kit import says
from PIL import Image


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in content) if lines else json.dumps(content))
    return path


def tint(number):
    """A colour that no other small number has."""
    return 37 * number % 256, 91 * number % 256, 250 - number


def draw(path, number, size=(64, 48)):
    """A plain image that differs by number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, tint(number)).save(path)
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
    words = [part if isinstance(part, str) else "\n".join(one.get("text", "") for one in part) for part in parts]
    return "\n".join(words)


def answers(rule):
    """A server's script: what a rule says of a request's words."""
    return lambda request: says(rule(texts_of(request)))


def numbered(pattern, reply):
    """A rule that finds a number in the words, and says what a function makes of it."""
    return lambda words: reply(int(re.search(pattern, words)[1]))


def genevalpp(root):
    tags = ("color_attr", "spatial_count_attr", "color_spatial_attr", "color_count_attr", "multi_object_count_attr",
            "size_spatial_attr", "counting")  # fmt: skip
    rows = [
        {"tag": tag, "include": [{"class": "cat", "count": 2, "color": "red"}], "prompt": f"two cats, number {i}"}
        for i, tag in enumerate((*tags, "counting"), 1)
    ]
    rows[-1]["exclude"] = [{"class": "cat", "count": 3}]
    write(root / "test_scripts" / "Geneval++.jsonl", rows)
    return root


def imgedit(root, edition="basic"):
    kinds = ("replace", "remove", "add", "adjust", "style", "action", "extract", "background", "compose")
    rows = {}
    for i, kind in enumerate((*kinds, "add", "add", "style"), 1):
        folder = "hard" if edition == "uge" else "singleturn"
        name = f"animal/{i % 3}.png"
        draw(root / folder / name, i % 3)
        rows[str(20 + i)] = {"id": name, "prompt": f"do edit {i}", "edit_type": kind}
    write(root / ("UGE/UGE_edit.json" if edition == "uge" else "Basic/basic_edit.json"), rows)
    return root


def gedit(root, each=1):
    import pyarrow
    import pyarrow.parquet

    def png(number, size):
        buffer = io.BytesIO()
        Image.new("RGB", size, tint(number)).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    tasks = ("background_change", "color_alter", "material_alter", "motion_change", "ps_human", "style_change",
             "subject-add", "subject-remove", "subject-replace", "text_change", "text_change",
             "tone_transfer")  # fmt: skip
    rows = [
        {
            "task_type": task,
            "key": f"{language}{i:02d}",
            "instruction": f"do edit {i}",
            "instruction_language": language,
            "input_image": png(i, (48, 32)),
            "input_image_raw": png(i, (96, 64)),
            "Intersection_exist": i % 2 == 0,
        }
        for language in ("en", "cn")
        for i, task in enumerate(tasks)
    ]
    root.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "train-00000-of-00001.parquet")
    return root


def rise(root):
    rows = []
    for i, category in enumerate(("temporal", "causal", "spatial", "logical") * 3):
        name = f"{category}_reasoning_images/{i}.png"
        draw(root / "data" / name, i)
        row = {"index": f"{category}_reasoning_{i}", "category": f"{category}_reasoning", "image": name,
               "subtask": "Any", "instruction": f"do edit {i}"}  # fmt: skip
        if category == "logical" and i < 6:
            row["reference_txt"] = f"it is {i}"
        elif category in ("logical", "spatial") and i != 2:
            row["reference_img"] = name
        else:
            row["reference"] = f"it is {i}"
        if i in (0, 1):
            row["consistency_free"] = "True"
        if i in (4, 2):
            row["reasoning_img"] = "True"
        rows.append(row)
    write(root / "datav2_total_w_subtask.json", rows)
    return root


def kris(root):
    categories = ("count_change", "anomaly_correction", "viewpoint_change", "position_movement", "temporal_prediction",
                  "humanities", "biology", "abstract_reasoning", "rule-based_reasoning", "multi-element_composition",
                  "multi-instruction_execution", "physics")  # fmt: skip
    for i, category in enumerate(categories):
        folder, row = root / "KRIS_Bench" / category, {"ins_en": f"do edit {i}", "explain_en": f"it is {i}"}
        names = {
            "temporal_prediction": ["1-1.png", "1-3.png", "1-4.png"],
            "multi-element_composition": ["a.png", "b.png"],
        }
        row["ori_img"] = names.get(category, "1.png")
        given = row["ori_img"] if isinstance(row["ori_img"], list) else [row["ori_img"]]
        for k, name in enumerate(given):
            draw(folder / name, i + k)
        if category == "viewpoint_change":
            row["gt_img"] = draw(folder / "1-gt.png", 5).name
        write(folder / "annotation.json", {"1": row})
    return root


def t2i_reasonbench(root):
    parts = {
        "idiom": ("idiom_interpretation", ("reason_evaluation",)),
        "textual_image": ("textual_image_design", ("reason_evaluation",)),
        "entity": ("entity_reasoning", ("entity_evaluation", "other_details_evaluation")),
        "scientific": ("scientific_reasoning", ("scientific_evaluation", "other_details_evaluation")),
    }
    for part, (name, groups) in parts.items():
        prompts = [{"id": i, "prompt": f"{part} number {i}", "tag": "any"} for i in (1, 2, 3)]
        write(root / "prompts" / f"{name}.json", prompts)

        def asked(group, number):
            return {"q1": f"Is {group} {number} there?", "c1": "1 if so", "q2": "Right?", "c2": "1 if so, else 0"}

        every = (*groups, "quality_evaluation")
        rows = [{"id": i, **{group: asked(group, i) for group in every}} for i in (1, 2, 3)]
        write(root / "deepseek_evaluation_qs" / f"evaluation_{part}.json", rows)
    return root


SETS = {one.__name__: one for one in (wise, genevalpp, imgedit, gedit, rise, kris, t2i_reasonbench)}
REPLIES = (
    (r"Score: 0\nor\nScore: 1", "Score: 1"),
    (r"Aesthetic Quality: n", "Consistency: 2\nRealism: 1\nAesthetic Quality: 0"),
    (r'"correct": 1 or 0', '{"correct": 1, "reason": "as asked"}'),
    (r'"score": \[a, b\]', '{"score": [9, 4], "reasoning": "fine"}'),
    (r"1: (it does|the same form|all the rest)", "It is right.\nFinal Score: 1"),
    (r"Final Score: n", "It is right.\n**Final Score:** 5"),
    (r'"knowledge_score"', 'Good. {"instruction_score": 5, "knowledge_score": 3}'),
    (r'"(\w+_score)": n', None),
    (r"Describe this image", "A plain image."),
    (r"a list of (\d+) numbers", None),
    (r"(?m)^Score: n$", "Good.\nScore: 4"),
)
"""What marks a question of ours, and a reply to it of the form that its official judge gives."""


def official(words):
    """A rule that answers any of our questions in its own form."""
    for line in re.findall(r"(?m)^([A-Z][\w& ]+): n$", words)[:3]:
        if line not in ("Final Score", "Score", "Consistency", "Realism", "Aesthetic Quality"):
            names = re.findall(r"(?m)^([A-Z][\w& ]+): n$", words)
            return "Well done.\n" + "\n".join(f"{name}: {5 - i}" for i, name in enumerate(names))
    for mark, reply in REPLIES[::-1] if "score" in words and "list of" in words else REPLIES:
        found = re.search(mark, words)
        if found and reply is None:
            told = found[1]
            return json.dumps({"reason": [], "score": [1, 0.5][: int(told)]} if told.isdigit() else {told: 4})
        if found:
            return reply
    raise AssertionError(f"no reply to {words}")


def results(folder, name):
    """Images of a text-to-image set, where its own scripts look for them."""
    if name == "t2i_reasonbench":
        parts = ("idiom_interpretation", "textual_image_design", "entity_reasoning", "scientific_reasoning")
        return [draw(folder / part / f"{i:04d}.png", i) for part in parts for i in (1, 2, 3)]
    place, suffix, count = ("image", "jpg", 8) if name == "genevalpp" else ("", "png", 12)
    return [draw(folder / place / f"{i}.{suffix}", i) for i in range(1, count + 1)]


def sizes(request):
    """Width and height of each image of a request."""
    parts = [part for part in request["messages"][-1]["content"] if part["type"] == "image_url"]
    urls = [part["image_url"]["url"].partition(",")[2] for part in parts]
    return [Image.open(io.BytesIO(base64.b64decode(url))).size for url in urls]


def _variables(names):
    return "import does_not_exist\n" + "\n".join(f'{name} = """Ask {name}. {{{{"n": 1}}}}"""' for name in names)


RISE_WORDS = ("consist", "reasoning", "reasoning_w_input", "generation", "spatial_cons", "spatial_ref_img",
              "spatial_ref_w_input", "spatial_ref", "spatial_qual", "logical_cons", "logical_cons_ans", "logical_txt",
              "logical_img", "logical_img_wo_q")  # fmt: skip
KRIS_WORDS = ("consist", "instruction_following", "quality", "view_instruction_following", "dual_evaluation",
              "consist_multi", "instruction_multi", "consist_temporal", "instruction_temporal",
              "abnormal_instruction_following")  # fmt: skip
VIE_WORDS = ("_context_no_delimit", "_prompts_0shot_two_image_edit_rule", "_prompts_0shot_tie_rule_SC",
             "_prompts_0shot_rule_PQ")  # fmt: skip
SCRIPTS = {
    "rise": ("utils.py", _variables(f"prompt_{name}" for name in RISE_WORDS)),
    "kris": ("utils/prompts.py", _variables(f"prompt_{name}" for name in KRIS_WORDS)),
    "gedit": ("GEdit-Bench/viescore/vie_prompts.py", _variables(VIE_WORDS)),
    "genevalpp": (
        "test_scripts/Eval-gpt-4.1-geneval++.py",
        _variables(["SYSTEM_PROMPT"])
        + """

def process_sample(metadata):
    return f"Of {instruction}: {explanation}?"
""",
    ),
    "imgedit": ("Benchmark/Basic/prompts.json", json.dumps({"add": "Ask about <edit_prompt>."})),
}
"""Where each published wording lies, in a form like the original's."""
WISE_SCRIPT = '''
import does_not_exist
raise SystemExit("never run")

def build_evaluation_messages(prompt_data, image_base64):
    """Not a question."""
    return [
        {"role": "system", "content": "Be the judge of this."},
        {"role": "user", "content": [{"type": "text", "text": f"""Look {{here}}.
P: {prompt_data['Prompt']}
E: {prompt_data['Explanation']}
Score: n"""}]},
    ]
'''
