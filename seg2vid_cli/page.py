"""One HTML file to look through many clips of one label map.

Everything is inside: clips as data URIs, style and script of `data/page.html`. The page works from
a disk and loads nothing. Its Content-Security-Policy allows its own style and its own script, both
by hash, and `data:` media, so no file name can become markup that runs.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from seg2vid_cli.errors import InputError, ShapeError, VideoError
from seg2vid_cli.video import VIDEO_EXTENSIONS, check_output
from seg2vid_cli.visualize import encode_png

PAGE_EXTENSIONS = (".html", ".htm")

_TEMPLATE = Path(__file__).resolve().parent / "data" / "page.html"
_KINDS = {".mp4": "video/mp4", ".gif": "image/gif", ".webp": "image/webp"}
_CHUNK_BYTES = 3 << 16  # whole groups of base64: pieces can be joined
_STAR = '<svg aria-hidden="true"><use href="#i-star"/></svg>'
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<rect width="32" height="32" rx="8" fill="#2558c9"/>'
    '<path d="M12 9.5v13L23 16z" fill="#fff"/></svg>'
)


@dataclass(frozen=True, kw_only=True)
class PageClip:
    """One clip on the page.

    Args:
        path: A finished `.mp4`, `.gif` or `.webp` file.
        title: What it is called, for example `out-003.mp4`; this is what is copied for a star.
        caption: A few words, for example `seed 0, variant 2`.
        facts: Shown beside the large view, in this order.
    """

    path: Path
    title: str
    caption: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


def write_page(
    path: Path,
    clips: Sequence[PageClip],
    *,
    title: str,
    picture: NDArray[np.uint8] | None = None,
) -> None:
    """Write a page that shows clips side by side; the target is never half a page.

    Clips are copied into the page piece by piece, so memory does not grow with their number. The
    same clips give the same bytes.

    Args:
        path: `.html`.
        clips: One or more; made for up to some 500.
        title: Heading of the page.
        picture: The label map they were made from, `uint8 (H, W, 3)` RGB; shown before them.
    Raises:
        InputError: No clips, a clip that is missing or of an unknown kind, or a path that cannot be
            written. Nothing has been written.
        ShapeError: A picture of another shape or type.
        VideoError: The disk is full. An older page is as it was.
    """
    check_output(path, extensions=PAGE_EXTENSIONS)
    if not clips:
        raise InputError(f"{path}: no clips to show", hint="make at least one")
    for clip in clips:
        _check_clip(clip)
    if picture is not None and (
        picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size
    ):
        raise ShapeError(
            f"expected a uint8 picture of shape (H, W, 3), got {picture.dtype} {picture.shape}"
        )
    with _new_file(path) as file:
        for piece in _page(clips, title, picture):
            file.write(piece)


def _check_clip(clip: PageClip) -> None:
    if clip.path.suffix.lower() not in _KINDS:
        raise InputError(
            f"{clip.path}: unknown file extension {clip.path.suffix!r}",
            hint=f"a page shows {', '.join(VIDEO_EXTENSIONS)}",
        )
    if not clip.path.is_file():
        raise InputError(f"{clip.path} is not a file", hint="check the name")


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file in a hidden folder beside its target, renamed into place at the end of the block."""
    target = Path(os.path.realpath(path))  # a link given as the target is kept, its file replaced
    try:
        with tempfile.TemporaryDirectory(prefix=".seg2vid-", dir=target.parent) as folder:
            temporary = Path(folder) / "file"
            with temporary.open("wb") as file:
                yield file
            temporary.replace(target)
    except OSError as error:
        raise VideoError(
            f"cannot write {path}: {error.strerror or error}",
            hint="check the free disk space and the rights of the folder",
        ) from error


# ---- the page, piece by piece --------------------------------------------------------------------


def _page(
    clips: Sequence[PageClip], title: str, picture: NDArray[np.uint8] | None
) -> Iterator[bytes]:
    """Fill the template. What is filled in is not read again, whatever it looks like."""
    fixed, policy = _template()
    source = "" if picture is None else " from one label map"
    number = "1 clip" if len(clips) == 1 else f"{len(clips):,} clips"
    texts = {
        "policy": policy,
        "icon": base64.b64encode(_ICON.encode()).decode(),
        "title": _escape(title),
        "summary": number + source,
        "aspect": "" if picture is None else f"{picture.shape[1] / picture.shape[0]:.6g}",
        "facts": _facts_json(clips, picture),
    }
    for place, piece in enumerate(fixed):
        if place % 2 == 0:
            yield piece.encode()
        elif piece != "clips":
            yield _encode(texts[piece])
        else:
            if picture is not None:
                yield from _map_tile(picture)
            for clip in clips:
                yield from _clip_tile(clip)


@lru_cache(maxsize=1)
def _template() -> tuple[tuple[str, ...], str]:
    """The template split at its `{{names}}`: text, name, text, ...; and the policy for it."""
    text = _TEMPLATE.read_text(encoding="utf-8")
    hashes = {}
    for tag in ("style", "script"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = hashlib.sha256(body.encode()).digest()
        hashes[tag] = f"'sha256-{base64.b64encode(digest).decode()}'"
    policy = (
        "default-src 'none'; img-src data:; media-src data:; "
        f"style-src {hashes['style']}; script-src {hashes['script']}; "
        "base-uri 'none'; form-action 'none'"
    )
    return tuple(re.split(r"\{\{(\w+)\}\}", text)), policy


def _map_tile(picture: NDArray[np.uint8]) -> Iterator[bytes]:
    height, width = picture.shape[:2]
    png = base64.b64encode(encode_png(picture))
    yield b'<li class="tile map"><button type="button" class="view" aria-haspopup="dialog">'
    yield b'<span class="frame"><img alt="" src="data:image/png;base64,' + png + b'"></span>'
    yield _text("Label map", f"{width} × {height}")
    yield b"</button></li>\n"


def _clip_tile(clip: PageClip) -> Iterator[bytes]:
    kind = _KINDS[clip.path.suffix.lower()]
    tag = "video muted loop playsinline" if kind.startswith("video") else 'img alt=""'
    yield b'<li class="tile"><button type="button" class="view" aria-haspopup="dialog">'
    yield f'<span class="frame"><{tag} data-src="data:{kind};base64,'.encode()
    yield from _base64_of(clip.path)
    yield b'"></video></span>' if kind.startswith("video") else b'"></span>'
    yield _text(clip.title, clip.caption)
    yield b'</button><button type="button" class="star" tabindex="-1" aria-pressed="false"'
    label = _escape(f"Star on {clip.title}")
    yield _encode(f' aria-label="{label}" title="Star (s)">{_STAR}</button></li>\n')


def _text(name: str, note: str) -> bytes:
    """Name and note of a tile, and room for the word that says that it has a star."""
    pause = '<span class="sr">, </span>' if note else ""
    return _encode(
        f'<span class="text"><span class="name" title="{_escape(name)}">{_escape(name)}</span>'
        f'{pause}<span class="note">{_escape(note)}</span><span class="sr mark"></span></span>'
    )


def _facts_json(clips: Sequence[PageClip], picture: NDArray[np.uint8] | None) -> str:
    """One list of [name, value] for each tile, as JSON that cannot end its script element."""
    facts = [[[str(name), str(value)] for name, value in clip.facts.items()] for clip in clips]
    text = json.dumps(facts if picture is None else [[], *facts], separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _base64_of(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield base64.b64encode(chunk)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="check the name") from error


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _encode(text: str) -> bytes:
    """UTF-8; what a file name has that is no text becomes a question mark."""
    return text.encode("utf-8", "replace")
