"""`--model diffusers:` in editing suites, shown with an InstructPix2Pix built here."""

import dataclasses
import json

import diffusers_kit
import numpy as np
import pytest

from evals.core.records import Sample, UserError
from evals.editing import icon_cases
from evals.editing.suite import as_case
from evals.emu_edit import EmuEdit
from evals.generators.registry import GENERATORS, GeneratorOptions
from evals.harness import cli

OPTIONS = GeneratorOptions(
    model="",
    argument="", checkpoint="mini", steps=2, semantic=True, spatial=True, reference=True, semantic_scale=None,
    spatial_scale=None, reference_scale=None, chain="own", device="cpu", dtype="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def pix2pix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pix2pix")
    return diffusers_kit.save_pipeline(folder, "StableDiffusionInstructPix2PixPipeline")


def samples(count, seed=0):
    cases = icon_cases.icon_set("emu_edit").cases[:count]
    return [Sample(case=as_case(case), index=0, seed=seed + i) for i, case in enumerate(cases)]


def images(generator, wanted):
    return [np.asarray(made.image, int) for made in generator.generate(wanted)]


def test_an_instruction_pipeline_is_given_the_sources(pix2pix):
    generator = GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=str(pix2pix)))
    together = images(generator, samples(3))
    alone = [images(generator, [sample])[0] for sample in samples(3)]
    for a, b in zip(together, alone, strict=True):
        assert np.abs(a - b).max() <= 1
    mixed = samples(2)
    swapped = [dataclasses.replace(mixed[0], case=dataclasses.replace(mixed[0].case, edit=mixed[1].case.edit))]
    assert np.abs(images(generator, swapped)[0] - together[0]).max() > 1, "the source matters"


def test_sources_of_several_sizes_are_edited_one_by_one(pix2pix):
    generator = GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=str(pix2pix)))
    wide = samples(2)
    edit = wide[1].case.edit
    source = edit.source.load().resize((96, 64))

    class Wide:
        def load(self):
            return source

    case = dataclasses.replace(wide[1].case, edit=dataclasses.replace(edit, source=Wide()))
    made = images(generator, [wide[0], dataclasses.replace(wide[1], case=case)])
    assert [image.shape for image in made] == [(128, 128, 3), (64, 96, 3)]


def test_a_pipeline_that_cannot_edit_says_so(tmp_path):
    folder = diffusers_kit.save_pipeline(tmp_path, "StableDiffusionPipeline")
    generator = GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=str(folder)))
    with pytest.raises(UserError, match="StableDiffusionPipeline does not edit images"):
        generator.generate(samples(1))


def test_a_run_with_an_instruction_pipeline_is_complete(pix2pix, tmp_path, capsys):
    words = ["--model", f"diffusers:{pix2pix}", "--limit", "3", "--steps", "2", "--output", str(tmp_path / "run")]
    assert cli.main(EmuEdit, words) == 0
    headline = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (headline["images"], headline["missing"]) == (3, 0)
