"""Flags of `python -m got` and the help that teaches them. Imports no heavy library."""

from __future__ import annotations

import argparse
from pathlib import Path

from got.cli import convert
from got.model.schedulers import SCHEDULERS
from got.util.cli import DEVICES, DTYPES, Parser, add_command, number, seed, whole

SEED, MOST_TURNS = 42, 4
_GUIDANCES = {
    "semantic": "follow the chain's meaning",
    "spatial": "follow the chain's boxes",
    "reference": "follow the source image; black for a caption",
}

_TOP = """\
A prompt becomes a plan (a chain of thought with a box after every object), the plan becomes an image.

  python -m got generate "a photo of a red apple and a blue dog" --show-chain
  python -m got edit photo.png "make the dog green" --output edited.png
  python -m got chat
  python -m got studio
  python -m got info

`python -m got COMMAND --help` teaches a command. Progress goes to stderr; the last line on stdout is one JSON object.
Exit codes: 0 done, 2 a mistake in the command (one line says which), 130 interrupted (Ctrl-C ends the studio with 0).
"""
_GENERATE = """\
examples:
  python -m got generate "a photo of two cats"                      draws got.png and prints the plan
  python -m got generate "a photo of two cats" --show-chain --save-layout
  python -m got generate "two cats" --num 4 --output cats.png       cats-0000.png to cats-0003.png
  python -m got generate --prompts prompts.txt --output images    a prompt a line
  python -m got generate "two cats" --plan-only --output plan.txt   write the plan, edit it by hand, and draw it:
  python -m got generate --chain plan.txt --overwrite               the prompt is then what the plan names
  python -m got generate --chain "a red apple (50,250),(450,700) and a blue dog (520,260),(980,700)"
  python -m got generate "two cats" --spatial off --semantic-scale 4 --scheduler unipc --steps 8

A box of a plan is two corners x,y, in thousandths of width and height.
A file of prompts is text with a prompt a line, or JSON lines ({"prompt": ..., "chain": ..., "seed": ...}) if its name
ends in .jsonl; - is standard input, of either kind. The k-th image of every prompt has the seed --seed + k.
"""
_EDIT = """\
examples:
  python -m got edit photo.png "remove the dog"                     draws got.png
  python -m got edit photo.png "remove the dog" "make it night" --output out    each edit starts from the photo
  python -m got edit photo.png "remove the dog , then turn the background pink"    two steps: got-turn-0.png, got.png
  python -m got edit photo.png --prompts instructions.txt --output out
  python -m got edit photo.png "remove the dog" --width 96 --height 64

Images of any kind will do: palettes, CMYK and 16 bits are converted, EXIF rotation is applied, transparent parts
are laid on white, of an animation the first frame is taken. The result has the source's size unless another is given.
"""
CHAT_HELP = """\
A line is a request: the first one draws an image, later ones edit it. Commands:
  /open FILE            go on with an image
  /new CAPTION          draw a new image
  /chain                show the plan, its boxes numbered from 0; (green) behind a box is its mask's colour alone
  /replace N WORDS      /move N X1,Y1,X2,Y2      /add X1,Y1,X2,Y2 WORDS      /remove N      change the plan
  /draw                 draw the changed plan; after an edit it has all objects of the image, and these are drawn anew
  /undo /redo           back and forth
  /again                the command that draws this image once more, byte for byte
  /seed N               seed of the next images
  /help /quit"""
_CHAT = (
    CHAT_HELP
    + """

Every image is kept in --output, with its plan and request; --resume goes on with such a folder. Without a terminal
the lines are read from standard input, and the first mistake ends it:
  printf 'a photo of two cats\\n/add 0,0,300,300 a dog\\n/draw\\n' | python -m got chat --output talk
"""
)
_STUDIO = """\
examples:
  python -m got studio                                     the address is printed; open it in a browser
  python -m got studio --output got-chat                   goes on with a conversation of `python -m got chat`
  python -m got studio --run runs/a --sample 00042/1       one sample of a run, its plan ready to be changed
  python -m got studio --checkpoint got-6b --device cuda --dtype float16 --offload model

A session is a folder of --output, saved after every image; `python -m got chat --output FOLDER --resume` goes on with
it. The page asks no other machine for anything. With another --host than this machine's own, whoever has the token of
the printed address is let in.
"""
_CONVERT = """\
example:
  python -m got convert --got GoT-6B --qwen Qwen2.5-VL-3B-Instruct --sdxl stable-diffusion-xl-base-1.0 --output got-6b
"""


def build_parser() -> argparse.ArgumentParser:
    """All commands."""
    purpose = "GoT: write a chain of thought with boxes, then draw it."
    parser = Parser(prog="python -m got", description=purpose, epilog=_TOP)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(add_command(commands, "generate", "draw captions", _GENERATE))
    _add_edit(add_command(commands, "edit", "edit an image", _EDIT))
    _add_chat(add_command(commands, "chat", "draw and edit in a conversation", _CHAT))
    _add_studio(add_command(commands, "studio", "draw, edit and change plans in the browser", _STUDIO))
    _add_info(add_command(commands, "info", "say what a checkpoint is"))
    purpose = "turn the released checkpoint into a folder for --checkpoint"
    convert.add_arguments(add_command(commands, "convert", purpose, _CONVERT))
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is drawn")
    what.add_argument("prompt", nargs="*", help="a caption, e.g. 'a photo of a red apple'; several are several images")
    _add_requests(what)
    _add_drawing(parser)
    _add_files(parser)
    _add_model(parser)


def _add_edit(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is drawn")
    what.add_argument("image", type=Path, metavar="IMAGE", help="the image to edit")
    what.add_argument("prompt", nargs="*", metavar="INSTRUCTION", help="what to change; several are several images")
    what.add_argument(
        "--own-size", action="store_true", help="the model's own size, in the source's aspect, not the source's size"
    )
    _add_requests(what)
    _add_drawing(parser)
    _add_files(parser)
    _add_model(parser)


def _add_chat(parser: argparse.ArgumentParser) -> None:
    talk = parser.add_argument_group("the conversation")
    talk.add_argument("image", type=Path, nargs="?", metavar="IMAGE", help="an image to begin with")
    talk.add_argument(
        "--output", type=Path, default=Path("got-chat"), metavar="DIR", help="where it is kept (default: %(default)s)"
    )
    talk.add_argument("--resume", action="store_true", help="go on with the conversation in --output")
    _add_drawing(parser)
    _add_model(parser)
    parser.set_defaults(seed=None)  # a resumed conversation has one


def _add_studio(parser: argparse.ArgumentParser) -> None:
    page = parser.add_argument_group("the page")
    add = page.add_argument
    add("--port", type=whole(0, 65535), default=7860, metavar="N", help="0 takes any free one (default: %(default)s)")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where it listens (default: %(default)s, this machine)")
    add("--output", type=Path, default=Path("got-studio"), metavar="DIR",
        help="where sessions are kept, or one of them to go on with (default: %(default)s)")  # fmt: skip
    add("--run", type=Path, metavar="DIR", help="a run directory, whose samples can be opened")
    add("--sample", metavar="CASE[/INDEX]", help="the sample of --run to begin with, such as 00042/1")
    add("--detector", metavar="NAME|none", help="who looks for the planned objects, as of the benchmarks"
        " (default: icon for mini, else none)")  # fmt: skip
    add("--queue", type=whole(), default=16, metavar="N", help="requests that may wait (default: %(default)s)")
    add("--max-upload", type=whole(), default=32, metavar="MB", help="largest image file (default: %(default)s)")
    _add_model(parser)
    parser.set_defaults(scheduler=None)  # the page has it among its settings


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", nargs="?", metavar="mini|PATH|HUB_ID", help="the same as --checkpoint (default: mini)"
    )
    add = parser.add_argument
    add("--checkpoint", dest="named", metavar="mini|PATH|HUB_ID", help="weights, as of the other commands")
    add(
        "--memory",
        action="store_true",
        help="instead, count what GoT-6B needs of a GPU, and its least time",
    )
    add("--batch-size", type=whole(), metavar="N", help="for --memory: images at a time (default: 1)")
    add("--size", type=whole(multiple_of=64), metavar="PX", help="for --memory: side of an image (default: 1024)")


def _add_requests(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--prompts", metavar="FILE", help="prompts from a file (text or .jsonl); - reads standard input")
    add("--num", type=whole(), default=1, metavar="N", help="images per prompt (default: %(default)s)")
    add("--chain", metavar="FILE|TEXT", help="draw this plan instead of writing one; - reads standard input")
    add("--plan-only", action="store_true", help="write the plan to --output (a .txt file) and draw nothing")
    add("--batch-size", type=whole(), metavar="N", help="images drawn together (default: by model)")


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is drawn")
    add = group.add_argument
    add("--seed", type=seed, default=SEED, metavar="N", help=f"seed of the noise (default: {SEED})")
    add("--steps", type=whole(), metavar="N", help="denoising steps (default: the model's)")
    add("--width", type=whole(), metavar="PX", help="in pixels, a multiple of the VAE's factor (default: the model's)")
    add("--height", type=whole(), metavar="PX", help="likewise")
    add("--scheduler", choices=tuple(SCHEDULERS), help="the sampler (default: the checkpoint's)")
    add(
        "--max-turns",
        type=whole(),
        metavar="N",
        help=f"most images per request, each upon the last: the model says when it is done (default: {MOST_TURNS} for"
        " edits and in chat, 1 for captions and given plans; 16 with --reference-compat)",
    )
    add("--max-new-tokens", type=whole(), metavar="N", help="longest plan (default: the model's)")
    for name, purpose in _GUIDANCES.items():
        add(f"--{name}", choices=("on", "off"), help=f"{purpose} (default: on)")
        add(f"--{name}-scale", type=number(), metavar="X", help="its strength (default: the model's)")
    add(
        "--guidance-interval",
        type=number(0, 1),
        nargs=2,
        metavar=("FROM", "TO"),
        help="guide in this part of the steps alone, e.g. 0 0.7; the rest is drawn with all conditions, faster",
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is written")
    add = group.add_argument
    add(
        "--output",
        type=Path,
        metavar="FILE|DIR",
        help="an image file, numbered if there are several, or a folder (default: got.png)",
    )
    add("--overwrite", action="store_true", help="replace files that are there; without it they are an error")
    add("--show-chain", action="store_true", help="print the plan as a table too: colour, box and name of each region")
    add("--save-chain", action="store_true", help="write the plan beside the image, NAME-chain.txt")
    add("--save-layout", action="store_true", help="write all boxes in their colours, NAME-layout.png")
    add("--save-masks", action="store_true", help="write an image per box, NAME-mask-0.png, ...")


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model")
    add = group.add_argument
    add("--checkpoint", default="mini", metavar="mini|PATH|HUB_ID", help="weights (default: %(default)s, embedded)")
    add("--device", default="auto", metavar="NAME", help=DEVICES)
    add(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="bfloat16 is faster on GPUs and with AMX, many times slower where it is emulated (default: %(default)s)",
    )
    add(
        "--offload",
        choices=("model", "sequential"),
        help="for a GPU smaller than the model: weights wait in main memory, network by network or layer by layer",
    )
    add(
        "--reference-compat",
        action="store_true",
        help="draw as the released code does where this one differs on purpose (got/released/reference.py lists"
        " where); plans of --plan-only are written the usual way",
    )
    add(
        "--compile",
        action="store_true",
        help="torch compiles the UNet (minutes), which then runs faster; wants a compiler and Python's headers",
    )
    add("--vae-slicing", action="store_true", help="images pass the autoencoder one by one, in less memory")
    add(
        "--vae-tiling", action="store_true", help="they pass it in tiles: large ones in less memory, perhaps with seams"
    )
