"""The page as a person uses it: in headless Chromium, from disk. Skipped where playwright or a browser cannot start."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from browser_kit import CONTRAST
from report_kit import BOTH, CAT, CHAIN, GREEN_DOG, HOSTILE, NO_DOG, WRONG_CHAIN, change_lines, make_ablation, write_run

from reports import __main__ as reports_main
from reports import style


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report on a run with a sample of every kind, one with 70 hostile ones, and an ablation; images beside it."""
    root = tmp_path_factory.mktemp("browser")
    kinds = [(WRONG_CHAIN, NO_DOG, None), (CHAIN, CAT, BOTH), (CHAIN, GREEN_DOG, NO_DOG), (CHAIN, BOTH, None)]
    mini = write_run(root / "mini", kinds)
    evil = write_run(root / "other" / "evil", [(CHAIN, NO_DOG, None)] * 70)
    change_lines(evil / "results.jsonl", prompt=HOSTILE, tag=HOSTILE, reason=HOSTILE)
    change_lines(evil / "chains.jsonl", chain=HOSTILE)
    ablation = make_ablation(root / "parts", {"full": [], "no boxes": ["--spatial", "off"]})
    after = write_run(root / "new" / "mini", [(CHAIN, BOTH, None)] * 4)
    reports = {
        "beside": [mini, evil, ablation, "--pictures", "beside"],
        "inline": [mini, evil, ablation, "--pictures", "inline", "--samples", "all"],
        "compare": ["compare", mini, after],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "FORMATS", {"svg": style.FORMATS["svg"]})
        for name, words in reports.items():
            assert reports_main.main([*map(str, words), "--output", str(root / name)]) == 0
    return root


@pytest.fixture
def opened(chromium, folder):
    """Opens a page; when the test is over it must not have complained or asked for anything but its own images."""
    contexts, complaints, asked = [], [], []

    def open_page(name="beside", width=1280, scheme="light"):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / name / "report.html").as_uri())
        return page

    yield open_page
    root = folder.as_uri()
    assert complaints == []
    assert [url for url in asked if not url.startswith((root, "data:"))] == []
    for context in contexts:
        context.close()


def cards(page):
    return page.locator("#cards .card")


def scroll_to_the_end(page):
    for _ in range(2000):
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(30)
        if page.locator("#more").is_hidden():
            return
    pytest.fail("the page has no end")


@pytest.mark.parametrize("name", ["beside", "inline", "compare"])
def test_no_image_is_missing(opened, name):
    page = opened(name)
    scroll_to_the_end(page)
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    assert page.evaluate("document.images.length") > 0
    assert page.evaluate("[...document.images].filter((image) => !image.naturalWidth).length") == 0
    assert page.evaluate("[...document.images].filter((image) => !image.alt).length") == 0


def test_what_a_run_says_is_never_run(opened):
    page = opened()
    scroll_to_the_end(page)
    page.locator("#by-words").fill("window.planted")
    cards(page).first.locator("button").click()
    assert "<script>" in page.locator("#box-body").inner_text()
    assert page.evaluate("window.planted === undefined")
    assert page.locator("main img[src=x]").count() == 0


def test_samples_appear_in_batches_as_the_reader_scrolls(opened):
    page = opened()
    assert cards(page).count() == 60
    total = int(page.locator("#count").inner_text().split(" of ")[0].replace(",", ""))
    scroll_to_the_end(page)
    assert cards(page).count() == total > 70


def test_filters_and_search_narrow_the_samples(opened):
    page = opened("inline")
    page.locator("#by-run").select_option(label="images per prompt 4 (4)")
    assert cards(page).count() == 4
    page.locator("#by-outcome").select_option("right")
    assert cards(page).count() == 1
    assert page.locator("#count").inner_text().startswith("1 of ")
    page.locator("#by-outcome").select_option("wrong")
    page.locator("#by-stage").select_option("drawing_wrong")
    assert cards(page).locator(".reason").all_text_contents() == ["expected dog>=1, found 0"]
    page.locator("#by-stage").select_option("")
    page.locator("#by-words").fill("GREEN blue")
    assert cards(page).count() == 2, "words of the prompt and of the chain, in any order"
    page.locator("#by-words").fill("00000/2")
    assert cards(page).count() == 1
    page.locator("#by-words").fill("nothing like it")
    assert cards(page).count() == 0
    assert page.locator("#count").inner_text().startswith("0 of ")


def test_the_lightbox_shows_a_sample_and_its_neighbours(opened):
    page = opened()
    page.locator("#by-run").select_option(label="images per prompt 4 (3)")
    cards(page).nth(1).locator("button").click()
    box = page.locator("dialog")
    assert box.is_visible()
    text = box.inner_text()
    for words in ("a photo of a red apple and a blue dog", "expected dog>=1, found 0", "Failed at: drawing", CHAIN):
        assert words in text
    assert "python -m got studio --run " in text
    assert "mini --sample 00000/1" in text
    assert box.locator("rect.line").count() == 4, "two planned boxes, two detected ones"
    assert box.locator(".tag.seen").all_inner_texts() == ["red apple", "cat"]
    page.keyboard.press("ArrowRight")
    assert "detector in doubt" in box.inner_text()
    assert page.locator("#next").is_disabled()
    page.locator("#before").click()
    page.locator("#before").click()
    assert "Failed at: plan" in box.inner_text()
    page.keyboard.press("Escape")
    assert not box.is_visible()
    assert page.evaluate("document.activeElement.closest('.card') === document.querySelector('.card')")


def test_a_command_to_copy_is_quoted(chromium, folder, tmp_path):
    """A key that a shell would take apart, as the command of a page that shows it."""
    key = "it's $(x) a/1"
    text = (folder / "beside" / "report.html").read_text()
    assert '"key":"00000/1"' in text.replace('": "', '":"')
    (tmp_path / "report.html").write_text(re.sub(r'"key": ?"00000/1"', f'"key": "{key}"', text, count=1))
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto((tmp_path / "report.html").as_uri())
        page.locator("#by-words").fill("it's $(x)")
        cards(page).first.locator("button").click()
        command = re.search("python -m got studio .*", page.locator("dialog").inner_text())[0]
    assert shlex.split(command)[-2:] == ["--sample", key]


def test_boxes_can_be_hidden(opened):
    page = opened()
    planned, seen = page.locator("#cards g.planned").first, page.locator("#cards g.seen").first
    assert planned.is_visible()
    page.locator("#show-planned").uncheck()
    assert not planned.is_visible()
    assert seen.is_visible()


def test_tables_sort_within_their_groups(opened):
    page = opened()
    table = page.locator("#table-geneval")

    def names(group):
        return table.locator("tbody").nth(group).locator("th[scope=row]").all_inner_texts()

    before = names(0)
    header = table.locator("thead th").nth(2)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert names(0)[0] == "GoT-6B†"
    assert names(0)[-1] == "Chameleon†", "who has no score is last"
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert names(0)[0] == "LlamaGen†"
    assert names(0)[-1] == "Chameleon†"
    assert sorted(names(0)) == sorted(before)
    assert len(names(1)) == 2, "runs stay in their own group"
    table.locator("thead th").first.locator("button").click()
    assert names(0) == sorted(before, key=lambda name: name.rstrip("†").lower())


def test_flips_stand_side_by_side(opened):
    page = opened("compare")
    assert page.locator("#by-outcome").locator("option").count() == 2, "all, and those that were won"
    assert cards(page).first.locator("img").count() == 2
    cards(page).first.locator("button").click()
    assert page.locator("#box-body h3", has_text="before").is_visible()
    assert page.locator("#box-body h3", has_text="after").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(opened, width):
    page = opened(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cards(page).first.locator("button").click()
    assert page.locator("dialog").evaluate("(box) => box.scrollWidth <= box.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(opened, scheme):
    page = opened(scheme=scheme)
    assert page.evaluate(CONTRAST) == []


def test_light_and_dark_follow_the_system_and_the_switch(opened):
    page = opened(scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.locator("#theme").click()
    light = page.evaluate(ground)
    assert dark != light == opened().evaluate(ground)
    ink = page.locator(".drawing svg").first.evaluate("(svg) => getComputedStyle(svg).getPropertyValue('--ink')")
    assert ink.strip() == "#1b1b1c", "drawings follow"


def test_paper_is_light_and_has_no_controls(opened):
    page = opened(scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--paper')").strip() == "#fdfdfe"
    for part in ("#filters", "#theme", "nav"):
        assert not page.locator(part).is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
    heads = page.locator("thead button")
    assert heads.first.evaluate("(head) => getComputedStyle(head).display") == "contents", "drawn on each page"
    for rows, breaks in ((16, "avoid"), (17, "auto")):
        page.evaluate("(rows) => { document.body.innerHTML = `<table>${'<tr><td>a'.repeat(rows)}</table>` }", rows)
        assert page.locator("table").evaluate("(table) => getComputedStyle(table).breakInside") == breaks


_DRIVERS = {
    "driver's library": """#!/bin/sh
echo "node: error while loading shared libraries: libatomic.so.1: cannot open shared object file" >&2
exit 127
""",
    "driver's last words": "#!/bin/sh\nexit 7\n",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("driver", "playwright's driver cannot start: "),
        ("driver's library", "playwright's driver cannot start: node: error .* libatomic"),
        ("driver's last words", "playwright's driver cannot start: exit code 7"),
        ("playwright's library", r"could not import 'playwright.sync_api': libstdc\+\+"),
    ],
)
def test_these_tests_are_skipped_where_playwright_cannot_start(tmp_path, missing, reason):
    environment, node = dict(os.environ, PLAYWRIGHT_NODEJS_PATH=str(tmp_path / "node")), tmp_path / "node"
    if missing in _DRIVERS:
        node.write_text(_DRIVERS[missing])
        node.chmod(0o755)
    elif missing == "playwright's library":
        (tmp_path / "greenlet.py").write_text("raise ImportError('libstdc++.so.6: cannot open shared object file')")
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    words = ["-q", "-p", "no:cacheprovider", "-k", "test_boxes_can_be_hidden", __file__]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 5), done.stdout  # 5: not even collected
    assert re.search(f"SKIPPED.*{reason}", done.stdout), done.stdout
