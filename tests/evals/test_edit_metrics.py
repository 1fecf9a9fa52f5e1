"""Each metric against an implementation that is not ours: torchmetrics, scikit-image, torch, or a loop."""

import io

import numpy as np
import pytest
import torch
import torchmetrics.functional.image as reference
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evals.core.records import EditCase, EncodedImage, UserError
from evals.editing.metrics import Comparison, compare
from evals.embedders.lpips import make_lpips
from evals.metrics import embeddings, images, smartedit


def noise(seed, height=40, width=56):
    rng = np.random.default_rng(seed)
    return rng.random((height, width, 3))


def tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def as_image(pixels):
    return Image.fromarray(np.uint8(255 * pixels))


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def some_mask(seed, height=40, width=56):
    return np.random.default_rng(seed).random((height, width)) > 0.6


# --------------------------------------------------------------------------------------------------------------- pixels
def test_l1_and_l2_are_torchs_losses():
    a, b = noise(0), noise(1)
    assert images.pixel_scores(a, b)["l1"].value == pytest.approx(torch.nn.L1Loss()(tensor(a), tensor(b)).item())
    assert images.l2(a, b).value == pytest.approx(torch.nn.MSELoss()(tensor(a), tensor(b)).item())


@pytest.mark.parametrize("shift", [0.001, 0.1, 0.9])
def test_psnr_is_torchmetrics(shift):
    a = noise(0)
    b = np.clip(a + shift * (noise(1) - 0.5), 0, 1)
    expected = reference.peak_signal_noise_ratio(tensor(b), tensor(a), data_range=1.0)
    assert images.psnr(a, b).value == pytest.approx(expected.item())


@pytest.mark.parametrize("size", [(40, 56), (11, 17), (64, 64)])
@pytest.mark.parametrize("shift", [0.0, 0.05, 1.0])
def test_ssim_is_torchmetrics(size, shift):
    a = noise(0, *size)
    b = np.clip(a + shift * (noise(1, *size) - 0.5), 0, 1)
    expected, full = reference.structural_similarity_index_measure(
        tensor(b), tensor(a), data_range=1.0, return_full_image=True
    )
    assert images.ssim(a, b).value == pytest.approx(expected.item(), abs=1e-9)
    assert np.allclose(images.ssim_map(a, b), full[0].permute(1, 2, 0).numpy(), atol=1e-9)


def test_ssim_inside_the_image_is_scikit_images():
    from skimage.metrics import structural_similarity

    a, b = noise(0), np.clip(noise(0) + 0.2 * noise(1), 0, 1)
    _, full = structural_similarity(
        a, b, data_range=1.0, channel_axis=2, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    assert np.allclose(images.ssim_map(a, b)[5:-5, 5:-5], full[5:-5, 5:-5], atol=1e-9)


def test_a_region_is_a_plain_loop_over_its_pixels():
    a, b, mask = noise(0), noise(1), some_mask(2)
    inside = [abs(a[y, x, c] - b[y, x, c]) for y in range(40) for x in range(56) for c in range(3) if mask[y, x]]
    assert images.pixel_scores(a, b, mask)["l1_inside"].value == pytest.approx(sum(inside) / len(inside))
    squares = [d * d for d in inside]
    assert images.psnr(a, b, mask).value == pytest.approx(10 * np.log10(1 / np.mean(squares)))


@given(st.integers(0, 2**32 - 1))
def test_inside_and_outside_add_up_to_the_whole(seed):
    a, b, mask = noise(seed, 12, 14), noise(seed + 1, 12, 14), some_mask(seed, 12, 14)
    scores = images.pixel_scores(a, b, mask)
    share = mask.mean()
    for name in ("l1", "l2", "ssim"):
        parts = [(scores[f"{name}_inside"], share), (scores[f"{name}_outside"], 1 - share)]
        whole = sum(part.value * weight for part, weight in parts if part.value is not None)
        assert whole == pytest.approx(scores[name].value)


def test_what_is_undefined_says_why():
    a = noise(0)
    nowhere = np.zeros(a.shape[:2], bool)
    assert images.psnr(a, a).undefined == images.EQUAL_IMAGES
    assert images.l2(a, a, nowhere) == images.Score(value=None, undefined=images.EMPTY_REGION)
    assert images.psnr(a, a, nowhere).undefined == images.EMPTY_REGION
    assert images.ssim(a, a).value == pytest.approx(1)


def test_images_of_two_sizes_are_refused_not_broadcast():
    with pytest.raises(ValueError, match="of one size"):
        images.l2(np.zeros((4, 4, 3)), np.zeros((1, 4, 3)))
    with pytest.raises(ValueError, match="Expected a mask of"):
        images.l2(noise(0), noise(1), np.ones((4, 4), bool))


def test_smartedits_background_counts_the_hole_as_equal():
    """The public way and the masked way are two metrics: the first rises with the mask."""
    a, b = noise(0, 64, 64), noise(1, 64, 64)
    mask = np.zeros((64, 64), bool)
    mask[:32] = True
    levels = np.where(mask, 255, 0)
    whole = images.psnr(smartedit.hidden(a, levels), smartedit.hidden(b, levels)).value
    expected = reference.peak_signal_noise_ratio(
        tensor(a * ~mask[..., None]), tensor(b * ~mask[..., None]), data_range=1.0
    ).item()
    assert whole == pytest.approx(expected)
    assert whole == pytest.approx(images.psnr(a, b, ~mask).value + 10 * np.log10(2), abs=0.2)


def test_smartedits_script_is_followed_step_by_step():
    """The public script's own steps with torch and torchmetrics: JPEG mask with its noise, 256 px, whole frame."""
    rng = np.random.default_rng(5)
    source, result = (Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8)) for _ in range(2))
    levels = np.zeros((90, 120), np.uint8)
    levels[20:60, 30:90] = 250
    levels[0, 0] = 3
    got = smartedit.background(source, result, levels)
    mask = torch.from_numpy(np.array(Image.fromarray(levels).resize((256, 256), Image.Resampling.NEAREST))) / 255
    a, b = (
        torch.from_numpy(np.array(image.resize((256, 256), Image.Resampling.BICUBIC))).permute(2, 0, 1)[None] / 255
        for image in (source, result)
    )
    a, b = a * (1 - mask), b * (1 - mask)
    assert got["psnr"].value == pytest.approx(reference.peak_signal_noise_ratio(b, a, data_range=1.0).item(), abs=1e-3)
    expected = reference.structural_similarity_index_measure(b, a, data_range=1.0).item()
    assert got["ssim"].value == pytest.approx(expected, abs=1e-4)
    assert got["l2"].value == pytest.approx(torch.nn.functional.mse_loss(b, a).item(), rel=1e-4)
    assert smartedit.background(source, source, levels)["psnr"].undefined == images.EQUAL_IMAGES


def test_smartedits_foreground_is_what_its_script_cuts_out():
    """Any level above 0 belongs to the script's box, whose last row and column are lost; ours are those above 127."""
    result = Image.fromarray((noise(4, 256, 256) * 255).astype(np.uint8))
    levels = np.zeros((256, 256), np.uint8)
    levels[20:61, 30:91] = 250
    levels[10, 5] = 3  # noise of a JPEG file
    rows, columns = np.where(levels != 0)
    theirs = np.asarray(result)[rows.min() : rows.max(), columns.min() : columns.max()]
    np.testing.assert_array_equal(np.asarray(smartedit.foreground(result, levels, as_smartedit=True)), theirs)
    np.testing.assert_array_equal(
        np.asarray(smartedit.foreground(result, levels > 127)), np.asarray(result)[20:61, 30:91]
    )
    assert smartedit.foreground(result, np.zeros((9, 9), bool)) is None


def test_results_are_brought_to_the_sources_size_as_the_protocol_has_it():
    source, result = Image.new("RGB", (30, 20), "#204060"), Image.fromarray((noise(3) * 255).astype(np.uint8))
    _, b = images.pair(source, result, images.FRAMES["emu-edit"])
    expected = np.asarray(result.resize((30, 20), Image.Resampling.BICUBIC)) / 255
    assert np.array_equal(b, expected)
    a, b = images.pair(source, result, images.FRAMES["imagenhub"])
    assert a.shape == b.shape == (512, 512, 3)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (20, 28), (80, 112)])
def test_a_mask_is_resized_as_pillow_does_with_nearest(height, width):
    mask = some_mask(4, 40, 56)
    expected = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    assert np.array_equal(images.fit_mask(mask, height, width), expected)


def test_a_box_around_a_mask_is_pillows():
    mask = np.zeros((20, 30), np.uint8)
    mask[4:9, 11:25] = 255
    assert images.mask_box(mask) == Image.fromarray(mask).getbbox()
    assert images.mask_box(np.zeros((5, 5))) is None


# ----------------------------------------------------------------------------------------------------------- embeddings
def test_cosines_are_torchs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 9, 16))
    expected = torch.nn.functional.cosine_similarity(torch.from_numpy(a), torch.from_numpy(b))
    assert [s.value for s in embeddings.cosines(a, b)] == pytest.approx(expected.tolist())


def test_directions_are_torchs_cosine_of_the_changes_of_unit_vectors():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(4, 9, 16))
    unit = torch.nn.functional.normalize(torch.from_numpy(vectors), dim=-1)
    expected = torch.nn.functional.cosine_similarity(unit[1] - unit[0], unit[3] - unit[2])
    assert [s.value for s in embeddings.clip_directions(*vectors)] == pytest.approx(expected.tolist())


def test_rounding_does_not_push_a_cosine_over_one():
    vectors = np.random.default_rng(2).normal(size=(200, 8)).astype(np.float32)
    assert max(s.value for s in embeddings.cosines(vectors, vectors * 3)) <= 1


# ---------------------------------------------------------------------------------------- the comparisons of an edit
@pytest.mark.parametrize("protocol", sorted(images.FRAMES))
@pytest.mark.parametrize("sides", [((40, 56), (40, 56)), ((40, 56), (30, 30))])
def test_images_compared_in_threads_are_those_compared_one_by_one(protocol, sides):
    """Whatever their order, and where sizes differ, at the size of the first of a pair."""
    frame = images.FRAMES[protocol]
    levels = Image.fromarray(np.uint8(255 * some_mask(9)))
    stored = EncodedImage(name="mask", read=lambda: png(levels))
    edits = [EditCase(id=f"{i}", instruction="", source=stored, mask=stored, category="add") for i in range(3)]
    mask = np.asarray(levels) > 127
    triples = [[as_image(noise(10 * i + k, *sides[k % 2])) for k in range(3)] for i in range(3)]
    compared = [Comparison(edit, mask, frame) for edit in edits]
    sources, results, targets = zip(*triples, strict=True)
    compare(compared, sources, results, [*targets[:2], None])
    for one, (source, result, target) in zip(compared, triples, strict=True):
        pairs = [(source, result), (result, source), (target, result), (source, target), (source, source)]
        for a, b in pairs if one is compared[0] else pairs[:1]:
            scores, background = one(a, b)
            alone = images.pixel_scores(*images.pair(a, b, frame), mask)
            assert {name: score.value for name, score in scores.items()} == pytest.approx(
                {name: score.value for name, score in alone.items()}, nan_ok=True
            )
            expected = smartedit.background(a, b, np.asarray(levels)) if protocol == "smartedit" else {}
            assert {name: score.value for name, score in background.items()} == pytest.approx(
                {name: score.value for name, score in expected.items()}, nan_ok=True
            )


def test_a_pair_of_images_is_compared_once(monkeypatch):
    calls = []
    monkeypatch.setattr(images, "pixel_scores", lambda *_: calls.append(1) or {})
    one = Comparison(EditCase(id="0", instruction="", source=None, category="add"), None, images.FRAMES["emu-edit"])
    source, result, other = (as_image(noise(k, *size)) for k, size in enumerate([(8, 8), (8, 8), (9, 8)]))
    compare([one], [source], [result], [other])
    for a, b in [(source, result), (result, source), (source, source), (other, result), (source, other)]:
        one(a, b)
    assert len(calls) == 5
    one(result, other)  # at the size of the other one
    assert len(calls) == 6


def test_undefined_values_are_counted_by_cause_and_never_zero():
    text = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    after = [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    scores = embeddings.clip_directions([[1.0, 0.0]] * 3, [[0.6, 0.8], [0.6, 0.8], [1.0, 0.0]], text, after)
    summary = images.summarize(scores, ["a", "b", "c"], np.random.default_rng(0))
    assert summary["undefined"] == {embeddings.EQUAL_CAPTIONS: 1, embeddings.EQUAL_EMBEDDINGS: 1}
    assert summary["n"] == 1
    assert summary["value"] > 0.9
    nothing = images.summarize([images.Score(value=None, undefined="x")], ["a"], np.random.default_rng(0))
    assert nothing["value"] is None


def test_intervals_cluster_by_source_image():
    """Ten copies of each of 8 images say no more than one copy of each."""
    rng = np.random.default_rng
    values = np.linspace(0, 1, 8)
    once = images.summarize([images.Score(value=v) for v in values], [str(i) for i in range(8)], rng(0))
    copies = [images.Score(value=v) for v in values for _ in range(10)]
    ten = images.summarize(copies, [str(i) for i in range(8) for _ in range(10)], rng(0))
    assert (ten["low"], ten["high"]) == pytest.approx((once["low"], once["high"]))


# ---------------------------------------------------------------------------------------------------------------- LPIPS
@pytest.fixture(scope="module", params=["squeeze", "alex"])
def backbone(request, tmp_path_factory):
    """Weights of torchvision's own shape, random: the published ones cannot be part of a test."""
    from evals.embedders.lpips import BACKBONES

    network = getattr(torchvision.models, BACKBONES[request.param])(weights=None)
    path = tmp_path_factory.mktemp("lpips") / f"{request.param}.pth"
    torch.save(network.state_dict(), path)
    return request.param, path


def test_lpips_with_weights_from_a_file_is_torchmetrics_with_the_same_network(backbone):
    from torchmetrics.functional.image.lpips import _LPIPS, _lpips_update

    net, path = backbone
    ours = make_lpips(f"{net}:{path}")
    a, b = noise(0, 64, 80), noise(1, 64, 80)
    plain = _LPIPS(net=net, pnet_rand=True)
    plain.net.load_state_dict(ours._network.net.state_dict())
    state = torch.load(path, weights_only=True)
    first = next(iter(plain.net.state_dict().values()))
    assert torch.equal(first, state["features.0.weight"])
    # The mean of the upsampled map is not the mean of the small maps to the last digit.
    expected = _lpips_update(tensor(a).float(), tensor(b).float(), plain, normalize=True).item()
    assert ours.distances([a], [b])[0] == pytest.approx(expected, rel=0.02)
    assert ours.distances([a], [a]) == [0.0]
    assert ours.label == f"lpips-{net}"


def test_smartedits_lpips_is_that_of_its_script(backbone):
    """The script's steps: masked images from -1 to 1 in LPIPS of torchmetrics, the hole being -1 in both."""
    from torchmetrics.functional.image.lpips import _LPIPS, _lpips_update

    net, path = backbone
    network = make_lpips(f"{net}:{path}")
    source, result = as_image(noise(0, 90, 120)), as_image(noise(1, 90, 120))
    levels = np.zeros((90, 120), np.uint8)
    levels[20:60, 30:90] = 250
    mask = torch.from_numpy(np.array(Image.fromarray(levels).resize((256, 256), Image.Resampling.NEAREST))) / 255
    a, b = (
        torch.from_numpy(np.array(one.resize((256, 256), Image.Resampling.BICUBIC))).permute(2, 0, 1)[None] / 255
        for one in (source, result)
    )
    plain = _LPIPS(net=net, pnet_rand=True)
    plain.net.load_state_dict(network._network.net.state_dict())
    with torch.inference_mode():
        expected = _lpips_update(a * (1 - mask) * 2 - 1, b * (1 - mask) * 2 - 1, plain, normalize=False).item()
    (found,) = network.distances(*([one] for one in smartedit.hidden_pair(source, result, levels)))
    assert found == pytest.approx(expected, rel=0.02)


def test_lpips_of_a_region_sees_where_the_change_is(backbone):
    ours = make_lpips(f"{backbone[0]}:{backbone[1]}")
    a = noise(0, 128, 128)
    b = a.copy()
    b[:48, :48] = 1 - b[:48, :48]
    near, far = np.zeros((2, 128, 128), bool)
    near[:48, :48], far[80:, 80:] = True, True
    inside, outside, none = ours.distances([a] * 3, [b] * 3, [near, far, np.zeros_like(near)])
    assert inside > 4 * outside
    assert none is None


def test_lpips_names_what_does_not_fit(tmp_path, backbone):
    net, path = backbone
    other = {"squeeze": "alex", "alex": "squeeze"}[net]
    with pytest.raises(UserError, match="does not fit"):
        make_lpips(f"{other}:{path}")
    with pytest.raises(UserError, match="does not exist"):
        make_lpips(f"{net}:{tmp_path}/none.pth")
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    with pytest.raises(UserError, match="is text, not weights"):
        make_lpips(f"{net}:{tmp_path}/bad.pth")
    with pytest.raises(UserError, match="Expected an LPIPS network"):
        make_lpips("resnet")


# ---------------------------------------------------------------------------------------------------------------- masks
def encoded(tmp_path, image, suffix="png"):
    path = tmp_path / f"mask.{suffix}"
    image.save(path)
    return EncodedImage(name="mask", read=path.read_bytes)


def test_masks_are_read_from_transparency_white_and_jpeg(tmp_path):
    white = np.zeros((40, 40), bool)
    white[10:30, 5:20] = True
    levels = Image.fromarray(np.where(white, 255, 0).astype(np.uint8))
    assert np.array_equal(encoded(tmp_path, levels).load_mask(), white)
    # JPEG rings: thresholding at zero would give a larger mask.
    ringing = encoded(tmp_path, levels, "jpg")
    assert np.array_equal(ringing.load_mask(), white)
    assert (np.asarray(Image.open(tmp_path / "mask.jpg")) > 0).sum() > white.sum()
    photo = Image.fromarray((noise(0, 40, 40) * 255).astype(np.uint8)).convert("RGBA")
    photo.putalpha(Image.fromarray(np.where(white, 0, 255).astype(np.uint8)))
    assert np.array_equal(encoded(tmp_path, photo).load_mask(), white)


def test_a_mask_that_lies_on_its_side_is_turned_and_one_of_16_bits_is_scaled(tmp_path):
    clear = np.zeros((20, 40), bool)
    clear[:5, :10] = True
    photo, exif = Image.new("RGBA", (40, 20), "red"), Image.Exif()
    photo.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    exif[0x0112] = 6
    photo.save(tmp_path / "mask.png", exif=exif)
    mask = EncodedImage(name="mask", read=(tmp_path / "mask.png").read_bytes)
    assert np.array_equal(mask.load_mask(), np.rot90(clear, -1))
    deep = Image.fromarray(np.array([[0, 300, 65535]], np.uint16))
    assert encoded(tmp_path, deep).load_levels().tolist() == [[0, 1, 255]]


def test_a_photograph_is_no_mask_and_bytes_are_no_image(tmp_path):
    photo = Image.fromarray((noise(0, 40, 40) * 255).astype(np.uint8))
    with pytest.raises(ValueError, match="in black and white but got an image"):
        encoded(tmp_path, photo).load_mask()
    with pytest.raises(ValueError, match="row 3: Expected an image but the file is none"):
        EncodedImage(name="row 3", read=lambda: b"\x89PNG broken").load()
