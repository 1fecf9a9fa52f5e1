import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from got.plan.chain import Chain, format_box
from got.plan.layout import black_image, draw_layout, draw_mask, draw_overview


def painted(mask):
    """Columns and rows of the first and last painted pixel, or None."""
    rows, columns = np.nonzero(np.asarray(mask).any(2))
    return None if not len(rows) else (columns.min(), rows.min(), columns.max(), rows.max())


@pytest.mark.parametrize(
    ("box_1000", "expected"),
    [
        ((0, 0, 500, 500), (0, 0, 32, 32)),  # both corners are painted
        ((120, 300, 480, 660), (7, 19, 30, 42)),  # 7.68, 19.2, 30.72 and 42.24 are truncated
        ((0, 0, 1000, 1000), (0, 0, 63, 63)),  # the far edge is cut off
        ((505, 505, 505, 505), (32, 32, 32, 32)),  # a point is one pixel
        ((999, 0, 999, 999), (63, 0, 63, 63)),
        ((1000, 1000, 1500, 1500), None),  # outside
        ((900, 900, 999_999_999, 999_999_999), (57, 57, 63, 63)),  # larger than what a 32-bit coordinate holds
    ],
)
def test_rectangles_are_truncated_inclusive_and_clipped(box_1000, expected):
    assert painted(draw_mask(box_1000, "red", 64, 64)) == expected


def test_width_and_height_scale_on_their_own():
    assert painted(draw_mask((500, 500, 750, 750), "red", 128, 64)) == (64, 32, 96, 48)


@given(
    st.tuples(st.integers(0, 1500), st.integers(0, 1500)).map(sorted),
    st.tuples(st.integers(0, 1500), st.integers(0, 1500)).map(sorted),
)
def test_a_mask_is_the_plain_loop_over_its_pixels(x, y):
    mask = np.asarray(draw_mask((x[0], y[0], x[1], y[1]), "lime", 24, 16))
    expected = np.zeros((16, 24, 3), np.uint8)
    for row in range(16):
        for column in range(24):
            inside_x = int(x[0] / 1000 * 24) <= column <= int(x[1] / 1000 * 24)
            if inside_x and int(y[0] / 1000 * 16) <= row <= int(y[1] / 1000 * 16):
                expected[row, column] = (0, 255, 0)
    np.testing.assert_array_equal(mask, expected)


def test_one_mask_per_region_in_its_own_color():
    text = " ".join(format_box((0, 0, 500, 500), color) for color in ("green", "lime", "Gray"))
    colors = [mask.getpixel((0, 0)) for mask in draw_layout(Chain.parse(text), 8, 8)]
    assert colors == [(0, 128, 0), (0, 255, 0), (128, 128, 128)]


def test_no_region_gives_one_black_mask():
    (mask,) = draw_layout(Chain.parse("nothing here"), 16, 8)
    assert mask.size == (16, 8)
    assert mask.mode == "RGB"
    assert mask.tobytes() == black_image(16, 8).tobytes() == bytes(16 * 8 * 3)


@given(st.text(max_size=40))
def test_whatever_was_parsed_can_be_drawn(text):
    chain = Chain.parse(f"{text}<|box_start|>(1,2),(3,4)<|box_end|> ({text})")
    assert len(draw_layout(chain, 8, 8)) == max(1, len(chain.regions))


def test_the_overview_shows_every_box_even_one_that_is_listed_before_a_larger_one():
    text = "a <|box_start|>(200,200),(400,400)<|box_end|> (lime) b <|box_start|>(0,0),(900,900)<|box_end|> (blue)"
    overview = draw_overview(Chain.parse(text), 50, 50)
    assert [overview.getpixel(at) for at in ((15, 15), (30, 30), (48, 48))] == [(0, 255, 0), (0, 0, 255), (0, 0, 0)]
    assert draw_overview(Chain.parse("no boxes"), 4, 2).getextrema() == ((0, 0), (0, 0), (0, 0))
