"""Folders whose files are the frames of a sequence, known by the numbers in their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from seg2vid_cli.errors import InputError


def list_files(folder: Path, extensions: Sequence[str]) -> tuple[Path, ...]:
    """Files of a folder in the order in which a person counts: 2 before 10.

    Args:
        folder: Where to look; folders inside it and hidden files are left out.
        extensions: In lower case, with the dot.

    Raises:
        InputError: The folder cannot be read.
    """
    try:
        found = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in extensions and path.is_file() and path.name[0] != "."
        ]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
    return tuple(sorted(found, key=_count_key))


def _count_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)], path.name


def frame_numbers(files: Sequence[Path]) -> list[int] | None:
    """The number that tells the files of a sequence apart.

    It is the only number that differs between the names, as in `frame_00012_labels2`; of one file
    alone, the last number.

    Returns:
        None where names have no number, or differ in more than one, or two have the same.
    """
    split = [re.split(r"(\d+)", file.stem) for file in files]
    if not split or len({len(parts) for parts in split}) != 1 or len(split[0]) < 2:
        return None
    if len(files) == 1:
        return [int(split[0][-2])]
    texts = zip(*(parts[0::2] for parts in split), strict=True)
    if any(len(set(text)) > 1 for text in texts):
        return None
    columns = [[int(n) for n in column] for column in zip(*(p[1::2] for p in split), strict=True)]
    varying = [column for column in columns if len(set(column)) > 1]
    if len(varying) != 1 or len(set(varying[0])) != len(files):
        return None
    return varying[0]


def find_gap(files: Sequence[Path]) -> tuple[Path, Path, int, int] | None:
    """The first place where a sequence lacks frames.

    Args:
        files: In order. Their usual step is the commonest difference of neighbours' numbers.

    Returns:
        The files before and after the gap, the first missing number and how many are missing; None
        where nothing is missing, or the names do not say.
    """
    numbers = frame_numbers(files)
    if numbers is None or len(numbers) < 2:
        return None
    steps = Counter(later - former for former, later in pairwise(numbers))
    step = min(size for size, count in steps.items() if count == max(steps.values()))
    for (former, first), (later, second) in pairwise(zip(files, numbers, strict=True)):
        if second - first >= 2 * step:  # time stamps waver by less
            return former, later, first + step, (second - first) // step - 1
    return None


def match_files(
    frames: Sequence[Path], folder: Path, extensions: Sequence[str], *, what: str
) -> tuple[Path, ...]:
    """For each frame the file of a folder that belongs to it.

    That is the one of the same name but for the extension, else the one with the same frame number
    (`semantic_0012.png` and `rgb_0012.jpg`).

    Args:
        frames: Files of the sequence.
        folder: Where the others lie.
        extensions: Of the others.
        what: What they are, for messages: "edge picture".

    Raises:
        InputError: A frame has none, or two that fit; names the frame.
    """
    others = list_files(folder, extensions)
    if not others:
        raise InputError(
            f"{folder}: no {what}s ({', '.join(extensions)})", hint="name the folder they lie in"
        )
    by_stem: dict[str, list[Path]] = {}
    for other in others:
        by_stem.setdefault(other.stem, []).append(other)
    own_numbers = frame_numbers(frames)
    numbers = frame_numbers([fitting[0] for fitting in by_stem.values()])
    by_number = dict(zip(numbers or [], by_stem.values(), strict=False))
    found = []
    for index, frame in enumerate(frames):
        fitting = by_stem.get(frame.stem, [])
        if not fitting and own_numbers is not None:
            fitting = by_number.get(own_numbers[index], [])
        if not fitting:
            hint = f"add {frame.stem}{extensions[0]}, or one with the same number"
            if numbers is None or own_numbers is None:
                hint = (
                    f"add {frame.stem}{extensions[0]}; numbers are compared where all names of a "
                    "folder differ in one number and nothing else"
                )
            raise InputError(f"{folder}: no {what} for frame {frame.name}", hint=hint)
        if len(fitting) > 1:
            raise InputError(
                f"{folder}: {fitting[0].name} and {fitting[1].name} both fit {frame.name}",
                hint="leave one of them",
            )
        found.append(fitting[0])
    return tuple(found)
