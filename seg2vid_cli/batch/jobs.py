"""What a batch has to do: one job per label map, known by what decides its clips."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain, count
from pathlib import PurePosixPath
from typing import Any

from seg2vid_cli.sample import Sample
from seg2vid_cli.video import VIDEO_EXTENSIONS

KEY_VERSION = 1
EXTRAS = ("frames", "flow", "visibility", "panel", "preview")
_OF_NO_INFLUENCE = ("batch", "compile")  # but for rounding
_HASHED = ("weights", "first_frame_weights", "motion_weights")  # their hashes say it better
_LIKE_AN_EXTRA = re.compile(rf"\.({'|'.join(EXTRAS)})$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class WorkSpec:
    """What is the same for all label maps of a batch.

    Args:
        weights: Name or folder of the bundle.
        first_frame_weights: Of another bundle, for the first frame.
        motion_weights: Of another bundle, for the motion.
        precision: Of the networks.
        encoding: Of the label maps.
        samples: Clips of each map.
        settings: `frames`, `fps`, `quality`, `size_hw`, `fit` of `Pipeline.generate`.
        extension: Of the videos.
        extras: Further outputs of each clip, out of `EXTRAS`.
        batch: Label maps of one size that are made together; by device if not given.
        compile: Whether networks are compiled, which takes a while and pays for many clips.
        weights_sha256: Of the bundles' files; filled in by `run_batch`.
        encoding_sha256: Of the encoding's file, if it is one; filled in by `run_batch`.
    """

    weights: str
    first_frame_weights: str | None = None
    motion_weights: str | None = None
    precision: str = "auto"
    encoding: str = "auto"
    samples: tuple[Sample, ...] = (Sample(),)
    settings: Mapping[str, Any]
    extension: str = VIDEO_EXTENSIONS[0]
    extras: tuple[str, ...] = ()
    batch: int | None = None
    compile: bool = False
    weights_sha256: Mapping[str, str] = field(default_factory=dict)
    encoding_sha256: str | None = None

    def key(self, input_sha256: str = "") -> str:
        """Hash of all that decides the clips of one label map; without one, of any."""
        facts = asdict(self)
        for name in (*_OF_NO_INFLUENCE, *_HASHED):
            del facts[name]
        if self.encoding_sha256 is not None:
            del facts["encoding"]  # the file may lie anywhere
        facts |= {"input": input_sha256, "version": KEY_VERSION}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One label map.

    Args:
        input: Path inside the folder of maps.
        input_sha256: Hash of the file.
        key: Of `WorkSpec.key`.
        stem: Path inside the output folder, without ending.
    """

    input: str
    input_sha256: str
    key: str
    stem: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a job.

    Args:
        job: The job.
        outputs: Files and folders written, with their sizes in bytes.
        size: Width and height of the clips.
        reason: Why it failed; None where it did not.
        hint: What to do about it.
        seconds: What it took: the time since the map before it was finished, or since its own
            label map was read, shared out among maps made together.
    """

    job: Job
    outputs: tuple[tuple[str, int], ...] = ()
    size: tuple[int, int] | None = None
    reason: str | None = None
    hint: str | None = None
    seconds: float = 0.0


def output_names(stem: str, spec: WorkSpec) -> list[dict[str, str]]:
    """Paths inside the output folder for every sample: `video` and the extras.

    `x` becomes `x.mp4` and `x.preview.png`; of several samples `x-001.mp4`, `x-001.preview.png`.
    """
    samples = len(spec.samples)
    digits = max(3, len(str(samples)))
    stems = [f"{stem}-{number:0{digits}d}" for number in range(1, samples + 1)]
    endings = {name: f".{name}" for name in spec.extras}  # of folders
    files = {"panel": spec.extension, "preview": ".png"}
    endings |= {name: endings[name] + end for name, end in files.items() if name in endings}
    endings = {"video": spec.extension, **endings}
    return [
        {name: f"{one}{ending}" for name, ending in endings.items()}
        for one in ([stem] if samples == 1 else stems)
    ]


class Stems:
    """Names of outputs, never the same for two inputs.

    Args:
        claimed: Stems that earlier runs gave, by input.
    """

    def __init__(self, claimed: Mapping[str, str]) -> None:
        self._of_input = dict(claimed)
        self._taken = {_folded(stem): name for name, stem in claimed.items()}

    def claim(self, name: str) -> str:
        """`a/x.png` to `a/x`, or to `a/x.png` where another file has that already.

        No stem can be taken for an extra output of another: `x.panel.png` keeps its ending, and
        `x.frames/y.png` becomes `x.frames_/y`.
        """
        if name not in self._of_input:
            path = PurePosixPath(name)
            parents = (_LIKE_AN_EXTRA.sub(r".\1_", part) for part in path.parts[:-1])
            kept = PurePosixPath(*parents, path.name).as_posix()
            bare = PurePosixPath(*PurePosixPath(kept).parts[:-1], path.stem).as_posix()
            wished = [kept] if _LIKE_AN_EXTRA.search(bare) else [bare, kept]
            others = (f"{kept}~{number}" for number in count(2))
            stem = next(s for s in chain(wished, others) if _folded(s) not in self._taken)
            self._of_input[name] = stem
            self._taken[_folded(stem)] = name
        return self._of_input[name]


def _folded(stem: str) -> str:
    """Equal for names that some file systems take for the same."""
    return unicodedata.normalize("NFC", stem).casefold()
