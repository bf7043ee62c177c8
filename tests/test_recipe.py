"""How a clip was made: into the file, out of it, and what cannot be used."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from conftest import EXAMPLES
from PIL import Image

import seg2vid_cli
from seg2vid_cli.errors import InputError
from seg2vid_cli.label_sets import TRAIN_ID_OF_LABEL
from seg2vid_cli.labels import LabelMap, blank_labels, labels_from_array, resize_labels
from seg2vid_cli.outputs import Outputs, write_clip
from seg2vid_cli.recipe import Recipe, encode_labels, encode_scene, read_recipe, scene_sha256
from seg2vid_cli.sample import Sample
from seg2vid_cli.video import open_video, read_metadata

FRAME = np.full((32, 64, 3), 128, np.uint8)
MIXED = Sample(
    seed=5,
    variant=2,
    variants={"appearance": 0},
    to_seed=9,
    shares={"background": 0.25, "foreground": 1.0},
    motion_scale=0.5,
)


@pytest.fixture
def recipe(pipeline, labels):
    return pipeline.generate(labels, seed=5, variant=2, frames=2, quality=3).recipe


def write(path, metadata):
    with open_video(path, size_hw=(32, 64), fps=10, metadata=metadata) as video:
        video.write(FRAME)
    return path


def test_a_recipe_holds_everything_that_decides_the_pixels(pipeline, labels, tiny_bundle):
    recipe = pipeline.generate(labels, seed=5, variant=2, frames=3, quality=3).recipe
    small = resize_labels(labels, (32, 64))
    assert recipe.to_dict() == {
        "tool": "seg2vid",
        "version": seg2vid_cli.__version__,
        "torch": torch.__version__,
        "weights": "tiny",
        "first_frame_weights": None,
        "motion_weights": None,
        "weights_sha256": {
            name: hashlib.sha256((tiny_bundle / file).read_bytes()).hexdigest()
            for name, file in (
                ("first_frame", "first_frame.safetensors"),
                ("motion", "motion.safetensors"),
                ("refine", "refine.safetensors"),
                ("bundle", "bundle.json"),
            )
        },
        "device": "cpu",
        "precision": "fp32",
        "seed": 5,
        "variant": 2,
        "variants": {},
        "to_seed": None,
        "shares": {},
        "motion_scale": 1.0,
        "frames": 3,
        "fps": 10.0,  # of the bundle
        "quality": 3,
        "size": (64, 32),
        "fit": "keep",
        "labels_sha256": small.sha256,
        "labels_png": encode_labels(small.train_ids),
        "first_frame_sha256": None,
        "edges_png": None,
        "edge_variety": 0.0,
        "light": None,
    }


@pytest.mark.parametrize(
    ("settings", "sample"),
    [
        ({}, Sample()),
        ({"seed": 5, "variant": 2}, Sample(seed=5, variant=2)),
        ({"sample": MIXED}, MIXED),
        ({"sample": MIXED, "seed": 8, "variant": 9}, MIXED),  # instead of both
    ],
    ids=["plain", "seed", "sample", "sample and seed"],
)
def test_a_recipe_holds_what_a_clip_is_drawn_from(tmp_path, pipeline, labels, settings, sample):
    recipe = pipeline.generate(labels, frames=2, **settings).recipe
    assert recipe.sample == sample
    read = read_recipe(write(tmp_path / "clip.mp4", recipe.to_dict()))
    assert read == recipe
    assert read.sample == sample


def test_a_first_clip_that_knows_no_parts_is_drawn_from_its_seed_alone(tmp_path, recipe):
    data = recipe.to_dict()
    for name in ("variants", "to_seed", "shares", "motion_scale", "light"):
        del data[name]
    read = read_recipe(write(tmp_path / "clip.mp4", data))
    assert read == recipe
    assert read.sample == Sample(seed=5, variant=2)


@pytest.mark.parametrize(
    "change",
    [
        {"variants": None},
        {"variants": [1]},
        {"variants": {"background": 1.0}},
        {"variants": {"background": "1"}},
        {"to_seed": 1.0},
        {"to_seed": "9"},
        {"to_seed": True},
        {"shares": 0.5},
        {"shares": {"background": "half"}},
        {"shares": {"background": None}},
        {"motion_scale": None},
        {"motion_scale": "1"},
        {"motion_scale": True},
        {"light": "0.5"},
        {"light": True},
    ],
    ids=str,
)
def test_a_note_on_parts_of_another_kind_is_damaged(tmp_path, recipe, change):
    path = write(tmp_path / "clip.mp4", {**recipe.to_dict(), **change})
    with pytest.raises(InputError, match="the note on how it was made is damaged"):
        read_recipe(path)


@pytest.mark.parametrize(
    "change", [{"motion_scale": 5}, {"to_seed": -1}, {"shares": {"sound": 1}}], ids=str
)
def test_a_recipe_of_a_sample_that_cannot_be_is_refused_when_it_is_asked_for(recipe, change):
    with pytest.raises(InputError):
        _ = replace(recipe, **change).sample


@pytest.mark.parametrize(
    "missing",
    [["first_frame_weights"], ["motion_weights"], ["first_frame_weights", "motion_weights"]],
    ids=" ".join,
)
def test_a_first_clip_that_knows_no_mixed_weights_is_read(tmp_path, recipe, missing):
    data = {key: value for key, value in recipe.to_dict().items() if key not in missing}
    read = read_recipe(write(tmp_path / "clip.mp4", data))
    assert read == recipe
    assert [getattr(read, name) for name in missing] == [None] * len(missing)


def test_every_example_says_how_it_was_made():
    clips = sorted((EXAMPLES.parent / "clips").glob("*.mp4"))
    assert len(clips) >= 5
    for path in clips:
        recipe = read_recipe(path)
        if path.stem in ("drive", "drive-plain"):  # of a sequence: there is no one map to repeat
            note = read_metadata(path)
            assert note is not None
            assert note["tool"] == "seg2vid translate"
            assert note["edges"] is (path.stem == "drive")
            continue
        assert recipe is not None, path
        assert recipe.weights == "street"
        assert recipe.labels().size_hw == recipe.size[::-1]


@pytest.mark.parametrize("extension", ["mp4", "gif", "webp"])
def test_a_recipe_comes_back_from_the_file(tmp_path, recipe, extension):
    path = write(tmp_path / f"clip.{extension}", recipe.to_dict())
    assert read_recipe(path) == recipe


def test_a_recipe_comes_back_from_a_folder_of_frames(tmp_path, pipeline, labels):
    clip = pipeline.generate(labels, frames=1)
    write_clip(clip, Outputs(video=tmp_path / "clip.mp4", frames=tmp_path / "frames"))
    assert read_recipe(tmp_path / "frames") == read_recipe(tmp_path / "clip.mp4") == clip.recipe


@pytest.mark.parametrize("sample", [Sample(seed=5, variant=2), MIXED], ids=["plain", "mixed"])
def test_a_clip_can_be_made_again_from_its_recipe_alone(tmp_path, pipeline, labels, sample):
    clip = pipeline.generate(labels, sample=sample, frames=4)
    read = read_recipe(write(tmp_path / "clip.mp4", clip.recipe.to_dict()))
    again = pipeline.generate(
        read.labels(),
        sample=read.sample,
        frames=read.frames,
        fps=read.fps,
        quality=read.quality,
        size_hw=read.size[::-1],
        fit=read.fit,
    )
    assert again.recipe == clip.recipe
    for one, other in zip(clip, again, strict=True):
        np.testing.assert_array_equal(one.frame, other.frame)


def test_the_label_map_comes_back_at_the_clips_size(recipe, labels):
    stored, small = recipe.labels(), resize_labels(labels, (32, 64))
    np.testing.assert_array_equal(stored.train_ids, small.train_ids)
    assert stored.sha256 == small.sha256 == recipe.labels_sha256


def test_every_class_survives_being_stored():
    ids = np.repeat(np.arange(20, dtype=np.uint8), 16).reshape(16, 20)
    recipe = Recipe(**{**dict.fromkeys(f.name for f in fields(Recipe)), "labels_png": None})
    stored = replace(recipe, labels_png=encode_labels(ids)).labels()
    np.testing.assert_array_equal(stored.train_ids, ids)


def test_the_encoding_is_not_in_the_recipe(pipeline, labels):
    label_ids = labels_from_array(labels.label_ids, encoding="label-ids")
    assert pipeline.generate(label_ids).recipe == pipeline.generate(labels).recipe


# ---- scenes --------------------------------------------------------------------------------------


EMPTY = Recipe(**dict.fromkeys(f.name for f in fields(Recipe)))


def scene(instances=None):
    """All 35 label ids."""
    ids = np.arange(35, dtype=np.uint8).reshape(5, 7)
    return LabelMap(train_ids=TRAIN_ID_OF_LABEL[ids], label_ids=ids, instances=instances)


def test_every_label_id_survives_being_stored():
    stored = replace(EMPTY, labels_png=encode_scene(scene())).labels()
    np.testing.assert_array_equal(stored.label_ids, scene().label_ids)
    np.testing.assert_array_equal(stored.train_ids, scene().train_ids)
    assert stored.instances is None


@pytest.mark.parametrize(
    "numbers",
    [[0], [7], [0, 5], [-4, -3, 2**31 - 1], range(1000, 36_000, 1000)],
    ids=lambda numbers: str(len(numbers)),
)
def test_equal_objects_stay_equal_and_others_apart(numbers):
    places = np.arange(35) * 11 % len(numbers)
    objects = np.array(numbers, np.int32)[places].reshape(5, 7)
    packed = encode_scene(scene(objects))
    stored = replace(EMPTY, labels_png=packed).labels()
    order = {number: place for place, number in enumerate(sorted(set(numbers)), 1)}
    expected = [[order[number] for number in row] for row in objects.tolist()]
    assert stored.instances.tolist() == expected
    assert stored.instances.dtype == np.int32
    again = encode_scene(stored)
    assert scene_sha256(again) == scene_sha256(packed)


def test_more_objects_than_a_byte_or_two_can_count():
    ids = np.full((300, 300), 26, np.uint8)
    objects = np.arange(90_000, dtype=np.int32).reshape(300, 300)
    cars = LabelMap(train_ids=TRAIN_ID_OF_LABEL[ids], label_ids=ids, instances=objects)
    stored = replace(EMPTY, labels_png=encode_scene(cars)).labels()
    np.testing.assert_array_equal(stored.instances, objects + 1)


def test_the_hash_of_a_scene_is_that_of_its_pixels():
    objects = np.ones((5, 7), np.int32)
    packed = [encode_scene(s) for s in (scene(), scene(objects), scene(2 * objects))]
    hashes = [scene_sha256(text) for text in packed]
    assert hashes[1] == hashes[2] != hashes[0]  # without objects is not the same as one object
    with Image.open(io.BytesIO(base64.b64decode(packed[0]))) as image:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=0)
    other = base64.b64encode(buffer.getvalue()).decode()
    assert other != packed[0]
    assert scene_sha256(other) == hashes[0]
    turned = LabelMap(train_ids=scene().train_ids.T, label_ids=scene().label_ids.reshape(7, 5))
    assert scene_sha256(encode_scene(turned)) != hashes[0]


def test_a_scene_with_an_unknown_label_id_is_damaged():
    pixels = np.zeros((5, 7, 4), np.uint8)
    pixels[2, 2, 0] = 35
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    with pytest.raises(InputError, match="the label map stored in the clip is damaged"):
        replace(EMPTY, labels_png=text).labels()


def test_a_blank_map_comes_back_blank():
    blank = blank_labels((4, 6))
    stored = replace(EMPTY, labels_png=encode_labels(blank.train_ids)).labels()
    assert (stored.sha256, stored.reason) == (blank.sha256, blank.reason)
    np.testing.assert_array_equal(stored.label_ids, blank.label_ids)


def test_the_names_of_mixed_weights_come_back_from_the_file(tmp_path, recipe):
    mixed = replace(recipe, first_frame_weights="painter", motion_weights="mover")
    assert read_recipe(write(tmp_path / "clip.mp4", mixed.to_dict())) == mixed
    for name in ("first_frame_weights", "motion_weights"):
        data = {**mixed.to_dict(), name: 7}
        with pytest.raises(InputError, match="the note on how it was made is damaged"):
            read_recipe(write(tmp_path / "clip.mp4", data))


# ---- what cannot be used -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata", [None, {}, {"tool": "handbrake"}, {"title": "holiday"}], ids=str
)
def test_a_foreign_clip_has_no_recipe(tmp_path, metadata):
    assert read_recipe(write(tmp_path / "clip.mp4", metadata)) is None


@pytest.mark.parametrize("change", ["more", "less"])
def test_the_recipe_of_another_version_is_refused(tmp_path, recipe, change):
    data = {**recipe.to_dict(), "version": "9.1"}
    if change == "more":
        data["saliency"] = True
    else:
        del data["variant"]
    path = write(tmp_path / "clip.mp4", data)
    with pytest.raises(InputError, match=r"made by seg2vid 9\.1, of no use to this") as caught:
        read_recipe(path)
    assert str(path) in caught.value.message
    assert caught.value.hint == "give label map and options again"


def test_a_recipe_without_even_a_version_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"made by seg2vid \?, of no use"):
        read_recipe(write(tmp_path / "clip.mp4", {"tool": "seg2vid"}))


def test_a_missing_clip_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.mp4 is not a file"):
        read_recipe(tmp_path / "none.mp4")


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "clip.png", "clip.mp4"])
def test_a_file_that_is_no_clip_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x00\x00\x00\x01not a clip at all")
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_clip_cut_short_is_refused(tmp_path, recipe):
    path = write(tmp_path / "clip.mp4", recipe.to_dict())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"clip\.mp4: damaged at byte"):
        read_recipe(path)


def truncated(text):
    return base64.b64encode(base64.b64decode(text)[:-30]).decode()


def photo(_):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32), (200, 100, 50)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: "*" + text[1:],
        lambda text: "é" + text[1:],
        truncated,
        photo,
    ],
    ids=["empty", "length", "alphabet", "unicode", "truncated", "other picture"],
)
def test_a_damaged_label_map_is_refused(recipe, damage):
    with pytest.raises(InputError):
        replace(recipe, labels_png=damage(recipe.labels_png)).labels()


def test_one_byte_more_or_less_is_never_more_than_an_input_error(recipe):
    data, damaged = base64.b64decode(recipe.labels_png), 0
    for place in range(len(data)):
        for end in (place, place + 1):  # one byte put in, one taken out
            text = base64.b64encode(data[:place] + b"\0" * (place + 1 - end) + data[end:])
            try:
                replace(recipe, labels_png=text.decode()).labels()
            except InputError:
                damaged += 1
    assert damaged > len(data)


def test_metadata_is_plain_json(recipe):
    assert json.loads(json.dumps(recipe.to_dict()))["labels_png"].isascii()
