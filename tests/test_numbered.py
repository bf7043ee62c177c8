"""Frames of a sequence: their order, their numbers, gaps, and what belongs to which frame."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from seg2vid_cli.errors import InputError
from seg2vid_cli.numbered import find_gap, frame_numbers, list_files, match_files

PNG = (".png",)
PICTURES = (".png", ".jpg")


def files(*names: str) -> list[Path]:
    return [Path("folder", name) for name in names]


def numbered(*numbers: int) -> list[Path]:
    return files(*(f"frame_{number:04d}.png" for number in numbers))


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def names_of(paths: tuple[Path, ...]) -> list[str]:
    return [path.name for path in paths]


# ---- listing -------------------------------------------------------------------------------------


def test_the_order_is_that_in_which_a_person_counts(tmp_path):
    order = ["1.png", "2.png", "10.png", "a2b9.png", "a2b10.png", "a10b1.png", "b.png"]
    touch(tmp_path, *reversed(order))
    assert names_of(list_files(tmp_path, PNG)) == order


def test_names_that_begin_with_numbers_or_letters_have_one_order(tmp_path):
    names = ["7", "a7", "7a", "a", "07", "7.5", "²", "٣", "a 7"]
    touch(tmp_path, *(f"{name}.png" for name in names))
    first = names_of(list_files(tmp_path, PNG))
    assert sorted(first) == sorted(f"{name}.png" for name in names)
    assert first.index("07.png") + 1 == first.index("7.png")  # equal numbers: by the text


def test_only_files_of_these_kinds_are_listed(tmp_path):
    touch(tmp_path, "1.png", "2.PNG", ".3.png", "._4.png", "5.png.txt", "6.jpg", "png", "Thumbs.db")
    touch(tmp_path / "7.png", "8.png")  # a folder
    assert names_of(list_files(tmp_path, PNG)) == ["1.png", "2.PNG"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="none: cannot be read: No such file or directory"):
        list_files(tmp_path / "none", PNG)
    touch(tmp_path, "file")
    with pytest.raises(InputError, match="file: cannot be read: Not a directory"):
        list_files(tmp_path / "file", PNG)


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["1.png", "2.png"], [1, 2]),
        (["frame_00012_labels2.png", "frame_00013_labels2.png"], [12, 13]),
        (["0016E5_07959.png", "0016E5_07961.png", "0016E5_07999.png"], [7959, 7961, 7999]),
        (["9.png", "010.png"], [9, 10]),  # with and without zeros in front
        (["a.7.b.png", "a.3.b.png"], [7, 3]),  # in the order of the files
        (["x1.png", "x2.npy"], [1, 2]),  # the ending does not count
        (["x1.2.png", "x1.3.png"], [2, 3]),
        (["a.png", "b.png"], None),
        (["a.png"], None),
        ([], None),
        (["a1.png", "b2.png"], None),  # other words
        (["a1b1.png", "a2b2.png"], None),  # which of the two?
        (["a1.png", "a1b2.png"], None),
        (["a1.png", "a01.png", "a2.png"], None),  # one number twice
        (["x1.png", "x1.npy", "x2.png"], None),
        (["same.png", "same.jpg"], None),
    ],
    ids=str,
)
def test_the_frame_number_is_the_only_one_that_differs(names, expected):
    assert frame_numbers(files(*names)) == expected


# ---- gaps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "gap"),
    [
        ((1, 2, 3, 4), None),
        ((0, 2, 4, 6), None),  # every second frame
        ((7959, 7961, 7963), None),
        ((5, 1005), None),  # two say nothing
        ((1, 2, 4, 5), (2, 4, 3, 1)),
        ((1, 2, 3, 8), (3, 8, 4, 4)),
        ((1, 3, 4, 5), (1, 3, 2, 1)),  # the first one
        ((0, 2, 4, 8, 10), (4, 8, 6, 1)),
        ((0, 2, 4, 12, 14), (4, 12, 6, 3)),
        ((0, 30, 60, 150), (60, 150, 90, 2)),
        ((1, 2, 4, 5, 9, 10), (2, 4, 3, 1)),  # of two gaps the first
        ((0, 2, 4, 5, 6, 8), None),  # too many is no gap
        ((1, 2, 9), (2, 9, 3, 6)),  # of two steps the smaller
    ],
    ids=str,
)
def test_a_gap_is_where_more_than_the_usual_step_lies_between(numbers, gap):
    found = find_gap(numbered(*numbers))
    if gap is None:
        assert found is None
    else:
        former, later, number, missing = gap
        assert found == (*numbered(former, later), number, missing)


def test_every_single_frame_that_is_taken_out_is_missed():
    for step in (1, 2, 10):
        whole = range(100, 100 + 9 * step, step)
        for taken in list(whole)[1:-1]:
            found = find_gap(numbered(*(n for n in whole if n != taken)))
            assert found == (*numbered(taken - step, taken + step), taken, 1)


@pytest.mark.parametrize("names", [["a.png", "c.png", "x.png"], ["x.png"], []], ids=str)
def test_names_without_numbers_have_no_gaps(names):
    assert find_gap(files(*names)) is None


@pytest.mark.parametrize(
    "numbers",
    [(0, 33, 67, 100, 133, 167, 200), (1000, 1040, 1080, 1121, 1161, 1201)],
    ids=["30 Hz in ms", "25 Hz with jitter"],
)
def test_time_stamps_that_are_rounded_have_no_gaps(numbers):
    assert find_gap(numbered(*numbers)) is None


# ---- what belongs together -----------------------------------------------------------------------


def test_the_same_name_belongs_together_whatever_the_ending(tmp_path):
    frames = files("left.png", "right.png")
    touch(tmp_path, "right.png", "left.JPG", "middle.png")
    found = match_files(frames, tmp_path, PICTURES, what="edge picture")
    assert found == (tmp_path / "left.JPG", tmp_path / "right.png")


@pytest.mark.parametrize("order", list(permutations((0, 1, 2))), ids=str)
def test_the_same_number_belongs_together_whatever_the_order(tmp_path, order):
    numbers = (8, 10, 12)
    touch(tmp_path, "rgb_8.jpg", "rgb_9.jpg", "rgb_10.jpg", "rgb_12.jpg")  # one more is no harm
    frames = files(*(f"semantic_{numbers[i]:04d}.png" for i in order))
    found = match_files(frames, tmp_path, PICTURES, what="edge picture")
    assert names_of(found) == [f"rgb_{numbers[i]}.jpg" for i in order]


def test_a_name_counts_more_than_a_number(tmp_path):
    touch(tmp_path, "x1.png", "x2.png", "x4.png", "x03.png")
    found = match_files(files("x1.png", "x2.png", "x3.png"), tmp_path, PICTURES, what="picture")
    assert names_of(found) == ["x1.png", "x2.png", "x03.png"]


def test_a_frame_without_a_partner_is_named(tmp_path):
    touch(tmp_path, "rgb_1.png", "rgb_3.png")
    with pytest.raises(InputError) as caught:
        match_files(numbered(1, 2, 3), tmp_path, PICTURES, what="edge picture")
    assert caught.value.message == f"{tmp_path}: no edge picture for frame frame_0002.png"
    assert caught.value.hint == "add frame_0002.png, or one with the same number"


def test_numbers_of_another_kind_are_not_taken_for_the_frame_s(tmp_path):
    touch(tmp_path, "run1_cam1.png", "run2_cam2.png")
    with pytest.raises(InputError, match=r"no edge picture for frame frame_0001\.png"):
        match_files(numbered(1, 2), tmp_path, PICTURES, what="edge picture")


def test_two_that_fit_by_name_are_both_named(tmp_path):
    touch(tmp_path, "frame_0001.png", "frame_0002.jpg", "frame_0002.png")
    with pytest.raises(InputError) as caught:
        match_files(numbered(1, 2), tmp_path, PICTURES, what="edge picture")
    for text in (str(tmp_path), "frame_0002.jpg", "frame_0002.png", "both fit"):
        assert text in caught.value.message
    assert caught.value.hint == "leave one of them"


def test_two_that_fit_by_number_are_both_named(tmp_path):
    touch(tmp_path, "rgb_1.png", "rgb_2.jpg", "rgb_2.png", "rgb_3.png")
    with pytest.raises(InputError) as caught:
        match_files(numbered(1, 2, 3), tmp_path, PICTURES, what="edge picture")
    for text in ("frame_0002.png", "rgb_2.jpg", "rgb_2.png", "both fit"):
        assert text in caught.value.message


@pytest.mark.parametrize("others", [("rgb_12.jpg",), ("rgb_12.jpg", "rgb_13.jpg")], ids=str)
def test_one_frame_alone_is_matched_by_its_number_too(tmp_path, others):
    touch(tmp_path, *others)
    found = match_files(files("semantic_0012.png"), tmp_path, PICTURES, what="edge picture")
    assert names_of(found) == ["rgb_12.jpg"]


def test_a_folder_without_any_is_named_with_what_was_looked_for(tmp_path):
    touch(tmp_path, "1.txt")
    with pytest.raises(InputError) as caught:
        match_files(numbered(1, 2), tmp_path, PICTURES, what="edge picture")
    assert caught.value.message == f"{tmp_path}: no edge pictures (.png, .jpg)"
    assert caught.value.hint
