"""Files are written whole or not at all, and read back as what was written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from seg2vid_cli import video
from seg2vid_cli.errors import InputError, ShapeError, VideoError
from seg2vid_cli.video import (
    check_folder,
    check_output,
    open_folder,
    open_video,
    probe_video,
    read_frames,
    read_metadata,
    write_file,
)

ALL = pytest.mark.parametrize("extension", [".mp4", ".gif", ".webp"])
SIZE = (32, 64)
NASTY = {
    "text": "é 💡 \u0000 line\nline\r\n=;#\\ \"quoted\" 'single' %d ]]> </x>",
    "schlüssel=;#": [1, 2.5, None, True, {"deep": []}],
}


def pictures(count: int, size_hw: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """A smooth picture that moves one pixel to the right per frame."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    first = np.stack([4 * x % 256, 3 * y, 255 - 2 * x], axis=-1).astype(np.uint8)
    return [np.roll(first, i, axis=1) for i in range(count)]


def write(path: Path, frames: list[np.ndarray], *, fps: float = 15, **settings: object) -> Path:
    with open_video(path, size_hw=frames[0].shape[:2], fps=fps, **settings) as writer:
        for frame in frames:
            writer.write(frame)
    assert writer.frames_written == len(frames)
    return path


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def ffmpeg(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-y", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)


# ---- all formats ---------------------------------------------------------------------------------


@ALL
def test_reads_back_what_was_written(tmp_path, extension):
    frames = pictures(5)
    path = write(tmp_path / f"clip{extension.upper()}", frames, quality=9)
    info = probe_video(path)
    assert (info.frames, info.size_hw) == (5, SIZE)
    assert info.codec == {".mp4": "h264", ".gif": "gif", ".webp": "webp"}[extension]
    read = list(read_frames(path))
    assert len(read) == 5
    for frame, back in zip(frames, read, strict=True):
        assert back.dtype == np.uint8
        assert np.abs(frame.astype(int) - back).mean() < 6
        wrong = np.roll(frame, 16, axis=1)
        assert np.abs(wrong.astype(int) - back).mean() > 20
    assert names(tmp_path) == [path.name]


@ALL
def test_keeps_repeated_frames(tmp_path, extension):
    path = write(tmp_path / f"still{extension}", pictures(1) * 6)
    assert probe_video(path).frames == 6
    assert probe_video(path).duration_s == pytest.approx(6 / 15, abs=0.006)


@ALL
def test_one_frame(tmp_path, extension):
    assert probe_video(write(tmp_path / f"one{extension}", pictures(1))).frames == 1


@ALL
def test_same_frames_same_bytes(tmp_path, extension):
    a = write(tmp_path / f"a{extension}", pictures(8), metadata=NASTY)
    b = write(tmp_path / f"b{extension}", pictures(8), metadata=NASTY)
    assert a.read_bytes() == b.read_bytes()
    other = write(tmp_path / f"c{extension}", pictures(9)[1:], metadata=NASTY)
    assert a.read_bytes() != other.read_bytes()


@ALL
def test_metadata_round_trip(tmp_path, extension):
    metadata = {**NASTY, "long": "x=;#\\\n" * 25_000}  # 150 kB, above one argument's limit
    path = write(tmp_path / f"clip{extension}", pictures(2), metadata=metadata)
    assert read_metadata(path) == metadata
    assert probe_video(path).frames == 2


@ALL
def test_no_metadata(tmp_path, extension):
    assert read_metadata(write(tmp_path / f"clip{extension}", pictures(2))) is None


@ALL
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_interruption_leaves_the_old_file(tmp_path, extension, error):
    path = tmp_path / f"clip{extension}"
    path.write_bytes(b"old")
    writer = open_video(path, size_hw=SIZE, fps=15)

    def interrupted() -> None:
        with writer:
            writer.write(pictures(1)[0])
            assert len(names(tmp_path)) == 2
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == [path.name]
    assert path.read_bytes() == b"old"
    if extension == ".mp4":
        assert writer._encoder._process.returncode == -signal.SIGKILL


@ALL
def test_interruption_while_closing_leaves_the_old_file(tmp_path, extension, monkeypatch):
    path = tmp_path / f"clip{extension}"
    path.write_bytes(b"old")

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "probe_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, pictures(2))
    assert names(tmp_path) == [path.name]
    assert path.read_bytes() == b"old"


@ALL
def test_replaces_an_old_file_and_follows_a_link(tmp_path, extension):
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / f"old{extension}").write_bytes(b"old")
    link = tmp_path / f"link{extension}"
    link.symlink_to(folder / f"old{extension}")
    write(link, pictures(2))
    assert link.is_symlink()
    assert probe_video(folder / f"old{extension}").frames == 2


@ALL
def test_no_frames_is_an_error(tmp_path, extension):
    with (
        pytest.raises(VideoError, match="no frames"),
        open_video(tmp_path / f"clip{extension}", size_hw=SIZE, fps=15),
    ):
        pass
    assert names(tmp_path) == []


@ALL
def test_lost_frames_are_noticed(tmp_path, extension):
    def miscounted() -> None:
        with open_video(tmp_path / f"clip{extension}", size_hw=SIZE, fps=15) as writer:
            for frame in pictures(2):
                writer.write(frame)
            writer.frames_written += 1

    with pytest.raises(VideoError, match=r"2 frames.*but 3"):
        miscounted()
    assert names(tmp_path) == []


@ALL
def test_file_rights_follow_the_umask(tmp_path, extension):
    (tmp_path / "plain").write_bytes(b"")
    path = write(tmp_path / f"clip{extension}", pictures(1))
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@ALL
def test_wrong_frames_are_refused(tmp_path, extension):
    with open_video(tmp_path / f"clip{extension}", size_hw=SIZE, fps=15) as writer:
        writer.write(pictures(1)[0][:, ::-1])  # not contiguous is fine
        with pytest.raises(ShapeError, match=r"\(32, 64, 3\)"):
            writer.write(pictures(1, (32, 32))[0])
        with pytest.raises(ShapeError, match="float32"):
            writer.write(pictures(1)[0].astype(np.float32))


@ALL
def test_damaged_files_are_refused(tmp_path, extension):
    path = write(tmp_path / f"clip{extension}", pictures(5), quality=10)
    data = path.read_bytes()
    for length in (len(data) * 19 // 20, len(data) * 3 // 4, len(data) // 4):
        path.write_bytes(data[:length])
        with pytest.raises(VideoError, match=re.escape(str(path))):
            probe_video(path)
    path.write_bytes(b"not a video")
    for read in (probe_video, read_metadata, lambda path: list(read_frames(path))):
        with pytest.raises(VideoError, match=re.escape(str(path))):
            read(path)


# ---- MP4 -----------------------------------------------------------------------------------------

# By hand from ITU-R BT.709: Y = 16 + 219 (0.2126 R + 0.7152 G + 0.0722 B),
# Cb = 128 + 224 (B - Y') / 1.8556, Cr = 128 + 224 (R - Y') / 1.5748. The luma of BT.601
# (0.299, 0.587, 0.114) stands last.
PATCHES = {
    (255, 0, 0): ((63, 102, 240), 81),
    (0, 255, 0): ((173, 42, 26), 145),
    (0, 170, 0): ((120, 70, 60), 102),
    (0, 0, 255): ((32, 240, 118), 41),
    (255, 255, 255): ((235, 128, 128), 235),
    (0, 0, 0): ((16, 128, 128), 16),
}


def test_mp4_colours_are_bt709(tmp_path):
    patches = np.repeat([list(PATCHES)], 32, axis=0).repeat(32, axis=1).astype(np.uint8)
    path = write(tmp_path / "clip.mp4", [patches] * 2, quality=10)
    height, width = patches.shape[:2]
    raw = np.frombuffer(
        ffmpeg("-i", path, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-").stdout,
        np.uint8,
    )
    luma, blue, red = np.split(raw, [height * width, height * width * 5 // 4])
    decoded = next(iter(read_frames(path)))
    for i, (rgb, (yuv, luma_601)) in enumerate(PATCHES.items()):
        stored = (
            luma.reshape(height, width)[16, 32 * i + 16],
            blue.reshape(height // 2, width // 2)[8, 16 * i + 8],
            red.reshape(height // 2, width // 2)[8, 16 * i + 8],
        )
        assert np.allclose(np.array(stored, int), yuv, atol=2), rgb
        if max(rgb) != min(rgb):
            assert abs(int(stored[0]) - luma_601) > 6, rgb
        assert np.allclose(decoded[16, 32 * i + 16].astype(int), rgb, atol=6), rgb

    # Read with the matrix of BT.601, the dark green would be plainly another.
    as_601 = "scale=in_color_matrix=bt601:in_range=tv:out_range=pc"
    wrong = np.frombuffer(
        ffmpeg("-i", path, *("-vf", as_601, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")).stdout,
        np.uint8,
    )[: patches.size].reshape(patches.shape)
    assert np.abs(wrong[16, 80].astype(int) - (0, 170, 0)).max() > 20


def test_mp4_is_tagged_twice_and_starts_fast(tmp_path):
    path = write(tmp_path / "clip.mp4", pictures(3))
    info = probe_video(path)
    assert (info.pixel_format, info.colour_range, info.colour_space) == ("yuv420p", "tv", "bt709")
    data = path.read_bytes()
    assert b"colrnclx\0\1\0\1\0\1\0" in data  # primaries, transfer, matrix: 1; full range: 0
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    # The bare H.264 stream says so too.
    assert ffmpeg("-i", path, "-c", "copy", "-f", "h264", tmp_path / "bare.264").returncode == 0
    assert b"yuv420p(tv, bt709" in ffmpeg("-i", tmp_path / "bare.264").stderr


def test_mp4_has_no_dates_nor_program_names(tmp_path):
    path = write(tmp_path / "clip.mp4", pictures(2), metadata={"a": 1})
    said = ffmpeg("-i", path).stderr
    assert b"creation_time" not in said
    assert b"Lavf" not in path.read_bytes()


def test_mp4_comment_is_what_ffmpeg_reads(tmp_path):
    path = write(tmp_path / "clip.mp4", pictures(2), metadata=NASTY)
    said = ffmpeg("-i", path, "-f", "ffmetadata", "-").stdout.decode()
    comment = re.search(r"^comment=(.*)$", said, re.MULTILINE)
    assert comment is not None
    assert json.loads(re.sub(r"\\(.)", r"\1", comment[1])) == NASTY


@pytest.mark.parametrize("fps", [1, 12.5, 15, 23.976, 30000 / 1001, 29.97, 60])
def test_mp4_keeps_the_frame_rate(tmp_path, fps):
    info = probe_video(write(tmp_path / "clip.mp4", pictures(4), fps=fps))
    assert info.fps == pytest.approx(fps, rel=1e-6)
    assert info.duration_s == pytest.approx(4 / fps, rel=1e-6)


def test_mp4_quality_changes_size_and_error(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    poor = write(tmp_path / "poor.mp4", [noise] * 2, quality=0)
    good = write(tmp_path / "good.mp4", [noise] * 2, quality=10)
    assert good.stat().st_size > 2 * poor.stat().st_size


@pytest.mark.parametrize("size_hw", [(31, 64), (32, 63)])
def test_mp4_needs_even_sizes(tmp_path, size_hw):
    with pytest.raises(InputError, match=f"even.*{size_hw[1]}x{size_hw[0]}") as caught:
        open_video(tmp_path / "clip.mp4", size_hw=size_hw, fps=15)
    assert ".gif" in str(caught.value.hint)
    write(tmp_path / "clip.gif", pictures(2, size_hw))
    assert probe_video(write(tmp_path / "clip.webp", pictures(2, size_hw))).size_hw == size_hw


def test_mp4_sizes_are_not_rounded_to_blocks(tmp_path):
    assert probe_video(write(tmp_path / "clip.mp4", pictures(2, (18, 34)))).size_hw == (18, 34)


@pytest.mark.parametrize("frames_after", [0, 200])  # a pipe holds fewer than 200
def test_ffmpeg_killed_midway(tmp_path, frames_after):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")

    def killed() -> None:
        with open_video(path, size_hw=SIZE, fps=15) as writer:
            writer.write(pictures(1)[0])
            writer._encoder._process.kill()
            for frame in pictures(frames_after):
                writer.write(frame)

    with pytest.raises(VideoError, match=r"clip\.mp4: ffmpeg stopped with code -9"):
        killed()
    assert names(tmp_path) == [path.name]
    assert path.read_bytes() == b"old"


def test_what_ffmpeg_said_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_TAGS", ("-no_such_option", "1"))
    with pytest.raises(VideoError, match="no_such_option") as caught:
        write(tmp_path / "clip.mp4", pictures(1))
    assert str(tmp_path / "clip.mp4") in caught.value.message
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits on file sizes")
@ALL
def test_a_full_disk_is_told(tmp_path, extension):
    import resource

    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(VideoError, match=r"cannot write.*(File too large|code -\d+)"):
            write(tmp_path / f"clip{extension}", [noise] * 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert names(tmp_path) == []


def test_no_ffmpeg(tmp_path, monkeypatch):
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(VideoError, match="no ffmpeg was found") as caught:
        write(tmp_path / "clip.mp4", pictures(1))
    assert "IMAGEIO_FFMPEG_EXE" in str(caught.value.hint)
    assert names(tmp_path) == []


# ---- GIF and WebP --------------------------------------------------------------------------------


def test_gif_delays_do_not_drift(tmp_path):
    path = write(tmp_path / "clip.gif", pictures(30), fps=15)
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        delays = []
        for index in range(image.n_frames):
            image.seek(index)
            delays.append(image.info["duration"])
    assert set(delays) == {60, 70}  # 66.7 ms
    assert sum(delays) == 2000


def test_webp_delays_do_not_drift(tmp_path):
    path = write(tmp_path / "clip.webp", pictures(30), fps=15)
    assert probe_video(path).duration_s == pytest.approx(2.0, abs=1e-9)
    with Image.open(path) as image:
        assert image.info["loop"] == 0


@pytest.mark.parametrize(("extension", "fps"), [(".gif", 60), (".webp", 120), (".mp4", 0)])
def test_unplayable_frame_rates(tmp_path, extension, fps):
    with pytest.raises(InputError, match="frames per second"):
        open_video(tmp_path / f"clip{extension}", size_hw=SIZE, fps=fps)


@ALL
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1])
def test_bad_numbers(tmp_path, extension, bad):
    with pytest.raises(InputError, match="frames per second"):
        open_video(tmp_path / f"clip{extension}", size_hw=SIZE, fps=bad)
    with pytest.raises(InputError, match="quality"):
        open_video(tmp_path / f"clip{extension}", size_hw=SIZE, fps=15, quality=bad)


# ---- checks before any work ----------------------------------------------------------------------


def test_unknown_extension_lists_the_known(tmp_path):
    for path in (tmp_path / "clip.avi", tmp_path / "clip"):
        with pytest.raises(InputError, match="unknown file extension") as caught:
            check_output(path)
        assert caught.value.hint == "use one of .mp4, .gif, .webp"
    check_output(tmp_path / "sheet.png", extensions=(".png",))


def test_missing_parent_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist") as caught:
        check_output(tmp_path / "no" / "clip.mp4")
    assert f"mkdir -p '{tmp_path / 'no'}'" in str(caught.value.hint)


def test_a_folder_as_output(tmp_path):
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path / "clip.mp4")


def refuse(*args: object, **settings: object) -> str:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    "real",
    [False, pytest.param(True, marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may"))],
)
def test_unwritable_folder(tmp_path, monkeypatch, real):
    folder = tmp_path / "closed"
    folder.mkdir(0o500)
    if not real:
        monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    for check in (check_output, check_folder):
        with pytest.raises(InputError, match=rf"cannot write into {folder}: Perm") as caught:
            check(folder / "clip.mp4")
        assert "writable" in str(caught.value.hint)
    with pytest.raises(InputError, match="cannot write into"):
        check_folder(folder)


def test_checks_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_output(Path("clip.mp4"), size_hw=(32, 64))
    check_folder(tmp_path / "frames")
    with pytest.raises(InputError, match="even"):
        check_output(tmp_path / "clip.mp4", size_hw=(33, 64))
    assert names(tmp_path) == []


@pytest.mark.parametrize("read", [probe_video, read_frames, read_metadata])
def test_reading_what_is_not_there(tmp_path, read):
    with pytest.raises(InputError, match="is not a file"):
        read(tmp_path / "none.mp4")
    (tmp_path / "clip.avi").write_bytes(b"")
    with pytest.raises(InputError, match="unknown file extension"):
        read(tmp_path / "clip.avi")


def test_reading_can_stop_early(tmp_path):
    path = write(tmp_path / "clip.mp4", pictures(100, (64, 128)))
    frames = read_frames(path)
    assert next(frames).shape == (64, 128, 3)
    frames.close()


# ---- folders and files ---------------------------------------------------------------------------


def fill(folder: Path, names: list[str], **settings: object) -> None:
    with open_folder(folder, **settings) as writer:
        for name in names:
            writer.write(name, name.encode())
    assert writer.files_written == len(names)


def test_folder_is_made_with_metadata(tmp_path):
    fill(tmp_path / "frames", ["frame_00000.png", "frame_00001.png"], metadata=NASTY)
    assert names(tmp_path / "frames") == [
        "clip.json",
        "frame_00000.png",
        "frame_00001.png",
    ]
    assert read_metadata(tmp_path / "frames") == NASTY
    assert names(tmp_path) == ["frames"]
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "frames").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_folder_keeps_foreign_files_and_drops_an_older_run(tmp_path):
    old = ["frame_00000.png", "frame_00001.png", "frame_100000.png", "frame_7.png", "notes.png"]
    for name in old:
        (tmp_path / name).write_text("old")
    (tmp_path / "frame_00002.png").mkdir()
    fill(tmp_path, ["frame_00000.png"])
    assert names(tmp_path) == ["frame_00000.png", "frame_00002.png", "frame_7.png", "notes.png"]
    assert (tmp_path / "frame_00000.png").read_text() == "frame_00000.png"
    assert (tmp_path / "notes.png").read_text() == "old"
    assert read_metadata(tmp_path) is None


def test_folder_with_two_patterns(tmp_path):
    (tmp_path / "flow_00009.flo").write_text("old")
    fill(
        tmp_path,
        ["flow_00001.flo", "flow_00001.png"],
        patterns=("flow_%05d.flo", "flow_%05d.png"),
    )
    assert names(tmp_path) == ["flow_00001.flo", "flow_00001.png"]


@pytest.mark.parametrize("exists", [True, False])
def test_folder_interrupted(tmp_path, exists):
    folder = tmp_path / "frames"
    if exists:
        folder.mkdir()
        (folder / "frame_00000.png").write_text("old")

    def interrupted() -> None:
        with open_folder(folder) as writer:
            writer.write("frame_00000.png", b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == (["frames"] if exists else [])
    if exists:
        assert names(folder) == ["frame_00000.png"]
        assert (folder / "frame_00000.png").read_text() == "old"


def test_folder_refuses_strange_names(tmp_path):
    with pytest.raises(ValueError, match="needs one number"):
        open_folder(tmp_path, patterns=("frame.png",))
    for name in ("../frame_00000.png", "frame_0.png", "frame_00000.png\n", "other_00000.png"):
        with pytest.raises(ValueError, match="fits none"), open_folder(tmp_path) as writer:
            writer.write(name, b"")
    assert names(tmp_path) == []


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "frames").write_text("")
    with pytest.raises(InputError, match="is a file"):
        open_folder(tmp_path / "frames")
    with pytest.raises(InputError, match="does not exist"):
        open_folder(tmp_path / "no" / "frames")


def test_write_file_replaces_whole(tmp_path, monkeypatch):
    path = tmp_path / "sheet.png"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(VideoError, match="No space left"):
        write_file(path, b"three")
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["sheet.png"]


# ---- encoding on a GPU ---------------------------------------------------------------------------


@pytest.mark.parametrize(("works", "codec"), [(True, "h264_nvenc"), (False, "libx264")])
def test_a_gpu_encodes_only_where_one_frame_has_shown_that_it_can(
    tmp_path, monkeypatch, works, codec
):
    """A stand-in for ffmpeg that knows NVENC or not, and notes what it was asked for."""
    asked = tmp_path / "asked.txt"
    fake = tmp_path / "ffmpeg"
    fake.write_text(
        f'#!/bin/sh\necho "$@" >> "{asked}"\n'
        f'case "$*" in *lavfi*) exit {0 if works else 1};; esac\ncat > /dev/null\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake))
    video.nvenc_works.cache_clear()
    try:
        with (
            pytest.raises(VideoError),
            video.open_video(  # nothing was written to read back
                tmp_path / "c.mp4", size_hw=(16, 16), fps=15, gpu=True
            ) as writer,
        ):
            writer.write(np.zeros((16, 16, 3), np.uint8))
    finally:
        video.nvenc_works.cache_clear()
    probe, encoding = asked.read_text().splitlines()[:2]
    assert "color=size=16x16" in probe
    assert codec in encoding.split()
    assert "-cq" in encoding.split() if works else "-crf" in encoding.split()


def test_without_a_gpu_nobody_asks_for_nvenc(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "nvenc_works", lambda size_hw: pytest.fail("was asked"))
    with video.open_video(tmp_path / "c.mp4", size_hw=(16, 16), fps=15) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
