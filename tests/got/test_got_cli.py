"""`python -m got`: what it teaches, what it writes, what it refuses and how, and what it prints last."""

import io
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import got_kit
import numpy as np
import pytest
from PIL import Image
from process_kit import Process

from evals.detectors.registry import make_detector
from got import __main__ as command
from got import checkpoint
from got.cli.parser import build_parser
from got.plan.chain import Chain, iou
from got.util.images import as_rgb

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "diffusers", "matplotlib", "pandas")
PLAN = got_kit.APPLE


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    checkpoint.save_fp16(got_kit.pipeline(), path)
    return path


@pytest.fixture
def got(capsys, monkeypatch, tmp_path, saved):
    """Runs a command in an empty folder; returns exit code, stdout lines, stderr lines."""
    monkeypatch.chdir(tmp_path)

    def call(*words, stdin=None):
        words = [str(word) for word in words]
        if "mini" in words:
            words += ["--steps", "1", "--device", "cpu"]
        elif words[0] in ("generate", "edit", "chat"):
            words += ["--checkpoint", str(saved), "--steps", "1", "--max-new-tokens", "3", "--device", "cpu"]
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin or ""))
        code = command.main(words)
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return call


def last(result):
    code, out, err = result
    assert code == 0, err
    return json.loads(out[-1])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=int)


# ------------------------------------------------------------------------------------------------------------ teaching
@pytest.mark.parametrize("words", [[], ["generate"], ["edit"], ["chat"], ["info"]])
def test_help_teaches_and_needs_no_heavy_library(words):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "got", *words, "--help"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert imported.isdisjoint(HEAVY)
    assert words == ["info"] or "python -m got" in done.stdout.split("options:")[1]


def test_every_flag_has_a_line_of_help():
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    missing = [
        f"{name} {action.dest}"
        for name, parser in commands.choices.items()
        for action in parser._actions
        if not action.help
    ]
    assert missing == []


def test_the_examples_of_the_help_are_commands():
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    texts = [build_parser().epilog, *(parser.epilog or "" for parser in commands.choices.values())]
    examples = [
        line.strip() for text in texts for line in text.splitlines() if line.strip().startswith("python -m got")
    ]
    assert len(examples) >= 12
    for example in examples:
        words = shlex.split(re.split(r"\s{2,}", example)[0])[3:]
        assert build_parser().parse_args(words).command in commands.choices


# ------------------------------------------------------------------------------------------------------------- drawing
def test_a_image_a_plan_and_one_line_of_json(got):
    code, out, err = got("generate", "a red apple", "--chain", PLAN)
    record = json.loads(out[-1])
    assert code == 0
    assert out[:-1] == [PLAN]
    assert err == ["[1/1] got.png"]
    assert (record["image"], record["chain"], record["warnings"]) == ("got.png", PLAN, [])
    assert record["pictures"] == [{key: record[key] for key in record if key != "pictures"}]
    assert pixels("got.png").shape == (32, 32, 3)


def test_the_same_command_draws_the_same_and_the_pipeline_alone_too(got):
    got("generate", "a red apple", "--chain", PLAN, "--output", "a.png", "--seed", "5")
    got("generate", "a red apple", "--chain", PLAN, "--output", "b.png", "--seed", "5")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    alone = got_kit.pipeline()("a red apple", chain=PLAN, num_inference_steps=1, generator=got_kit.generator(5))
    # The checkpoint's weights are rounded to float16.
    assert np.abs(pixels("a.png") - np.asarray(alone.images[0], int)).max() <= 8


def test_several_images_of_several_prompts_are_numbered_and_independent(got):
    record = last(got("generate", "a red apple", "dogs", "--num", 2, "--output", "out", "--chain", PLAN))
    assert [Path(one["image"]).name for one in record["pictures"]] == [f"000{i}.png" for i in range(4)]
    assert [(one["prompt"], one["seed"]) for one in record["pictures"]] == [
        ("a red apple", 42), ("a red apple", 43), ("dogs", 42), ("dogs", 43),
    ]  # fmt: skip
    last(got("generate", "dogs", "--seed", 43, "--output", "one.jpg", "--chain", PLAN, "--batch-size", 1))
    last(got("generate", "dogs", "--seed", 43, "--output", "one.png", "--chain", PLAN))
    assert np.abs(pixels("one.png") - pixels("out/0003.png")).max() <= 1
    with Image.open("one.jpg") as image:
        assert image.format == "JPEG"


def test_prompts_come_from_a_file_or_from_standard_input(got):
    Path("prompts.txt").write_text("\ufeffa red apple\r\n\n  dogs \n", encoding="utf-8")
    record = last(got("generate", "--prompts", "prompts.txt", "--output", "a", "--chain", PLAN))
    assert [one["prompt"] for one in record["pictures"]] == ["a red apple", "dogs"]
    record = last(got("generate", "--prompts", "-", "--output", "b", stdin="a blue dog\ndogs\n"))
    assert [one["prompt"] for one in record["pictures"]] == ["a blue dog", "dogs"]
    lines = [{"prompt": "dogs", "chain": got_kit.BOTH, "seed": 9}, {"prompt": "a red apple"}]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first, second = last(got("generate", "--prompts", "prompts.jsonl", "--output", "c"))["pictures"]
    assert (first["chain"], first["seed"], second["seed"]) == (got_kit.BOTH, 9, 42)
    piped = last(got("generate", "--prompts", "-", "--output", "d", stdin=Path("prompts.jsonl").read_text()))
    assert [one["prompt"] for one in piped["pictures"]] == ["dogs", "a red apple"]


def test_a_plan_is_written_changed_by_hand_and_drawn(got):
    record = last(got("generate", "a red apple", "--plan-only", "--output", "plan.txt"))
    assert not list(Path().glob("*.png"))
    assert Path(record["plan"]).read_text() == record["chain"] + "\n"
    Path("plan.txt").write_text(got_kit.BOTH + "\n")
    assert last(got("generate", "a red apple", "--chain", "plan.txt"))["chain"] == got_kit.BOTH
    assert (
        last(got("generate", "--chain", "plan.txt", "--overwrite"))["prompt"] == "a photo of a red apple and a blue dog"
    )
    assert last(got("generate", "dogs", "--chain", "-", "--output", "b.png", stdin=PLAN + "\n"))["chain"] == PLAN
    assert last(got("generate", "dogs", "--chain", "only words", "--output", "c.png"))["chain"] == "only words"


def test_plan_layout_and_masks_are_kept_beside_the_image(got):
    code, out, _ = got(
        "generate", "dogs", "--chain", got_kit.BOTH, "--show-chain", "--save-chain", "--save-layout", "--save-masks"
    )
    record = json.loads(out[-1])
    assert code == 0
    assert out[1].startswith("  #  mask     x         y         object (the mask's colour")
    assert out[2:-1] == [
        "  0  red      x 120-480   y 300-660   a red apple",
        "  1  green    x 520-900   y 310-720   a blue dog",
    ]
    assert Path(record["chain_file"]).read_text() == got_kit.BOTH + "\n"
    assert record["masks"] == ["got-mask-0.png", "got-mask-1.png"]
    assert pixels("got-mask-1.png")[16, 22].tolist() == [0, 128, 0]
    assert pixels("got-mask-1.png")[16, 8].tolist() == [0, 0, 0]
    assert pixels("got-layout.png")[16, 8].tolist() == [255, 0, 0]
    assert pixels("got-layout.png")[16, 22].tolist() == [0, 128, 0]
    last(got("generate", "dogs", "--chain", PLAN, "--save-masks", "--overwrite"))
    assert not Path("got-mask-1.png").exists()


@pytest.mark.parametrize("size", [(48, 24), (36, 44), (4, 8)])
def test_any_size_that_the_autoencoder_allows(got, size):
    flags = ["--width", size[0], "--height", size[1], "--chain", PLAN]
    record = last(got("generate", "dogs", *flags, "--save-masks"))
    assert tuple(record["size_px"]) == pixels("got.png").shape[1::-1] == pixels("got-mask-0.png").shape[1::-1] == size
    Image.effect_mandelbrot(size, (-2, -1, 1, 1), 20).save("source.png")
    assert tuple(last(got("edit", "source.png", "dogs", *flags, "--output", "edited.png"))["size_px"]) == size


def test_an_edit_takes_any_image_and_several_instructions(got):
    Image.effect_mandelbrot((60, 40), (-2, -1, 1, 1), 20).convert("CMYK").save("photo.jpg")
    record = last(got("edit", "photo.jpg", "a red apple", "dogs", "--chain", PLAN, "--output", "out"))
    assert [one["size_px"] for one in record["pictures"]] == [[60, 40], [60, 40]]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers: numpy of a tensor
@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm++", "unipc"])
def test_every_sampler_draws(got, scheduler):
    flags = ["--chain", PLAN, "--scheduler", scheduler]
    last(got("generate", "dogs", *flags))
    assert pixels("got.png").std() > 0


def test_switches_and_scales_reach_the_image(got):
    last(got("generate", "dogs", "--chain", PLAN, "--output", "a.png"))
    for i, flags in enumerate((["--spatial", "off"], ["--semantic-scale", "9"], ["--spatial-scale", "-3"])):
        last(got("generate", "dogs", "--chain", PLAN, "--output", f"{i}.png", *flags))
        assert (pixels("a.png") != pixels(f"{i}.png")).any()


def test_words_that_the_model_does_not_know_are_named(got):
    code, out, err = got("generate", "a červené 赤い apple 🍎", "--chain", PLAN)
    assert code == 0
    assert "warning: not in the model's vocabulary: červené, 赤い, 🍎" in err
    assert json.loads(out[-1])["warnings"] == ["not in the model's vocabulary: červené, 赤い, 🍎"]


def test_a_plan_with_plain_boxes_is_read_and_said(got):
    code, out, err = got("generate", "--chain", "a red apple (120,300),(480,660)", "--show-chain")
    assert code == 0
    assert err[0] == "note: --chain: 1 plain box read: a red apple <|box_start|>(120,300),(480,660)<|box_end|> (red)"
    assert json.loads(out[-1])["prompt"] == "a photo of a red apple"
    assert "is not the object's" in out[1]


def test_a_plan_without_boxes_and_a_torn_box_are_named_with_their_place(got):
    _, _, err = got("generate", "dogs", "--chain", "two dogs")
    assert "warning: no boxes in this plan; --chain and Chain.read understand plain ones" in " ".join(err)
    torn = "dogs <|box_start|>(1,2),(3<|box_end|> (red)"
    code, out, err = got("generate", "--chain", torn, "--overwrite")
    assert code == 0
    assert f"warning: --chain: malformed box left out at character 5: {torn[5:]}" in err
    assert json.loads(out[-1])["prompt"] == "dogs"


@pytest.mark.parametrize(
    ("torn", "prompt"),
    [
        ("a dog (0,100),(500,900 and a cat (520,100),(980,900)", "a photo of a dog and a cat"),
        ("a dog (0,100),(500,900", "a dog"),
    ],
)
def test_a_torn_plain_box_is_named_and_its_object_stays_in_the_prompt(got, torn, prompt):
    code, out, err = got("generate", "--chain", torn)
    assert code == 0
    assert "warning: --chain: malformed box left out at character 6: (0,100),(500,900" in err
    assert json.loads(out[-1])["prompt"] == prompt


def test_the_plan_of_the_help_is_drawn_where_it_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        command.main(["generate", "--help"])
    (plan,) = re.findall(r'generate --chain "(.+?)"', capsys.readouterr().out)
    assert command.main(["generate", "--chain", plan]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["warnings"] == []
    (seen,) = make_detector("icon").detect([as_rgb(Image.open("got.png"))])
    for region in Chain.read(plan).regions:
        found = max((one for one in seen if region.text.endswith(one.name)), key=lambda one: one.score)
        assert found.score > 0.9
        assert iou(region.box_1000, tuple(round(1000 * edge / 128) for edge in found.box_xyxy_px)) > 0.6


def test_words_of_a_plan_that_the_model_does_not_know_are_named(got):
    _, _, err = got("generate", "dogs", "--chain", PLAN.replace("apple", "unicorn"))
    assert "warning: not in the model's vocabulary: unicorn" in err
    _, _, err = got("chat", stdin="dogs\n/add 0,0,300,300 a unicorn\n/replace 0 a red apple\n")
    assert [line for line in err if "unicorn" in line] == ["warning: not in the model's vocabulary: unicorn"]
    _, _, err = got("chat", "--output", "drawn", stdin="dogs\n/add 0,0,300,300 a unicorn\n/draw\n")
    assert [line for line in err if "unicorn" in line] == ["warning: not in the model's vocabulary: unicorn"]


def test_an_empty_file_of_a_plan_is_named(got):
    Path("empty.jsonl").touch()
    assert got("generate", "--chain", "empty.jsonl")[2] == [
        "error: --chain empty.jsonl: expected a plan, or a prompt beside it, but it is empty"
    ]


# ------------------------------------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate"], "expected a prompt"),
        (["generate", " "], "Expected a prompt with words"),
        (["generate", "a\x1bdog"], "character 1 of it is U+001B"),
        (["generate", "a \udcff dog"], "character 2 of it is U+DCFF"),
        (["generate", "dogs", "--num", "0"], "whole number from 1 up but got 0"),
        (["generate", "dogs", "--seed", "-1"], "whole number from 0"),
        (["generate", "dogs", "--spatial-scale", "nan"], "finite number but got nan"),
        (["generate", "dogs", "--reference-scale", "inf"], "finite number but got inf"),
        (["generate", "dogs", "--scheduler", "euler"], "invalid choice: 'euler'"),
        (["generate", "dogs", "--scheduler", "unipc", "--reference-compat"], "samples by DDPM only"),
        (["generate", "dogs", "--width", "30", "--chain", PLAN], "multiples of 4"),
        (["generate", "dogs", "--chain", "nowhere.txt"], "--chain nowhere.txt: No such file"),
        (["generate", "dogs", "--chain", f"{PLAN} <|im_gen_0000|>"], "chain of words and boxes"),
        (["generate", "dogs", "--prompts", "nowhere.txt"], "--prompts nowhere.txt: No such file"),
        (["generate", "--prompts", "-", "--chain", "-"], "cannot both be read"),
        (["generate", "dogs", "--plan-only", "--chain", PLAN], "there is one already"),
        (["generate", "dogs", "--plan-only", "--output", "a.png"], "a plan is written to a .txt file"),
        (["generate", "dogs", "--output", "a.xyz"], "ending in .png"),
        (["generate", "dogs", "--device", "cuda:77"], "--device cuda:77 cannot be used"),
        (["generate", "dogs", "--device", "toaster"], "--device toaster cannot be used"),
        (["generate", "dogs", "--offload", "model", "--device", "cpu"], "a device other than cpu"),
        (["edit", "nowhere.png", "dogs"], "Cannot read nowhere.png"),
        (["chat", "nowhere.png"], "Cannot read nowhere.png"),
        (["chat", "--resume"], "Cannot read got-chat"),
        (["info", "nowhere"], "Expected mini"),
        (["info", "--size", "512"], "with --memory only"),
        (["draw"], "invalid choice: 'draw'"),
        ([], "required: COMMAND"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch, saved, words, message):
    monkeypatch.chdir(tmp_path)
    if words[:1] in (["generate"], ["edit"], ["chat"]):
        words = [*words, "--checkpoint", str(saved)]
    code = command.main(words)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_plan_alone_minds_no_file_that_it_does_not_write(got):
    for name in ("got-turn-0.png", "got-layout.png"):
        Path(name).write_bytes(b"mine")
    assert last(got("generate", "dogs", "--plan-only", "--save-layout"))["plan"] == "got.txt"
    assert Path("got-layout.png").read_bytes() == b"mine"
    assert got("generate", "dogs", "--plan-only")[0] == 2


def test_an_unknown_checkpoint_is_one_line(capsys):
    assert command.main(["generate", "a red apple", "--checkpoint", "nowhere"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: Expected mini")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{torn", "prompts.jsonl, line 1 is not valid JSON"),
        (b'\n["dogs"]', "in prompts.jsonl, line 2 but got list"),
        (b'{"prompt": "dogs", "sed": 3}', "prompts.jsonl, line 1: expected chain, prompt, seed but got 'sed'"),
        (b'{"prompt": "dogs", "seed": -1}', "seed to be a whole number"),
        (
            b'{"prompt": "dogs", "seed": 1180591620717411303424}',
            "line 1: expected the seed to be a whole number",
        ),
        (b'{"prompt": "dogs", "chain": 3}', "chain to be text"),
        (b"\xff\xfe", "expected UTF-8"),
        (b"", "expected a prompt"),
    ],
)
def test_a_bad_file_of_prompts_is_refused_with_its_line(got, text, message):
    Path("prompts.jsonl").write_bytes(text)
    code, out, err = got("generate", "--prompts", "prompts.jsonl")
    assert (code, out, len(err)) == (2, [], 1)
    assert message in err[0]


@pytest.mark.parametrize("kind", ["got.png", "got-layout.png", "got-mask-3.png", "got-chain.txt"])
def test_files_that_are_there_are_not_overwritten_unless_asked(got, kind):
    Path(kind).write_bytes(b"mine")
    flags = ["--chain", PLAN, "--save-layout", "--save-masks", "--save-chain"]
    code, _, err = got("generate", "dogs", *flags)
    assert (code, err) == (2, [f"error: {kind} is there already; --overwrite replaces it"])
    assert Path(kind).read_bytes() == b"mine"
    assert len(list(Path().iterdir())) == 1
    last(got("generate", "dogs", *flags, "--overwrite"))
    assert not Path(kind).exists() or Path(kind).read_bytes() != b"mine"


def test_ctrl_c_ends_in_one_line_and_leaves_no_torn_file(saved, tmp_path):
    words = ["generate", "dogs", "--checkpoint", saved, "--num", "500", "--batch-size", "1", "--output", "out"]
    words = [*map(str, words), "--max-new-tokens", "3"]
    process = Process(command.main, words, folder=tmp_path / "said", cwd=tmp_path)
    while not list(tmp_path.glob("out/*.png")):
        assert process.poll() is None, process.err
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in process.err
    for path in tmp_path.glob("out/*"):
        assert path.suffix == ".png"
        assert pixels(path).shape == (32, 32, 3)
    assert not process.out.rstrip().endswith("}")


# ---------------------------------------------------------------------------------------------------------------- chat
def test_a_piped_conversation_draws_changes_the_plan_and_goes_back(got):
    lines = ["/seed 3", "a red apple", "/add 0,0,300,300 a blue dog", "/move 0 10,20,400,500", "/replace 0 a green cup",
             "/draw", "/undo", "/redo", "/chain", "", "/quit", "never read"]  # fmt: skip
    # A random model's chains are no words; the embedded one's can be changed and read again.
    record = last(got("chat", "--output", "talk", "--checkpoint", "mini", stdin="\n".join(lines)))
    assert (record["entries"], record["image"]) == (2, "talk/0001.png")
    regions = Chain.parse(record["chain"]).regions
    assert [(region.text, region.box_1000, region.color) for region in regions] == [
        ("a green cup", (10, 20, 400, 500), "red"),
        ("a blue dog", (0, 0, 300, 300), "green"),
    ]
    assert pixels("talk/0001.png").shape == (128, 128, 3)
    again = last(got("chat", "--output", "talk", "--resume", stdin="/undo\n/new dogs\n"))
    assert (again["entries"], again["image"]) == (3, "talk/0002.png")


def test_a_conversation_says_the_command_that_draws_its_image_again(got):
    lines = ["a red apple", "/add 0,0,300,300 a blue dog", "/draw", "/again"]
    code, out, _ = got("chat", "--output", "talk", "--checkpoint", "mini", "--seed", "7", stdin="\n".join(lines))
    assert code == 0
    verb, *words = shlex.split(next(line for line in out if line.startswith("python -m got ")))[3:]
    assert command.main([verb, *words]) == 0
    assert Path("again.png").read_bytes() == Path("talk/0001.png").read_bytes()
    assert got("chat", "--output", "empty", stdin="/again\n")[0] == 2


def test_a_conversation_keeps_an_interval_of_guidance(got):
    last(got("chat", "--output", "talk", "--guidance-interval", "0", "0.5", stdin="dogs\n"))
    last(got("chat", "--output", "talk", "--resume", stdin="dogs\n"))
    entries = [json.loads(line) for line in Path("talk/entries.jsonl").read_text().splitlines()]
    assert [entry["options"]["guidance_interval"] for entry in entries] == [[0.0, 0.5]] * 2


def test_after_an_edit_the_plan_has_all_objects_of_the_image(got):
    lines = [
        "/new a photo of a red apple and a blue dog",
        "add a green cup to the left",
        "/chain",
        "/move 0 0,0,300,300",
        "/draw",
    ]
    record = last(got("chat", "--output", "talk", "--checkpoint", "mini", "--max-turns", "1", stdin="\n".join(lines)))
    names = [region.text for region in Chain.parse(record["chain"]).regions]
    assert record["entries"] == 3
    assert len(names) == 3
    assert "a green cup" in names
    assert Chain.parse(record["chain"]).regions[0].box_1000 == (0, 0, 300, 300)


def test_a_resumed_conversation_keeps_what_it_was_begun_with_but_for_what_is_given(got):
    told = ["--resume", "--spatial", "off", "--seed", 5, "--max-turns", 1]
    expected = [(42, None, None), (5, False, 1), (5, False, 1), (5, True, 1)]
    for words, values in zip([[], told, told[:1], [*told[:2], "on"]], expected, strict=True):
        last(got("chat", "--output", "talk", *words, stdin="dogs\n"))
        kept = json.loads(Path("talk/conversation.json").read_text())
        assert (kept["seed"], kept["options"].get("spatial"), kept["options"].get("max_turns")) == values
    entries = [json.loads(line) for line in Path("talk/entries.jsonl").read_text().splitlines()]
    assert [entry["options"]["max_turns"] for entry in entries] == [4, 1, 1, 1]


def test_a_conversation_can_begin_with_a_image(got):
    Image.new("RGB", (60, 40), "teal").save("photo.png")
    record = last(got("chat", "photo.png", stdin="dogs\n/open photo.png\n"))
    assert (record["entries"], record["conversation"]) == (3, "got-chat")
    assert pixels("got-chat/0001.png").shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/dance", "/dance is no command"),
        ("Undo", "a command begins with a slash: /undo"),
        ("/undo", "something to undo"),
        ("/draw", "there is no plan yet"),
        ("/open nowhere.png", "No such file"),
        ("/seed many", "expected a whole number"),
        ("/add here a dog", "there is no plan yet"),
        ("/add", "expected /add X1,Y1,X2,Y2 WORDS"),
    ],
)
def test_a_piped_conversation_ends_at_the_first_mistake(got, line, message):
    code, out, err = got("chat", stdin=f"{line}\n/help\n")
    assert (code, out, len(err)) == (2, [], 1)
    assert message in err[0]


def test_a_folder_in_use_is_not_mixed_with_a_new_conversation(got):
    Path("talk").mkdir()
    Path("talk/mine.txt").write_text("mine")
    code, _, err = got("chat", "--output", "talk", stdin="dogs\n")
    assert code == 2
    assert "is not empty" in err[0]
