"""The wording of judged benchmarks: filled in once, and read from scripts without running them."""

import judged_kit as kit
import pytest

from evals.harness.run_spec import find_suite
from evals.judged import wording


def test_what_is_filled_in_is_never_filled_itself():
    assert wording.fill("{a} {b}", {"{a}": "{b}", "{b}": "{a}"}) == "{b} {a}"


@pytest.mark.parametrize("name", sorted(kit.SCRIPTS))
def test_published_wording_of_each_script_fills_every_question(name, tmp_path):
    """Scripts of the same form that say other things: every question comes out with its own text."""
    suite, root = find_suite(name), tmp_path / "clone"
    file, content = kit.SCRIPTS[name]
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(content)
    published = suite.published(suite.options())
    found = wording.Wording(kind="published", texts=published.read(root / file))
    chosen = wording.choose(f"published:{found.digest}", suite.ours(suite.options()), published, root)
    assert chosen.texts == found.texts
    assert all(text for text in chosen.texts.values())
