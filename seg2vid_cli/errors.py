"""What can go wrong, each kind with a message, a hint and an exit code.

Library code raises these and never prints; `seg2vid_cli.cli.console` turns them into
`error: ...` and `hint: ...` on stderr.
"""

from __future__ import annotations


class Seg2VidError(Exception):
    """Base of every error that a user can do something about.

    Args:
        message: What is wrong, naming the file.
        hint: What to do about it.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(Seg2VidError):
    """A file or an option that cannot be used as given."""

    exit_code = 2


class LabelMapError(InputError):
    """A label map that cannot be read or understood."""


class ShapeError(Seg2VidError, ValueError):
    """Tensors whose shapes do not fit together."""


class WeightsError(Seg2VidError):
    """Weights that are missing, unknown or do not match their description."""


class CheckpointError(WeightsError):
    """A weights file whose contents are not what its network needs."""


class VideoError(Seg2VidError):
    """A video, animation or folder of frames that could not be written or read."""


class DeviceError(InputError):
    """A device or precision that this machine does not have."""
