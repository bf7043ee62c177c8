"""Odd things that users, folders and files do to the generating core."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from seg2vid_cli.errors import InputError, Seg2VidError, WeightsError
from seg2vid_cli.first_frame import read_picture
from seg2vid_cli.labels import labels_from_array
from seg2vid_cli.outputs import Outputs, generate_file
from seg2vid_cli.pipeline import Pipeline, plan_size
from seg2vid_cli.recipe import read_recipe
from seg2vid_cli.video import open_video


def edited_bundle(tiny_bundle, tmp_path, path, value):
    folder = shutil.copytree(tiny_bundle, tmp_path / "edited")
    data = inner = json.loads((folder / "bundle.json").read_text())
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / "bundle.json").write_text(json.dumps(data))
    return str(folder)


def test_a_map_too_narrow_for_the_room_is_refused():
    with pytest.raises(InputError, match="only at 256x6"):
        plan_size((16, 640), (128, 256), room_hw=(128, 256))


def test_a_label_map_inside_an_output_folder_is_safe(tmp_path, pipeline, labels):
    source = tmp_path / "frame_00000.png"
    Image.fromarray(labels.train_ids).save(source)
    other = shutil.copy(source, tmp_path / "frame_00077.png")
    before = source.read_bytes()
    outputs = Outputs(video=tmp_path / "clip.mp4", frames=tmp_path)
    with pytest.raises(InputError, match=r"frame_00000\.png: lies in"):
        generate_file(source, outputs.video, pipeline=pipeline, outputs=outputs, frames=2)
    assert source.read_bytes() == before
    assert other.exists()


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((20, 20, 3), np.uint8),
        np.zeros((300, 300, 3), np.uint8),
        np.zeros((32, 64, 3), np.float32),
        np.zeros((32, 64), np.uint8),
    ],
    ids=["small", "large", "float", "grey"],
)
def test_a_picture_of_another_size_or_type_is_refused_at_once(pipeline, labels, picture):
    with pytest.raises(Seg2VidError, match="not uint8"):
        pipeline.generate(labels, frames=1, picture=picture)


def test_a_picture_without_hash_still_counts_as_given(pipeline, labels):
    clips = [
        pipeline.generate(labels, frames=1, picture=np.full((32, 64, 3), v, np.uint8))
        for v in (1, 1, 2)
    ]
    first, again, other = (clip.recipe.first_frame_sha256 for clip in clips)
    assert first == again != other
    assert first is not None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("stages", "motion", "options"), {"downscal": 4}),
        (("stages", "motion", "options"), {"downscale": 0}),
        (("stages", "motion", "options"), []),
        (("stages", "refine", "options"), {"keep_visible": 1}),
        (("stages", "first_frame", "config", "channels"), 5),
        (("stages", "motion", "config", "image_channels"), "3"),
        (("stages", "motion", "config", "label_planes"), 3),
        (("labels",), "coco"),
        (("fps",), -1),
        (("size_hw",), [0, 0]),
    ],
    ids=str,
)
def test_a_bundle_that_describes_nonsense_is_refused(tiny_bundle, tmp_path, labels, path, value):
    folder = edited_bundle(tiny_bundle, tmp_path, path, value)
    with pytest.raises(WeightsError, match=r"bundle\.json"):
        list(Pipeline.open(folder).generate(labels, frames=2))


def test_options_of_a_bundle_are_part_of_the_recipe(tiny_bundle, tmp_path, labels):
    path = ("stages", "refine", "options")
    other = Pipeline.open(edited_bundle(tiny_bundle, tmp_path, path, {"keep_visible": False}))
    one = Pipeline.open(str(tiny_bundle)).generate(labels, frames=2)
    two = other.generate(labels, frames=2)
    assert not np.array_equal(list(one)[1].frame, list(two)[1].frame)
    assert one.recipe != two.recipe


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 5),
        ("size", "ab"),
        ("size", [1, 2, 3]),
        ("seed", "x"),
        ("labels_png", None),
        ("weights", 3),
    ],
)
def test_a_damaged_note_in_a_clip_is_said(tmp_path, pipeline, labels, key, value):
    note = pipeline.generate(labels, frames=1).recipe.to_dict() | {key: value}
    path = tmp_path / "clip.mp4"
    with open_video(path, size_hw=(32, 64), fps=10, metadata=note) as video:
        video.write(np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(InputError, match="damaged"):
        read_recipe(path)


def test_a_16_bit_photo_is_refused(tmp_path):
    grey = np.linspace(0, 65535, 32 * 64).reshape(32, 64).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: more than 8 bits"):
        read_picture(tmp_path / "a.png", size_hw=(32, 64))


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    picture = Image.fromarray(np.zeros((32, 64), np.uint8)).convert("P")
    picture.save(tmp_path / "a.png", transparency=bytes([10, 20]))
    assert read_picture(tmp_path / "a.png", size_hw=(32, 64)).shape == (32, 64, 3)


def test_instances_change_neither_pixels_nor_recipe(pipeline, labels):
    ones = np.ones(labels.size_hw, np.int32)
    counted = replace(labels, instances=ones, instances_given=True)
    with_them, without = (pipeline.generate(x, frames=2) for x in (counted, labels))
    for a, b in zip(with_them, without, strict=True):
        assert np.array_equal(a.frame, b.frame)
    assert with_them.recipe == without.recipe
    assert with_them.recipe.labels().sha256 == with_them.recipe.labels_sha256


def test_half_a_frame_is_refused(pipeline, labels):
    with pytest.raises(InputError, match=r"frames 2\.5"):
        pipeline.generate(labels, frames=2.5)


def test_opening_weights_leaves_the_users_random_numbers_alone(tiny_bundle):
    before = torch.get_rng_state()
    assert Pipeline.open(str(tiny_bundle)).generator is not None
    assert torch.equal(before, torch.get_rng_state())


def test_a_tall_map_comes_back_from_its_clip(pipeline):
    ids = np.full((300, 150), 2, np.uint8)
    clip = pipeline.generate(labels_from_array(ids, encoding="train-ids"), frames=1)
    assert clip.recipe.labels().size_hw == clip.size_hw
