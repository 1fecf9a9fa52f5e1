"""The studio as a person uses it: headless Chromium, mini, the icon world's detector; skipped without a browser."""

import base64
import re
from urllib.parse import urlsplit

import pytest
from browser_kit import CONTRAST, NAMELESS
from PIL import Image
from report_kit import BOTH, CHAIN, NO_DOG, write_run

from evals.geneval.observer import Observer
from got import checkpoint
from got.conversation import Conversation
from got.util.images import png_bytes
from reports.studio import StudioRun

pytest.importorskip("starlette", reason="the studio needs starlette")
pytest.importorskip("uvicorn", reason="the studio needs uvicorn")
expect = pytest.importorskip("playwright.sync_api", exc_type=ImportError).expect

import studio_kit  # noqa: E402

pytestmark = pytest.mark.slow
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)
PROMPT = "a photo of a red apple and a blue dog"


@pytest.fixture(scope="module")
def mini():
    pipeline = checkpoint.load()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def observer():
    return Observer("icon", "cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="module")
def address(root, mini, observer):
    with studio_kit.served(root, mini, "--max-upload=1", observer=observer) as address:
        yield address


@pytest.fixture
def opened(chromium, address):
    """Opens pages; when the test is over they must not have complained or asked any other machine for anything."""
    contexts, complaints, asked = [], [], []

    def open_page(place=None, width=1280, scheme="light"):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(place or address)
        page.wait_for_selector("body[data-ready]")
        return page

    # What the browser itself says of an answer that refuses something.
    open_page.expected = ["Failed to load resource: the server responded with a status of 400 (Bad Request)"]
    yield open_page
    assert [words for words in complaints if words not in open_page.expected] == []
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:http://127.0.0.1:"))] == []
    for context in contexts:
        context.close()


def wait_for(page, number):
    """Until an image is shown, and the page is at rest."""
    page.wait_for_selector(f"#shown[src$='/{number}.png']")
    expect(page.locator("#stop")).to_be_hidden()


def draw(page, prompt=PROMPT, number=0):
    page.fill("#prompt", prompt)
    page.press("#prompt", "Enter")
    wait_for(page, number)


def session_of(page):
    return re.search(r"session=([\w-]+)", page.url)[1]


def centre(locator):
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def test_a_box_is_dragged_and_renamed_and_the_redrawing_follows(opened, root):
    page = opened()
    draw(page)
    expect(page.locator("#regions .said")).to_have_text([re.compile("✓.*red"), re.compile("✓.*blue")])
    canvas = page.locator("#canvas").bounding_box()
    before = [int(number) for number in re.findall(r"\d+", page.input_value("#chain"))]
    drag(
        page,
        centre(page.locator(".box").nth(1)),
        (canvas["x"] + 0.27 * canvas["width"], canvas["y"] + 0.75 * canvas["height"]),
    )
    page.locator("#regions input").nth(1).fill("a green cat")
    page.locator("#regions input").nth(1).press("Enter")
    expect(page.locator("#chain")).to_have_value(re.compile("a red apple .* a green cat "))
    after = [int(number) for number in re.findall(r"\d+", page.input_value("#chain"))]
    assert after[:4] == before[:4]
    assert after[6] - after[4] == before[6] - before[4], "moved, and of the same size"
    assert after[4] < before[4] - 100
    expect(page.locator("#mirror .name")).to_have_text(["a red apple", "a green cat"])
    page.click("#revise")
    wait_for(page, 1)
    said = page.locator("#regions .said")
    expect(said).to_have_text([re.compile("✓.*red"), re.compile("✓.*green")])
    assert float(re.search(r"IoU ([\d.]+)", said.nth(1).inner_text())[1]) >= 0.5, "found in its new place"
    expect(page.locator("#slide")).to_be_visible()
    expect(page.locator("#under")).to_have_attribute("src", re.compile("/0.png$"))
    talk = Conversation.load(root / session_of(page))
    assert [entry.seed for entry in talk.entries] == [42, 42]
    page.keyboard.press("Control+z")
    wait_for(page, 0)


def test_text_and_boxes_follow_each_other_and_faults_are_underlined(opened):
    page = opened()
    page.fill("#prompt", PROMPT)
    page.click("#think")
    expect(page.locator(".box")).to_have_count(2)
    whole = page.input_value("#chain")
    page.fill("#chain", whole.replace("<|box_end|>", "<|box_e", 1))
    expect(page.locator(".box")).to_have_count(1)
    expect(page.locator("#mirror .fault")).to_contain_text("<|box_start|>")
    expect(page.locator("#faults li")).to_contain_text("malformed box left out")
    assert page.input_value("#chain") == whole.replace("<|box_end|>", "<|box_e", 1), "nothing is lost"
    page.keyboard.press("Control+z")
    expect(page.locator("#chain")).to_have_value(whole)
    box = page.locator(".box").first
    box.focus()
    x1, y1, x2, y2 = (int(number) for number in re.findall(r"\d+", whole)[:4])
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator("#chain")).to_have_value(re.compile(re.escape(f"({x1 + 10},{y1 + 10}),({x2},{y2 + 10})")))
    page.keyboard.press("Delete")
    expect(page.locator(".box")).to_have_count(1)
    page.click("#add")
    expect(page.locator("#regions input").last).to_be_focused()
    page.keyboard.type("a yellow cup")
    page.keyboard.press("Enter")
    expect(page.locator("#chain")).to_have_value(re.compile("a yellow cup <"))
    page.click("#revise")
    wait_for(page, 0)
    expect(page.locator("#regions .said").nth(1)).to_have_text(re.compile("✓.*yellow"))


def test_an_upload_is_edited_in_steps_undone_and_there_after_a_reload(opened, root, tmp_path):
    source = opened()
    draw(source)
    Image.open(root / session_of(source) / "0000.png").save(file := tmp_path / "photo.webp", lossless=True)
    page = opened()
    page.set_input_files("#upload", file)
    wait_for(page, 0)
    assert page.locator("[name=mode][value=edit]").is_checked()
    draw(page, "replace the apple with a cat , then turn the background pink", 2)
    expect(page.locator("#made img")).to_have_count(2)
    expect(page.locator(".branch button")).to_have_count(3)
    with page.expect_download() as kept:
        page.click("#get-chain")
    assert kept.value.path().read_text() == Conversation.load(root / session_of(page)).entry.chain + "\n"
    page.check("#show-changed")
    expect(page.locator("#changed")).to_be_visible()
    page.check("#beside")
    expect(page.locator("#left img")).to_be_visible()
    page.click("#undo")
    wait_for(page, 1)
    page.click("#undo")
    wait_for(page, 0)
    draw(page, "make the dog green", 3)
    page.reload()
    wait_for(page, 3)
    expect(page.locator(".branch button")).to_have_count(4)
    expect(page.locator("#chain")).to_have_value(re.compile("dog"))


HAND_OVER = """([kind, target, type, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)), transfer = new DataTransfer();
  if (type) transfer.items.add(new File([bytes], "photo", { type })); else transfer.setData("text/plain", atob(base64));
  const about = { bubbles: true, cancelable: true };
  const event = kind === "paste" ? new ClipboardEvent(kind, { ...about, clipboardData: transfer })
    : new DragEvent(kind, { ...about, dataTransfer: transfer });
  document.querySelector(target).dispatchEvent(event);
  return event.defaultPrevented;
}"""


def hand_over(page, kind, target, content, type="image/png"):
    """Pastes or drops a file, or a text where there is no type; whether the page takes it instead of the browser."""
    return page.evaluate(HAND_OVER, [kind, target, type, base64.b64encode(content).decode()])


@pytest.mark.parametrize(
    ("kind", "target"), [("paste", "#prompt"), ("paste", "body"), ("drop", "#canvas"), ("drop", "h1")]
)
def test_an_image_is_pasted_and_dropped(opened, root, kind, target):
    page, image = opened(), Image.effect_noise((40, 24), 90).convert("RGB")
    assert not hand_over(page, kind, target, b"only words", type=""), "words go where they are meant to"
    assert hand_over(page, "dragover", "body", png_bytes(image))
    expect(page.locator("body")).to_have_class("dropping")
    hand_over(page, kind, target, png_bytes(image))
    wait_for(page, 0)
    assert page.locator("[name=mode][value=edit]").is_checked()
    assert Conversation.load(root / session_of(page)).image.tobytes() == image.tobytes()
    hand_over(page, kind, target, b"no image")
    expect(page.locator("#upload-problem")).to_have_text(re.compile("Expected an image"))
    expect(page.locator(".branch button")).to_have_count(1)


def test_a_plan_made_by_hand_is_drawn_first_and_a_planned_edit_stays_one(opened, root):
    page = opened()
    canvas = page.locator("#canvas").bounding_box()
    drag(page, (canvas["x"] + 40, canvas["y"] + 60), (canvas["x"] + 260, canvas["y"] + 290))
    expect(page.locator("#regions input")).to_be_focused()
    page.keyboard.type("a red apple")
    page.keyboard.press("Enter")
    expect(page.locator(".box .tag")).to_have_text(["a red apple"])
    page.keyboard.press("Control+Enter")
    wait_for(page, 0)
    expect(page.locator("#regions .said")).to_have_text([re.compile("✓.*red")])
    page.fill("#chain", "a red apple (0,0),(450,450) and a blue dog (500,500),(990,990)")
    expect(page.locator("#chain")).to_have_value(re.compile(r"apple <\|box_start\|>.* \(green\)$"))
    page.check("[name=mode][value=edit]")
    page.fill("#prompt", "make the apple green")
    page.click("#think")
    expect(page.locator("#caption")).to_have_text("Planned, not drawn yet: make the apple green")
    page.click("#revise")
    wait_for(page, 1)
    entry = Conversation.load(root / session_of(page)).entry
    assert (entry.kind, entry.source, entry.given, entry.instruction) == ("edited", 0, True, "make the apple green")


def test_two_tabs_do_not_disturb_each_other_and_one_is_stopped(opened):
    one, two = opened(), opened()
    one.click("#settings summary")
    one.fill("#num_inference_steps", "400")
    one.fill("#prompt", PROMPT)
    one.press("#prompt", "Enter")
    expect(one.locator("#progress")).to_be_visible()
    two.fill("#prompt", "a photo of two clocks")
    two.press("#prompt", "Enter")
    expect(two.locator("#status")).to_have_text(re.compile("1 request is before yours"))
    one.click("#stop")
    expect(one.locator("#status")).to_have_text(re.compile("Stopped"))
    wait_for(two, 0)
    assert session_of(one) != session_of(two)
    one.fill("#num_inference_steps", "")
    draw(one)
    expect(one.locator(".branch")).to_have_count(1)
    expect(two.locator("#caption")).to_have_text(re.compile("two clocks"))
    expect(two.locator("#verdict")).to_have_text(re.compile(r"GenEval \d+ \(counting\): (right|wrong)"))


def begin_a_long_drawing(page, steps=400):
    page.click("#settings summary")
    page.fill("#num_inference_steps", str(steps))
    page.fill("#prompt", "a photo of two clocks")
    page.press("#prompt", "Enter")
    expect(page.locator("#progress")).to_be_visible()


def test_a_page_that_is_loaded_again_goes_on_with_its_drawing(opened, root):
    page = opened()
    begin_a_long_drawing(page, steps=100)
    page.reload()
    expect(page.locator("#progress")).to_be_visible()
    expect(page.locator("#status")).to_have_text(re.compile("Drawing, step .* of 100"))
    expect(page.locator(".box")).to_have_count(2)
    expect(page.locator("#prompt")).to_have_value("a photo of two clocks")
    expect(page.locator("#draw")).to_be_disabled()
    wait_for(page, 0)
    expect(page.locator("#regions .said")).to_have_text([re.compile("✓|✗")] * 2)
    (entry,) = Conversation.load(root / session_of(page)).entries
    assert entry.options["num_inference_steps"] == 100
    begin_a_long_drawing(page)
    page.reload()
    page.click("#stop")
    expect(page.locator("#status")).to_have_text(re.compile("Stopped"))
    draw(page, number=1)


def test_a_studio_that_was_killed_and_begun_again_has_the_session_of_the_page(opened, tmp_path):
    opened.expected.append("Failed to load resource: net::ERR_INCOMPLETE_CHUNKED_ENCODING")
    running = studio_kit.Running(tmp_path / "one", tmp_path / "talks")
    page = opened(running.visitor.address)
    draw(page)
    plan = page.input_value("#chain")
    for number, folder in enumerate(["two", "three"]):
        begin_a_long_drawing(page)
        running.process.kill()
        expect(page.locator("#problem")).to_have_text(re.compile("ended while it was drawing"))
        running.process.wait()
        port = urlsplit(running.visitor.address).port
        running = studio_kit.Running(tmp_path / folder, tmp_path / "talks", f"--port={port}")
        page.reload()
        wait_for(page, number)
        expect(page.locator("#chain")).to_have_value(plan)
        draw(page, number=number + 1)
    fresh = opened(running.visitor.address)
    begin_a_long_drawing(fresh)
    running.process.kill()
    running.process.wait()
    running = studio_kit.Running(tmp_path / "four", tmp_path / "talks", f"--port={port}")
    fresh.fill("#num_inference_steps", "")
    draw(fresh)  # on a page that was not loaded again, whose session had no image yet
    running.process.kill()
    running.process.wait()


@pytest.mark.parametrize(
    ("name", "content"), [("a.png", b"no image"), ("b.png", b"\0" * 1_200_000), ("c.gif", b"GIF89a")]
)
def test_a_bad_upload_is_told_where_it_happens(opened, tmp_path, name, content):
    page = opened()
    (tmp_path / name).write_bytes(content)
    page.set_input_files("#upload", tmp_path / name)
    expect(page.locator("#upload-problem")).to_have_text(re.compile("[Ee]xpected"))


def test_words_of_others_are_never_run(opened):
    page = opened()
    hostile = "<img src=x onerror=window.planted=1><script>window.planted=1</script>"
    page.fill("#chain", f"{hostile} <|box_start|>(0,0),(900,900)<|box_end|> (red)")
    expect(page.locator(".box")).to_have_count(1)
    page.fill("#prompt", "a photo of a dog")
    page.click("#think")
    expect(page.locator("#chain")).to_have_value(re.compile("dog"))
    page.locator("#regions input").first.fill(hostile)
    page.locator("#regions input").first.press("Enter")
    expect(page.locator(".box .tag")).to_have_text(hostile)
    assert page.evaluate("window.planted === undefined")
    assert page.locator("img[src=x]").count() == 0


LEFT_TO_RIGHT = """(id) => {
  const text = [...document.getElementById(id).childNodes].at(-1), at = (place) => {
    const range = document.createRange();
    range.setStart(text, place);
    range.setEnd(text, place + 1);
    return range.getBoundingClientRect().left;
  };
  return at(text.length - 2) < at(text.length - 1);
}"""


def test_signs_for_the_direction_of_writing_turn_nothing_round_and_are_copied(opened):
    page = opened()
    draw(page, "a \u202ered apple")
    expect(page.locator("#caption")).to_contain_text("#0 Image: a \u202ered apple, seed 42")
    expect(page.locator("#command")).to_contain_text("'a \u202ered apple' --seed=42")
    assert page.evaluate(LEFT_TO_RIGHT, "command")
    page.click("#undo")
    page.fill("#prompt", "an \u202eapple")
    page.click("#think")
    expect(page.locator("#caption")).to_have_text("Planned, not drawn yet: an \u202eapple")


def test_a_slip_in_the_settings_is_told_by_the_name_that_the_page_gives_it(opened):
    page = opened()
    page.click("#settings summary")
    page.fill("#prompt", PROMPT)
    slips = [
        ("num_inference_steps", "5000", "Expected Steps to be at most 1000 but got 5000"),
        ("spatial_scale", "1e9", "Expected Scale of the guidance by the plan's boxes to be a finite number"),
        ("images", "0", "Expected 1 to 8 images but got 0"),
        ("seed", "-1", "Expected a seed that is a whole number from 0 up"),
    ]
    for name, value, words in slips:
        usual = page.input_value(f"#{name}")
        page.fill(f"#{name}", value)
        page.click("#draw")
        expect(page.locator("#problem")).to_contain_text(words)
        page.fill(f"#{name}", usual)


def test_a_request_that_ends_without_an_image_leaves_a_changed_plan_as_it_is(opened):
    page = opened()
    page.fill("#chain", "a cup (0,0),(500,500)")
    expect(page.locator(".box")).to_have_count(1)
    by_hand = page.input_value("#chain")
    page.click("#draw")
    expect(page.locator("#problem")).to_contain_text("Expected a prompt")
    assert page.input_value("#chain") == by_hand
    draw(page)
    page.locator(".box").first.press("ArrowDown")
    expect(page.locator("#regions .said").first).to_have_text(re.compile(r"^\d+, \d+, \d+, \d+$"))
    changed = page.input_value("#chain")
    page.fill("#prompt", "")
    page.click("#draw")
    expect(page.locator("#problem")).to_contain_text("Expected a prompt")
    assert page.input_value("#chain") == changed
    page.click("#explain")
    expect(page.locator("#strip img")).to_have_count(5)
    expect(page.locator("#stop")).to_be_hidden()
    assert page.input_value("#chain") == changed
    page.locator("body").press("Control+z")
    expect(page.locator("#chain")).not_to_have_value(changed)


def test_a_plan_that_is_changed_while_it_is_drawn_is_there_after_a_stop(opened):
    page = opened()
    page.click("#settings summary")
    page.fill("#num_inference_steps", "1000")
    page.fill("#prompt", PROMPT)
    page.press("#prompt", "Enter")
    expect(page.locator(".box")).to_have_count(2)
    before = page.input_value("#chain")
    page.locator(".box").first.press("ArrowDown")
    expect(page.locator("#chain")).not_to_have_value(before)
    changed = page.input_value("#chain")
    page.click("#stop")
    expect(page.locator("#stop")).to_be_hidden()
    assert page.input_value("#chain") == changed


def test_what_an_edit_took_away_has_no_cross(opened):
    page = opened()
    draw(page)
    page.check("[name=mode][value=edit]")
    draw(page, "remove the dog", 1)
    expect(page.locator("#regions .said")).to_have_text(["not found"])
    expect(page.locator("#regions .said")).to_have_class("said ")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_can_be_read_and_fits(opened, width, scheme):
    page = opened(width=width, scheme=scheme)
    assert page.locator("#examples button").count() == 5
    page.locator("#examples button").nth(1).click()
    wait_for(page, 0)
    page.click("#settings summary")
    page.click("#explain")
    expect(page.locator("#strip img")).to_have_count(5)
    expect(page.locator("#conditions img")).to_have_count(3)
    expect(page.locator("#stop")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(NAMELESS) == []
    page.select_option("#theme", "dark" if scheme == "light" else "light")
    assert page.evaluate(CONTRAST) == []
    page.click("#sessions-open")
    expect(page.locator("#sessions a").first).to_be_visible()


def test_a_sample_of_a_run_is_opened_and_changed(opened, mini, observer, tmp_path):
    run = StudioRun(write_run(tmp_path / "run", [(CHAIN, NO_DOG, None), (CHAIN, BOTH, None)]))
    with studio_kit.served(tmp_path / "talks", mini, observer=observer, run=run) as place:
        page = opened(f"{place}/?sample=00000/0")
        expect(page.locator("#run-title")).to_have_text(f"Samples of {tmp_path / 'run'}")
        said = [re.compile("00000/0 .*: wrong, expected dog"), re.compile("right")]
        expect(page.locator("#samples small")).to_have_text(said)
        expect(page.locator("#regions .said")).to_have_text(["✗ not found"] * 2)
        page.click("#revise")
        wait_for(page, 1)
        expect(page.locator("#regions .said")).to_have_text([re.compile("✓")] * 2)
        page.locator("#samples button").last.click()
        wait_for(page, 0)
    assert sorted(len(Conversation.load(session).entries) for session in (tmp_path / "talks").iterdir()) == [1, 2]
