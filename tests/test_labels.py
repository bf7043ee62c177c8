"""Label sets and the reading of label maps: facts by hand, every encoding, every bad input."""

import re
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from seg2vid_cli import labels as labels_module
from seg2vid_cli.errors import InputError, LabelMapError, ShapeError
from seg2vid_cli.label_sets import (
    CLASSES,
    ENCODINGS,
    LABEL_NAMES,
    NUM_BACKGROUND,
    NUM_CLASSES,
    NUM_FOREGROUND_WITH_UNLABELLED,
    NUM_LABEL_IDS,
    TRAIN_ID_OF_LABEL,
    UNLABELLED,
    load_encoding,
)
from seg2vid_cli.labels import (
    STREET_LAYOUT,
    LabelMap,
    blank_labels,
    class_histogram,
    crop_labels,
    instance_edges,
    labels_from_array,
    one_hot,
    pad_labels,
    padded_size,
    read_labels,
    resize_labels,
)

ROAD, SIDEWALK, BUILDING, POLE, VEGETATION, SKY, PERSON, CAR = 0, 1, 2, 5, 8, 10, 11, 13
ID_ENCODINGS = ("label-ids", "train-ids", "carla-ids", "carla-legacy-ids")
COLOUR_ENCODINGS = tuple(n for n, e in ENCODINGS.items() if e.kind == "colours")


def street(height=48, width=96):
    """A street from classes that every encoding has, some of it unlabelled."""
    scene = np.full((height, width), BUILDING, np.uint8)
    scene[: height // 3, width // 4 : width // 2] = SKY
    scene[height // 6 : height // 2, width // 2 :] = VEGETATION
    scene[height // 2 :] = SIDEWALK
    scene[height // 2 :, width // 8 : -width // 8] = ROAD
    scene[height // 2 - 4 : height - 12, width // 2 : width // 2 + 16] = CAR
    scene[height // 3 : height // 2 + 6, width // 5 : width // 5 + 4] = PERSON
    scene[4 : height // 2, 8:11] = POLE
    scene[:2, :6] = UNLABELLED
    return scene


def encode(train_ids, name):
    """Write train ids in an encoding: the first id or colour that means each class."""
    first = {}
    for key, train_id in ENCODINGS[name].to_train_id.items():
        first.setdefault(train_id, key)
    keys = [first.get(c, first[UNLABELLED]) for c in range(NUM_CLASSES)]
    dtype = np.uint16 if name == "instance-ids" else np.uint8
    return np.array(keys, dtype)[train_ids]


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def error_of(function, *arguments, **options):
    with pytest.raises(LabelMapError) as caught:
        function(*arguments, **options)
    return caught.value


# ------------------------------------------------------------------------------- tables


def test_classes_are_the_twenty_planes_of_the_paper():
    assert [c.train_id for c in CLASSES] == list(range(NUM_CLASSES))
    names = "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,terrain"
    names += ",sky,person,rider,car,truck,bus,train,motorcycle,bicycle,unlabelled"
    assert [c.name for c in CLASSES] == names.split(",")
    assert [c.train_id for c in CLASSES if c.is_foreground] == list(range(11, 19))
    assert NUM_BACKGROUND + NUM_FOREGROUND_WITH_UNLABELLED == NUM_CLASSES
    assert CLASSES[CAR].colour == (0, 0, 142)
    assert CLASSES[UNLABELLED].colour == (0, 0, 0)


@pytest.mark.parametrize(
    ("encoding", "key", "label_id", "train_id"),
    [
        ("label-ids", 7, 7, 0),
        ("label-ids", 9, 9, 19),  # parking: Cityscapes leaves it out of training
        ("label-ids", 33, 33, 18),
        ("label-ids", -1, 34, 19),
        ("train-ids", 0, 7, 0),
        ("train-ids", 18, 33, 18),
        ("train-ids", 255, 0, 19),
        ("instance-ids", 26003, 26, 13),
        ("instance-ids", 26, 26, 13),
        ("cityscapes-colours", (0, 0, 142), 26, 13),  # car, not the licence plate
        ("cityscapes-colours", (153, 153, 153), 17, 5),  # pole, not the pole group
        ("cityscapes-colours", (250, 170, 160), 9, 19),
        ("camvid-colours", (128, 0, 192), 7, 0),  # lane marking
        ("camvid-colours", (192, 128, 192), 27, 14),
        ("camvid-colours", (192, 128, 64), 24, 11),  # child
        ("carla-ids", 1, 7, 0),
        ("carla-ids", 14, 26, 13),
        ("carla-ids", 24, 7, 0),  # road line
        ("carla-legacy-ids", 1, 11, 2),
        ("carla-legacy-ids", 7, 7, 0),
        ("carla-legacy-ids", 22, 22, 9),
        ("carla-colours", (157, 234, 50), 7, 0),
        ("carla-legacy-colours", (100, 40, 40), 13, 4),
        ("carla-legacy-colours", (190, 153, 153), 13, 4),  # the fence before 0.9.10
    ],
)
def test_table_rows(encoding, key, label_id, train_id):
    assert ENCODINGS[encoding].to_label_id[key] == label_id
    assert ENCODINGS[encoding].to_train_id[key] == train_id


def test_table_sizes():
    sizes = {name: len(e.to_label_id) for name, e in ENCODINGS.items()}
    assert sizes["camvid-colours"] == 32
    assert sizes["carla-ids"] == 29
    assert sizes["carla-legacy-ids"] == 23
    assert sizes["instance-ids"] == 34 + 10 * 1000
    assert len(LABEL_NAMES) == len(TRAIN_ID_OF_LABEL) == NUM_LABEL_IDS


def test_shared_colours_mean_the_same_in_cityscapes_and_carla():
    ours, theirs = (ENCODINGS[n].to_train_id for n in ("cityscapes-colours", "carla-colours"))
    shared = ours.keys() & theirs.keys()
    assert len(shared) >= 20
    assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}


def test_street_layout_has_a_row_of_shares_per_third():
    assert STREET_LAYOUT.shape == (3, NUM_CLASSES)
    assert (STREET_LAYOUT > 0).all()
    assert np.abs(STREET_LAYOUT.sum(axis=1) - 100).max() < 15


# ------------------------------------------------------------------------------- encodings


@pytest.mark.parametrize("name", ENCODINGS)
def test_round_trip_when_asked_for(name, tmp_path):
    scene = street()
    read = read_labels(save(tmp_path / "map.png", encode(scene, name)), encoding=name)
    np.testing.assert_array_equal(read.train_ids, scene)
    assert read.encoding == name
    assert "asked for" in read.reason
    assert read.path == tmp_path / "map.png"
    np.testing.assert_array_equal(TRAIN_ID_OF_LABEL[read.label_ids], scene)
    assert (read.train_ids.dtype, read.label_ids.dtype) == (np.uint8, np.uint8)


@pytest.mark.parametrize("name", [*ID_ENCODINGS, "cityscapes-colours", "camvid-colours"])
def test_encoding_is_found(name):
    read = labels_from_array(encode(street(), name))
    assert read.encoding == name
    assert not read.doubtful
    np.testing.assert_array_equal(read.train_ids, street())


def test_one_scene_in_nine_encodings_is_one_map(tmp_path):
    maps = [
        read_labels(save(tmp_path / f"{name}.png", encode(street(), name)))
        if name != "instance-ids"
        else read_labels(_instance_file(tmp_path))
        for name in ENCODINGS
    ]
    assert len({m.sha256 for m in maps}) == 1
    for other in maps:
        np.testing.assert_array_equal(other.train_ids, street())


def _instance_file(tmp_path):
    ids = encode(street(), "label-ids").astype(np.uint16)
    ids[ids >= 24] = ids[ids >= 24] * 1000 + 7
    return save(tmp_path / "instance.png", ids)


def test_instance_ids_carry_objects(tmp_path):
    read = read_labels(_instance_file(tmp_path))
    assert read.encoding == "instance-ids"
    assert read.alternatives == ()
    assert set(np.unique(read.instances)) >= {26007, 24007, 7}
    assert read.instances.dtype == np.int32
    assert not read.instances_given


def test_hash_depends_on_classes_size_and_given_instances_only(tmp_path):
    a = labels_from_array(street())
    changed = street()
    changed[40, 40] = CAR
    assert labels_from_array(changed).sha256 != a.sha256
    flat = labels_from_array(np.ascontiguousarray(street().reshape(96, 48)))
    assert flat.sha256 != a.sha256
    file = save(tmp_path / "map.png", street())
    objects = save(tmp_path / "objects.png", (street() == CAR).astype(np.uint8))
    assert read_labels(file, instances=objects).sha256 != a.sha256


def test_licence_plate_has_the_35th_plane():
    ids = encode(street(), "label-ids").astype(np.int16)
    ids[30:33, 60:64] = -1
    signed = labels_from_array(ids)
    assert signed.encoding == "label-ids"
    assert (signed.label_ids[30:33, 60:64] == 34).all()
    assert (signed.train_ids[30:33, 60:64] == UNLABELLED).all()
    ids[ids == -1] = 255  # as an 8-bit file stores it
    again = labels_from_array(ids.astype(np.uint8), encoding="label-ids")
    np.testing.assert_array_equal(again.label_ids, signed.label_ids)


def test_train_ids_get_the_canonical_label_ids():
    read = labels_from_array(street(), encoding="train-ids")
    assert (read.label_ids[read.train_ids == ROAD] == 7).all()
    assert (read.label_ids[read.train_ids == UNLABELLED] == 0).all()


def test_carla_tags_in_the_red_channel():
    for name in ("carla-ids", "carla-legacy-ids"):
        tags = np.zeros((*street().shape, 4), np.uint8)
        tags[..., 0] = encode(street(), name)
        tags[..., 3] = 255
        for array in (tags, tags[..., :3]):
            read = labels_from_array(array)
            assert read.encoding == name
            np.testing.assert_array_equal(read.train_ids, street())
            assert set(read.alternatives) <= {"carla-ids", "carla-legacy-ids"}
    assert "red values" in read.reason


def test_grey_ids_saved_as_rgb():
    read = labels_from_array(np.repeat(encode(street(), "train-ids")[..., None], 3, axis=2))
    assert read.encoding == "train-ids"
    np.testing.assert_array_equal(read.train_ids, street())


# ------------------------------------------------------------------------------- the rule


def test_ambiguous_ids_say_so():
    read = labels_from_array(encode(street(), "train-ids"))
    assert read.encoding == "train-ids"
    assert "label-ids" in read.alternatives
    assert "label-ids" in read.reason
    assert "most like a street" in read.reason
    assert re.search(r"-\d\.\d against -\d\.\d", read.reason)


def test_unique_ids_say_so():
    ids = encode(street(), "label-ids")
    ids[0, 0] = 30  # trailer: beyond every other table
    read = labels_from_array(ids)
    assert (read.encoding, read.alternatives) == ("label-ids", ())
    assert "no other known encoding" in read.reason


def test_near_tie_goes_to_the_fixed_order():
    # 13 is a fence, a car, a rider or the sky; with all classes equally common, that is a tie.
    ids = np.full((32, 32), 13, np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels_module, "STREET_LAYOUT", np.ones((3, NUM_CLASSES)))
        read = labels_from_array(ids)
    assert read.encoding == "label-ids"
    assert "first in the fixed order" in read.reason
    assert read.doubtful
    assert read.alternatives == ("train-ids", "carla-ids", "carla-legacy-ids")


@pytest.mark.parametrize(("lead", "doubtful"), [(0.4, True), (0.6, False)])
def test_a_small_lead_is_doubtful(lead, doubtful, monkeypatch):
    ids = np.full((32, 32), 13, np.uint8)  # fence, car, rider or sky
    layout = np.ones((3, NUM_CLASSES))
    layout[:, CAR] = np.exp(lead)
    monkeypatch.setattr(labels_module, "STREET_LAYOUT", layout)
    monkeypatch.setattr(labels_module, "UNSTREETLIKE", -99.0)
    read = labels_from_array(ids)
    assert (read.encoding, read.doubtful) == ("train-ids", doubtful)


def test_upside_down_street_is_doubtful():
    read = labels_from_array(street()[::-1])
    assert read.doubtful
    assert "not certain" in read.reason


def test_colours_in_two_palettes_say_so():
    read = labels_from_array(encode(street(), "carla-colours"))
    assert read.encoding == "cityscapes-colours"
    assert "carla-colours" in read.alternatives
    assert "the same classes" in read.reason
    assert not read.doubtful


def test_road_lines_tell_carla_colours_from_cityscapes():
    colours = encode(street(), "carla-colours")
    colours[30, 20:40] = (157, 234, 50)
    read = labels_from_array(colours)
    assert read.encoding == "carla-colours"
    np.testing.assert_array_equal(read.train_ids, street())


# ------------------------------------------------------------------------------- file kinds


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp", "npy"])
@pytest.mark.parametrize("name", ["train-ids", "cityscapes-colours"])
def test_every_format(suffix, name, tmp_path):
    array, path = encode(street(), name), tmp_path / f"map.{suffix}"
    if suffix == "npy":
        np.save(path, array)
    elif suffix == "webp":  # WebP has no grey; ids come back as three equal channels
        save(path, array, lossless=True)
    else:
        save(path, array)
    np.testing.assert_array_equal(read_labels(path).train_ids, street())


def test_content_counts_not_the_extension(tmp_path):
    path = tmp_path / "map.jpg"
    Image.fromarray(street()).save(path, format="PNG")
    np.testing.assert_array_equal(read_labels(path).train_ids, street())


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64])
def test_integer_arrays(dtype, tmp_path):
    np.save(tmp_path / "map.npy", np.asfortranarray(street().astype(dtype)))
    np.testing.assert_array_equal(read_labels(tmp_path / "map.npy").train_ids, street())


def test_sixteen_bit_png_and_tiff(tmp_path):
    for suffix in ("png", "tif"):
        path = save(tmp_path / f"map.{suffix}", street().astype(np.uint16))
        np.testing.assert_array_equal(read_labels(path).train_ids, street())


def test_four_bit_grey_png_is_not_stretched(tmp_path):
    scene = np.minimum(street(), 13)
    rows = b"".join(
        b"\0" + bytes(row[::2] << 4 | row[1::2]) for row in scene
    )  # two pixels a byte, filter 0
    header = struct.pack(">IIBBBBB", scene.shape[1], scene.shape[0], 4, 0, 0, 0, 0)
    path = tmp_path / "map.png"
    path.write_bytes(_png((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    read = read_labels(path, encoding="train-ids")
    np.testing.assert_array_equal(read.train_ids, scene)


def _png(*chunks):
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    return data


def _palette_png(path, indices, palette):
    image = Image.fromarray(indices).convert("L")
    image.putpalette(np.asarray(palette, np.uint8).tobytes())
    assert image.mode == "P"
    image.save(path)
    return path


def test_palette_of_a_known_colour_map_decides(tmp_path):
    names = [BUILDING, SKY, VEGETATION, SIDEWALK, ROAD, CAR, PERSON, POLE, UNLABELLED]
    index = np.zeros(NUM_CLASSES, np.uint8)
    index[names] = np.arange(len(names))  # indices that mean nothing by themselves
    palette = [CLASSES[c].colour for c in names]
    read = read_labels(_palette_png(tmp_path / "map.png", index[street()], palette))
    assert read.encoding == "cityscapes-colours"
    np.testing.assert_array_equal(read.train_ids, street())


def test_palette_decides_against_streetlike_indices(tmp_path):
    swapped = np.arange(NUM_CLASSES)
    swapped[[ROAD, SKY]] = SKY, ROAD
    palette = [CLASSES[c].colour for c in swapped]
    read = read_labels(_palette_png(tmp_path / "map.png", street(), palette))
    np.testing.assert_array_equal(read.train_ids, swapped[street()])
    assert "train-ids" in read.alternatives


def test_arbitrary_palette_leaves_the_indices_to_decide(tmp_path):
    palette = np.random.default_rng(0).integers(0, 255, (256, 3))
    read = read_labels(_palette_png(tmp_path / "map.png", street(), palette))
    assert read.encoding == "train-ids"
    assert "palette indices" in read.reason
    np.testing.assert_array_equal(read.train_ids, street())


def test_array_arguments_are_left_alone():
    array = street()
    array.setflags(write=False)
    labels_from_array(array)
    np.testing.assert_array_equal(array, street())


# ------------------------------------------------------------------------------- custom TOML


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_toml_of_ids(tmp_path):
    toml = write(
        tmp_path / "mine.toml",
        'name = "mine"\n[classes]\n40 = "road"\n-5 = "Sky"\n41 = "parking"\n42 = "void"\n',
    )
    array = np.full((20, 20), 40, np.int16)
    array[:5], array[5], array[6] = -5, 41, 42
    read = labels_from_array(array, encoding=toml)
    assert read.encoding == "mine"
    assert read.train_ids[[0, 5, 6, 19], 0].tolist() == [SKY, UNLABELLED, UNLABELLED, ROAD]
    assert read.label_ids[[0, 5, 6, 19], 0].tolist() == [23, 9, 0, 7]


def test_toml_of_colours(tmp_path):
    toml = write(
        tmp_path / "mine.toml", '[classes]\n"1, 2,3" = "road"\n"#0a0B0c" = "license plate"\n'
    )
    array = np.full((20, 20, 3), (1, 2, 3), np.uint8)
    array[0] = (10, 11, 12)
    read = labels_from_array(array, encoding=toml)
    assert read.encoding == "mine"
    assert read.label_ids[[0, 1], 0].tolist() == [34, 7]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[classes\n", "cannot be read"),
        ("", "no table of classes"),
        ("[classes]\n", "no table of classes"),
        ("classes = 3\n", "no table of classes"),
        ('colours = 1\n[classes]\n1 = "road"\n', "unknown setting colours"),
        ('[classes]\n1 = "rode"\n', "1 = 'rode' is not a class"),
        ("[classes]\n1 = 7\n", "1 = 7 is not a class"),
        ('[classes]\none = "road"\n', "'one' is neither an id nor a colour"),
        ('[classes]\n"1,2,300" = "road"\n', "'1,2,300' is neither"),
        ('[classes]\n"#12345" = "road"\n', "'#12345' is neither"),
        ('[classes]\n1 = "road"\n"1,2,3" = "sky"\n', "mixed"),
        ('[classes]\n1 = "road"\n"01" = "sky"\n', "1 is given twice"),
    ],
)
def test_toml_errors_name_the_file(text, says, tmp_path):
    error = error_of(load_encoding, write(tmp_path / "mine.toml", text))
    assert "mine.toml" in error.message
    assert says in error.message
    assert error.hint


def test_unknown_encodings():
    error = error_of(load_encoding, "cityscape")
    assert "'cityscape'" in error.message
    assert "train-ids" in error.hint
    assert "cannot be read" in error_of(load_encoding, "missing.toml").message
    assert error.exit_code == 2


# ------------------------------------------------------------------------------- bad input


def refused(path, *says, **options):
    """The message and hint of a refusal, after checking that it names the file and `says`."""
    error = error_of(read_labels, path, **options)
    assert path.name in error.message
    for text in says:
        assert text in error.message, error.message
    assert error.hint
    assert isinstance(error, InputError)
    return error


def test_photo(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    refused(save(tmp_path / "p.png", pixels), "looks like a photo", "different colours")


def test_grey_photo(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    refused(save(tmp_path / "g.png", ramp), "looks like a photo", "256 different ids")


def test_jpeg_by_content(tmp_path):
    Image.fromarray(street()).save(tmp_path / "map.png", format="JPEG")
    refused(tmp_path / "map.png", "is a JPEG", "changes pixel values")


def test_lossy_webp(tmp_path):
    path = save(tmp_path / "map.webp", encode(street(), "cityscapes-colours"), quality=90)
    refused(path, "lossy WebP")


def test_lossy_webp_in_the_extended_format(tmp_path):
    rgba = np.dstack([encode(street(), "cityscapes-colours"), 255 - 9 * street()])
    path = save(tmp_path / "map.webp", rgba, quality=90)
    assert b"VP8X" in path.read_bytes()[:32]
    refused(path, "lossy WebP")


def test_jpeg_inside_tiff(tmp_path):
    path = save(tmp_path / "map.tif", encode(street(), "cityscapes-colours"), compression="jpeg")
    refused(path, "compressed as JPEG")


def test_unknown_ids(tmp_path):
    ids = encode(street(), "label-ids")
    ids[0, :5], ids[1, :3] = 77, 50
    error = refused(
        save(tmp_path / "m.png", ids), "2 of", "label-ids", "77 5 px", "50 3 px", "33 bicycle"
    )
    assert "--encoding" in error.hint
    assert "my.toml" in error.hint


def test_unknown_colours(tmp_path):
    colours = encode(street(), "cityscapes-colours")
    colours[0, :7] = (128, 64, 120)
    refused(save(tmp_path / "m.png", colours), "(128, 64, 120) 7 px", "(128, 64, 128) road")


def test_smoothed_borders_are_not_swallowed(tmp_path):
    image = Image.fromarray(encode(street(), "cityscapes-colours")).resize((400, 200), 2)
    image.save(tmp_path / "m.png")
    error = refused(tmp_path / "m.png", "smoothing", "interpolation", "more", "px")
    assert "nearest" in error.hint


@pytest.mark.parametrize("name", ID_ENCODINGS)
@pytest.mark.parametrize("size", [(400, 200), (64, 40)])
def test_interpolated_ids_are_refused_though_each_has_a_meaning(name, size, tmp_path):
    image = Image.fromarray(encode(street(120, 240), name))
    image.resize(size, Image.Resampling.BILINEAR).save(tmp_path / "m.png")
    error = refused(tmp_path / "m.png", "interpolation", " px")
    assert "nearest" in error.hint
    assert "--encoding" in error.hint
    image.resize(size, Image.Resampling.NEAREST).save(tmp_path / "n.png")
    assert read_labels(tmp_path / "n.png").encoding == name


def test_interpolated_ids_can_be_insisted_on(tmp_path):
    image = Image.fromarray(street()).resize((400, 200), Image.Resampling.BILINEAR)
    image.save(tmp_path / "m.png")
    read = read_labels(tmp_path / "m.png", encoding="train-ids")
    assert read.doubtful
    assert "interpolated" in read.reason


def test_noise_is_not_taken_for_interpolation():
    noise = np.random.default_rng(3).integers(0, 19, (64, 64), dtype=np.uint8)
    assert labels_from_array(noise, encoding="train-ids").doubtful is False
    assert labels_from_array(noise).size_hw == (64, 64)


def test_dark_grey_photo(tmp_path):
    dark = (np.random.default_rng(4).random((64, 64)) ** 4 * 255).astype(np.uint8)
    assert (dark < 34).mean() > 0.5
    refused(save(tmp_path / "g.png", dark), "looks like a photo")


def test_swapped_red_and_blue(tmp_path):
    colours = encode(street(), "cityscapes-colours")[..., ::-1]
    path = save(tmp_path / "m.png", np.ascontiguousarray(colours))
    error = refused(path, "red and blue are swapped", "Cityscapes colours")
    assert "RGB" in error.hint


def test_asked_encoding_does_not_fit(tmp_path):
    path = save(tmp_path / "m.png", encode(street(), "label-ids"))
    error = refused(path, "23", "train-ids", encoding="train-ids")
    assert "--encoding label-ids" in error.hint


def test_asked_encoding_of_the_other_kind(tmp_path):
    grey = save(tmp_path / "grey.png", street())
    refused(grey, "camvid-colours", "one channel", encoding="camvid-colours")
    rgb = save(tmp_path / "rgb.png", encode(street(), "camvid-colours"))
    refused(rgb, "train-ids", "holds colours", encoding="train-ids")


def test_nothing_labelled(tmp_path):
    path = save(tmp_path / "m.png", np.full((20, 20), 3, np.uint8))
    refused(path, "every pixel is unlabelled", "3 400 px", encoding="label-ids")


@pytest.mark.parametrize("size", [(1, 1), (15, 64), (64, 15)])
def test_too_small(size, tmp_path):
    refused(save(tmp_path / "m.png", np.zeros(size, np.uint8)), "too small", "16")


def test_sixteen_pixels_are_enough():
    assert labels_from_array(np.full((16, 16), 7, np.uint8)).size_hw == (16, 16)


@pytest.mark.parametrize("side", [10_000, 100_000])  # below and above Pillow's own limit
def test_absurd_png_is_refused_before_decoding(side, tmp_path):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    (tmp_path / "m.png").write_bytes(_png((b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")))
    refused(tmp_path / "m.png", "too large", "67,108,864")


def test_absurd_npy_is_refused_by_its_header(tmp_path):
    with (tmp_path / "m.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)}
        np.lib.format.write_array_header_1_0(file, header)
    refused(tmp_path / "m.npy", "too large", "1000000x1000000")


@pytest.mark.parametrize("suffix", ["png", "npy", "webp", "tif", "bmp"])
def test_truncated(suffix, tmp_path):
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    noisy = np.random.default_rng(2).integers(0, 19, (64, 64), dtype=np.uint8)
    if suffix == "npy":
        np.save(whole, noisy)
    else:
        save(whole, noisy, **({"lossless": True} if suffix == "webp" else {}))
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    refused(path, "damaged")


def test_empty_file(tmp_path):
    (tmp_path / "m.png").write_bytes(b"")
    refused(tmp_path / "m.png", "empty")


@pytest.mark.parametrize("data", [b"hello, world", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY", b"RIFF"])
def test_not_a_picture(data, tmp_path):
    (tmp_path / "m.png").write_bytes(data)
    refused(tmp_path / "m.png")


def test_gif_is_not_read(tmp_path):
    refused(save(tmp_path / "m.gif", street()), "not a PNG, TIFF, BMP, WebP or NPY")


def test_folder_missing_and_forbidden(tmp_path, monkeypatch):
    refused(tmp_path, "is a folder")
    refused(tmp_path / "missing.png", "no such file")
    path = save(tmp_path / "m.png", street())

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", forbidden)
    refused(path, "Permission denied")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((32, 32), np.float32), "floating-point numbers"),
        (np.zeros((32, 32), bool), "true and false"),
        (np.zeros((32, 32), complex), "complex128"),
        (np.zeros((20, 32, 32), np.uint8), "shape (20, 32, 32)"),
        (np.zeros((32, 32, 3), np.int64), "int64"),
        (np.zeros(32, np.uint8), "shape (32,)"),
        (np.zeros((), np.uint8), "shape ()"),
        (np.zeros((0, 32), np.uint8), "too small"),
    ],
)
def test_arrays_that_are_no_label_maps(array, says, tmp_path):
    np.save(tmp_path / "m.npy", array)
    refused(tmp_path / "m.npy", says)
    assert says in error_of(labels_from_array, array).message


def test_pickled_npy_is_never_opened(tmp_path):
    np.save(tmp_path / "m.npy", np.full((32, 32), None, object), allow_pickle=True)
    refused(tmp_path / "m.npy", "Python objects")


def test_npy_with_named_fields(tmp_path):
    np.save(tmp_path / "m.npy", np.zeros((32, 32), [("red", "u1")]))
    refused(tmp_path / "m.npy", "red")
    with pytest.warns(UserWarning, match="3.0"):
        np.save(tmp_path / "m.npy", np.zeros((32, 32), [("路", "u1")]))
    refused(tmp_path / "m.npy", "version 3.0")


def test_float_tiff(tmp_path):
    refused(save(tmp_path / "m.tif", street().astype(np.float32)), "floating-point numbers")


def test_black_and_white_mask(tmp_path):
    refused(save(tmp_path / "m.png", street() > 5), "only black and white")


def test_partly_transparent(tmp_path):
    rgba = np.dstack([encode(street(), "cityscapes-colours"), np.full(street().shape, 255)])
    rgba[:3, :, 3] = 0
    refused(save(tmp_path / "m.png", rgba.astype(np.uint8)), "transparent", "6.2 %")


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_several_pictures_in_one_file(suffix, tmp_path):
    first, second = (Image.fromarray(street()[:, ::step].copy()) for step in (1, -1))
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"m.{suffix}"
    first.save(path, save_all=True, append_images=[second], **options)
    refused(path, "holds 2 pictures")


# ------------------------------------------------------------------------------- instances


def test_instances_of_another_size(tmp_path):
    path = save(tmp_path / "m.png", street())
    other = save(tmp_path / "objects.png", street()[:40])
    message = error_of(read_labels, path, instances=other).message
    assert "objects.png" in message
    assert "96x40" in message
    assert "96x48" in message


def test_instances_may_be_colours(tmp_path):
    colours = np.zeros((*street().shape, 3), np.uint8)
    colours[10:20, 10:20] = (1, 2, 3)
    file = save(tmp_path / "objects.png", colours)
    read = read_labels(save(tmp_path / "m.png", street()), instances=file)
    assert read.instances_given
    assert read.instances[15, 15] == 0x010203
    assert read.instances[0, 0] == 0


def labels_of(train_ids, instances=None):
    train_ids = np.asarray(train_ids, np.uint8)
    if instances is not None:
        instances = np.asarray(instances, np.int32)
    return LabelMap(train_ids=train_ids, label_ids=train_ids + 7, instances=instances)


def test_edges_by_hand():
    classes = [[0, 0, 0, 0], [0, 0, 13, 13], [0, 0, 13, 13]]
    expected = [[0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 1, 0]]
    np.testing.assert_array_equal(instance_edges(labels_of(classes)), np.array(expected, bool))


def test_edges_between_touching_objects():
    cars = np.full((3, 6), CAR)
    assert not instance_edges(labels_of(cars)).any()
    edges = instance_edges(labels_of(cars, [[1, 1, 1, 2, 2, 2]] * 3))
    assert edges.tolist() == [[False, False, True, True, False, False]] * 3


def test_edges_between_label_ids_of_one_class():
    """License plate and unlabelled are one class here, but pix2pixHD tells them apart."""
    ids = np.array([[0, 0, 34, 34, 9]] * 2, np.uint8)
    unlabelled = LabelMap(train_ids=np.full((2, 5), UNLABELLED, np.uint8), label_ids=ids)
    assert instance_edges(unlabelled).tolist() == [[False, True, True, True, True]] * 2
    # The same id everywhere has no border, whatever classes are said to be there.
    odd = replace(unlabelled, train_ids=ids, label_ids=np.full((2, 5), 7, np.uint8))
    assert not instance_edges(odd).any()


def test_edges_keep_class_borders_where_only_objects_are_numbered():
    edges = instance_edges(labels_of([[ROAD, SIDEWALK, SIDEWALK]] * 2, np.zeros((2, 3))))
    assert edges.tolist() == [[True, True, False]] * 2


def test_a_blank_map_has_no_class_and_no_border():
    blank = blank_labels((3, 5))
    assert blank.size_hw == (3, 5)
    assert (blank.train_ids == UNLABELLED).all()
    assert not blank.label_ids.any()
    assert (blank.instances, blank.path, blank.doubtful) == (None, None, False)
    assert blank.train_ids.dtype == blank.label_ids.dtype == np.uint8
    assert blank.reason == "No label map: these weights read none."
    assert not instance_edges(blank).any()
    assert class_histogram(blank) == [(UNLABELLED, 15, 1.0)]


# ------------------------------------------------------------------------------- sizes


def test_majority_when_shrinking():
    a = labels_of([[ROAD, ROAD, CAR, CAR], [ROAD, CAR, CAR, ROAD]])
    assert resize_labels(a, (1, 2)).train_ids.tolist() == [[ROAD, CAR]]


def test_a_tie_goes_to_the_lower_train_id():
    assert resize_labels(labels_of([[CAR, SKY], [CAR, SKY]]), (1, 1)).train_ids == SKY


def test_thin_things_count_twice():
    column = np.full((4, 4), SKY)
    column[:, 1] = POLE  # 4 pixels of 16: 8 votes against 12
    assert resize_labels(labels_of(column), (1, 1)).train_ids == SKY
    column[:3, 2] = POLE  # 7 of 16: 14 against 9
    assert resize_labels(labels_of(column), (1, 1)).train_ids == POLE


def test_label_id_and_instance_follow_the_winner():
    a = labels_of([[ROAD, CAR], [CAR, CAR]], [[1, 2], [3, 4]])
    small = resize_labels(a, (1, 1))
    assert (small.train_ids, small.label_ids, small.instances) == (CAR, CAR + 7, 4)  # the middle
    b = labels_of([[ROAD, CAR], [CAR, ROAD]], [[1, 2], [3, 4]])
    b.train_ids[0, 0] = CAR
    assert resize_labels(b, (1, 1)).instances == 1  # the middle is road: the first car


def test_nearest_when_growing():
    grown = resize_labels(labels_of([[ROAD, CAR]], [[5, 6]]), (2, 4))
    assert grown.train_ids.tolist() == [[ROAD, ROAD, CAR, CAR]] * 2
    assert grown.instances.tolist() == [[5, 5, 6, 6]] * 2


def test_one_axis_grows_and_the_other_shrinks():
    a = labels_of([[ROAD, ROAD, ROAD, CAR, CAR, CAR]])
    assert resize_labels(a, (3, 2)).train_ids.tolist() == [[ROAD, CAR]] * 3


@pytest.mark.parametrize("size_hw", [(7, 13), (48, 31), (17, 96), (47, 95), (100, 5), (1, 1)])
def test_odd_sizes_against_a_slow_vote(size_hw):
    scene = street()
    small = resize_labels(labels_of(scene), size_hw).train_ids
    assert small.shape == size_hw
    weights = np.array([2 if c in (5, 6, 7, 11, 12, 17, 18) else 1 for c in range(NUM_CLASSES)])
    rows, columns = (
        [
            [s for s in range(old) if int((s + 0.5) * new / old) == i]
            or [int((i + 0.5) * old / new)]
            for i in range(new)
        ]
        for new, old in zip(size_hw, scene.shape, strict=True)
    )
    if size_hw[0] > scene.shape[0]:
        rows = [[int((i + 0.5) * scene.shape[0] / size_hw[0])] for i in range(size_hw[0])]
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            votes = np.bincount(scene[np.ix_(row, column)].ravel(), minlength=20) * weights
            assert small[i, j] == np.argmax(votes)


def test_strips_do_not_show(monkeypatch):
    a = labels_of(street(160, 320))
    whole = resize_labels(a, (100, 200))
    monkeypatch.setattr(labels_module, "STRIP_CELLS", 1)  # one row at a time
    np.testing.assert_array_equal(resize_labels(a, (100, 200)).train_ids, whole.train_ids)


def test_same_size_is_the_same_map():
    a = labels_of(street())
    assert resize_labels(a, a.size_hw) is a
    with pytest.raises(ShapeError, match="0x5"):
        resize_labels(a, (5, 0))


def test_pad_and_crop_undo_each_other():
    a = labels_from_array(street())
    padded, (top, left) = pad_labels(a, (53, 100))
    assert (top, left) == (2, 2)
    assert padded.size_hw == (53, 100)
    assert (padded.train_ids[:, 0] == padded.train_ids[:, 2]).all()
    assert (padded.train_ids[-1] == padded.train_ids[49]).all()
    back = crop_labels(padded, (top, left, *a.size_hw))
    assert back.sha256 == a.sha256
    np.testing.assert_array_equal(back.label_ids, a.label_ids)


def test_pad_and_crop_errors():
    a = labels_of(street())
    with pytest.raises(ShapeError, match="cannot pad 96x48"):
        pad_labels(a, (47, 96))
    for box in ((0, 0, 49, 1), (-1, 0, 5, 5), (0, 0, 0, 5), (0, 90, 5, 7)):
        with pytest.raises(ShapeError, match="not inside"):
            crop_labels(a, box)


def test_one_hot():
    planes = one_hot(street())
    assert planes.shape == (20, 48, 96)
    assert planes.dtype == np.float32
    assert (planes.sum(axis=0) == 1).all()
    np.testing.assert_array_equal(planes.argmax(axis=0), street())


def test_histogram():
    a = labels_of([[CAR, CAR, ROAD, UNLABELLED], [CAR, ROAD, ROAD, ROAD]])
    assert class_histogram(a) == [(ROAD, 4, 0.5), (CAR, 3, 0.375), (UNLABELLED, 1, 0.125)]


def test_reading_does_not_import_torch():
    code = "import sys, seg2vid_cli.label_view; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((128, 256), (128, 256)),
        ((129, 250), (160, 256)),
        ((1, 1), (128, 128)),
        ((128, 2), (128, 128)),
    ],
)
def test_a_padded_size_is_a_multiple_and_no_smaller(size, expected):
    assert padded_size(size, multiple=32, smallest=128) == expected
    assert padded_size((100, 100), multiple=48, smallest=128) == (144, 144)
