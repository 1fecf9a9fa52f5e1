"""What the editing suites measure of one result: the instruments of a run, and every metric by its full name."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from evals.metrics import embeddings, images, smartedit
from evals.metrics.images import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from evals.core.backends import Embedder, ImageEmbedder, Tools
    from evals.core.records import EditCase
    from evals.editing.options import EditOptions


class Instruments:
    """The encoders and the LPIPS network that a command line asks for, beside a run's tools."""

    def __init__(self, tools: Tools, options: EditOptions) -> None:
        from evals.embedders import lpips
        from evals.embedders import registry as embedders
        from evals.embedders.cache import EmbeddingCache

        self.tools = tools
        clips: list[Embedder] = [tools.embedder]
        clips += [embedders.make_embedder(spec, tools.device) for spec in options.clip]
        self.clips: dict[str, Embedder] = {embedders.label(clip.name): EmbeddingCache(clip) for clip in clips}
        self.dinos: dict[str, ImageEmbedder] = {}
        if options.dino != "none":
            dino = embedders.make_image_embedder(options.dino, tools.device)
            self.dinos[embedders.label(dino.name)] = EmbeddingCache(dino)
        self.lpips = None if options.lpips == "none" else lpips.make_lpips(options.lpips, tools.device)


def embed(instruments: Instruments, edits: Sequence[EditCase], shown: Sequence[Image.Image]) -> None:
    """Embeds everything that a batch needs in one go, so that later calls find it in the caches."""
    for encoder in (*instruments.clips.values(), *instruments.dinos.values()):
        encoder.embed_images(shown)
    texts = [edit.captions[key] for edit in edits for key in ("source", "target", "object") if edit.captions.get(key)]
    for clip in instruments.clips.values():
        clip.embed_texts(texts)


class Comparison:
    """Pixel metrics between the images of one edit. Each pair is compared once: the order does not matter.

    Args:
        edit: Whose images they are.
        mask: Where the edit belongs, bool (height, width), if that is known.
        frame: How two images come to one size.
    """

    def __init__(self, edit: EditCase, mask: Any, frame: images.Frame) -> None:
        self.edit, self.mask, self.frame = edit, mask, frame
        as_smartedit = edit.mask is not None and frame is images.FRAMES["smartedit"]
        self.levels = edit.mask.load_levels() if edit.mask is not None and as_smartedit else None
        """The mask as SmartEdit's script takes it, where its metrics are asked for."""
        self._known: dict[tuple[int, ...], tuple[dict[str, Score], dict[str, Score]]] = {}

    def __call__(self, a: Image.Image, b: Image.Image) -> tuple[dict[str, Score], dict[str, Score]]:
        """`images.pixel_scores` of two images that stay in memory, and `smartedit.background`, if it is asked for."""
        key = (id(a), id(b))
        if a.size == b.size:
            key = (min(key), max(key))
        if key not in self._known:
            scores = images.pixel_scores(*images.pair(a, b, self.frame), self.mask)
            self._known[key] = scores, {} if self.levels is None else smartedit.background(a, b, self.levels)
        return self._known[key]


def compare(
    comparisons: Sequence[Comparison],
    sources: Sequence[Image.Image],
    results: Sequence[Image.Image],
    targets: Sequence[Image.Image | None],
) -> None:
    """Make the comparisons that `measure` will ask for, on all processors: SciPy lets other threads run meanwhile."""
    pairs: list[tuple[Comparison, Image.Image, Image.Image]] = []
    for one, source, result, target in zip(comparisons, sources, results, targets, strict=True):
        pairs += [(one, source, source), (one, source, result)]
        if target is not None:
            pairs += [(one, target, target), (one, target, result), (one, source, target)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda pair: pair[0](*pair[1:]), pairs))


def measure(
    instruments: Instruments,
    compared: Comparison,
    source: Image.Image,
    result: Image.Image,
    target: Image.Image | None,
) -> dict[str, Score]:
    """All metrics of one image by full name."""
    edit, mask = compared.edit, compared.mask
    scores = {f"source/{name}": score for name, score in compared(source, result)[0].items()}
    if target is not None:
        scores |= {f"target/{name}": score for name, score in compared(target, result)[0].items()}
    for label, encoder in [*instruments.clips.items(), *instruments.dinos.items()]:
        kind = "dino" if label in instruments.dinos else "clip_i"
        vectors = encoder.embed_images([source, result, *([] if target is None else [target])])
        scores[images.named(f"{kind}_source", label)] = embeddings.cosines(vectors[1:2], vectors[:1])[0]
        if target is not None:
            scores[images.named(f"{kind}_target", label)] = embeddings.cosines(vectors[1:2], vectors[2:3])[0]
    for label, clip in instruments.clips.items():
        scores |= _text_scores(label, clip, edit, source, result)
    if instruments.lpips is not None:
        from evals.embedders import lpips

        scores |= lpips.lpips_scores(instruments.lpips, *images.pair(source, result, compared.frame), mask)
    if compared.levels is not None:
        scores |= _as_smartedit(instruments, compared, source, result)
    return scores


def _as_smartedit(
    instruments: Instruments, compared: Comparison, source: Image.Image, result: Image.Image
) -> dict[str, Score]:
    """What SmartEdit's public script measures, as it does; and its foreground score without the script's quirks.

    With CLIP ViT-L-14 and LPIPS squeeze these are the script's own instruments; others are named like any other.
    """
    assert compared.levels is not None, "only asked where there is a mask"
    wanted = compared.edit.captions.get("object") or ""
    scores = {f"smartedit/{name}": score for name, score in compared(source, result)[1].items()}
    if instruments.lpips is not None:
        first, second = smartedit.hidden_pair(source, result, compared.levels)
        (distance,) = instruments.lpips.distances([first], [second])
        scores[f"smartedit/{images.named('lpips', instruments.lpips.label)}"] = Score(value=distance)
    parts = {
        "": smartedit.foreground(result, compared.mask),
        "smartedit/": smartedit.foreground(result, compared.levels, as_smartedit=True),
    }
    for label, clip in instruments.clips.items() if wanted else ():
        for prefix, part in parts.items():
            score = Score(value=None, undefined=images.EMPTY_REGION)
            if part is not None:
                score = embeddings.cosines(clip.embed_images([part]), clip.embed_texts([wanted]))[0]
            scores[prefix + images.named("clip_t_object", label)] = score
    return scores


def _text_scores(
    label: str, clip: Embedder, edit: EditCase, source: Image.Image, result: Image.Image
) -> dict[str, Score]:
    """CLIP-T and CLIPdir, where the set has the captions for them."""
    said = {key: edit.captions[key] for key in ("source", "target") if edit.captions.get(key)}
    if "target" not in said:
        return {}
    vectors, texts = clip.embed_images([source, result]), clip.embed_texts(list(said.values()))
    scores = {images.named("clip_t", label): embeddings.cosines(vectors[1:], texts[-1:])[0]}
    if "source" in said:
        direction = embeddings.clip_directions(vectors[:1], vectors[1:], texts[:1], texts[1:])[0]
        scores[images.named("clip_direction", label)] = direction
    return scores
