"""`seg2vid doctor`: does everything work on this machine?"""

from __future__ import annotations

import platform

from seg2vid_cli import __version__
from seg2vid_cli.cli import console


def doctor() -> None:
    """Check versions, devices, the video encoder and the weights."""
    import torch

    from seg2vid_cli.device import resolve_compute
    from seg2vid_cli.weights.hub import installed_files
    from seg2vid_cli.weights.load import open_bundle
    from seg2vid_cli.weights.registry import read_registry

    compute = resolve_compute()
    rows = [
        ("seg2vid", __version__),
        ("python", platform.python_version()),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("would run on", f"{compute.device}, {compute.precision}"),
        ("ffmpeg", _ffmpeg()),
    ]
    for name, spec in read_registry().items():
        if installed_files(spec) is None:
            continue
        bundle = open_bundle(name)
        for stage in bundle.stages:
            bundle.network(stage)
        size = console.size_text(spec.size_bytes)
        rows.append((f"weights {name}", f"{size}, hashes match, all stages load"))
    console.show_facts(rows)


def _ffmpeg() -> str:
    import imageio_ffmpeg

    from seg2vid_cli.errors import VideoError

    try:
        return f"{imageio_ffmpeg.get_ffmpeg_version()} at {imageio_ffmpeg.get_ffmpeg_exe()}"
    except Exception as error:  # whatever a program that is no ffmpeg makes of `-version`
        raise VideoError(
            f"ffmpeg does not run: {error}",
            hint="reinstall imageio-ffmpeg, or point IMAGEIO_FFMPEG_EXE at an ffmpeg",
        ) from error
