"""Labelled stills moved as 2.5-D scenes: motion whose flow and visibility are known exactly.

Real clips are few and their flow is only estimated. A label map says a good deal about depth: the
ground is a plane below the horizon, what stands on it is as far as the place where it touches the
ground, the sky is far away. A camera that drives and turns through such a scene, with objects that
go their own way, gives as many clips as wanted, in the look of the pictures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from seg2vid_cli.networks.layout import BACKDROP, GROUND, SKY
from seg2vid_cli.training import data
from seg2vid_cli.training.clips import (
    NUM_FRAMES,
    WORK_HW,
    MotionBatch,
    MotionClips,
    collate,
    vary_clip,
)

# Lengths are in camera heights (about 1.5 m), times in frames at 15 Hz.
NEAREST, FARTHEST, AT_INFINITY = 0.6, 60.0, 1e4
STANDS, TURNS = 0.08, 0.25  # shares of the clips
FINER = 2  # points per pixel and axis that are moved, so that near things have no cracks
OUTSIDE = 0.25  # of the frame's size: what goes farther is no longer taught
DISTANCE_LEVELS = (3.0, 4000.0)  # added to logarithms of distances, and steps per unit of them
KEPT, NEW = 256, 0.25  # clips, and share of the draws
# Shares of moved stills in a batch: fewer where the depth of stills is known and not guessed.
SHARE, SHARE_BESIDE_DEPTH = 0.4, 0.15
LARGEST = 0.5  # share of its distance at which a thing leaves the clip, twice as large


Drive = list[tuple[NDArray[np.float32], float, float]]  # place, heading, pitch per later frame


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A still with depth.

    Args:
        picture: uint8 `(H, W, 3)`.
        train_ids: uint8 `(H, W)`.
        depth: float32 `(H, W)`, along the optical axis.
        objects: int32 `(H, W)`: number of the object, 0 = none.
        focal_px: Focal length in pixels.
        horizon_px: Row of the horizon.
    """

    picture: NDArray[np.uint8]
    train_ids: NDArray[np.uint8]
    depth: NDArray[np.float32]
    objects: NDArray[np.int32]
    focal_px: float
    horizon_px: float


class MovedStills:
    """Clips made of labelled pictures.

    Moving a still takes longer than learning from it, so clips are drawn several times.

    Args:
        pairs: Labelled pictures.
        num_frames: T.
        size_hw: Size of the clips.
        kept: Clips that are kept to be drawn again, the oldest go first.
        new: Share of the draws that move a still anew, once so many are kept.
    """

    def __init__(
        self,
        pairs: Sequence[data.Pair],
        *,
        num_frames: int = NUM_FRAMES,
        size_hw: tuple[int, int] = WORK_HW,
        kept: int = KEPT,
        new: float = NEW,
    ) -> None:
        self.pairs, self.num_frames, self.size_hw, self.new = pairs, num_frames, size_hw, new
        self.kept: deque[tuple[NDArray[Any], ...]] = deque(maxlen=kept)

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """One clip as `MotionClips.draw` gives it, with an exact teacher, in new colours."""
        if len(self.kept) < (self.kept.maxlen or 0) or rng.random() < self.new:
            self.kept.append(self._move(rng))
            frames, ids, teacher = self.kept[-1]
        else:
            frames, ids, teacher = self.kept[int(rng.integers(len(self.kept)))]
        return vary_clip(frames, ids, teacher, rng)

    def _move(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """One clip in the colours of its picture."""
        pair = self.pairs[int(rng.integers(len(self.pairs)))]
        picture, ids = data.crop_pair(pair, self.size_hw, rng, zoom=(0.75, 1.0))
        scene = build_scene(picture, np.ascontiguousarray(ids), rng)
        drive = draw_drive(self.num_frames, _room_ahead(scene), rng)
        frames, flows = move(scene, drive, draw_velocities(scene, drive, rng), rng)
        known = _lands_nearby(flows[1].astype(np.float32))
        teacher = np.concatenate([flows[1], known], axis=1, dtype=np.float16)
        return frames, scene.train_ids, teacher


class MixedClips:
    """Real clips and moved stills in the same batches.

    Args:
        clips: Real clips.
        stills: Moved stills.
        share: Of moved stills in a batch.
    """

    def __init__(self, clips: MotionClips, stills: MovedStills, *, share: float = SHARE) -> None:
        self.clips, self.stills, self.share = clips, stills, share

    def batch(self, rng: np.random.Generator, size: int) -> MotionBatch:
        """Draw a batch; see `MotionClips.batch`."""
        moved = int(np.floor(self.share * size + rng.random()))
        rows = rng.integers(len(self.clips.starts), size=size - moved)
        samples = [self.clips.draw(int(row), rng) for row in rows]
        return collate(samples + [self.stills.draw(rng) for _ in range(moved)])


def _lands_nearby(flow_px: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where flows `(T, 2, H/2, W/2)` stay in or near the frame, `(T, 1, H/2, W/2)`.

    What the camera passes under or beside has no place in its picture at all.
    """
    height, width = (2 * side for side in flow_px.shape[-2:])
    x = np.arange(0.5, width, 2) + flow_px[:, 0]
    y = np.arange(0.5, height, 2)[:, None] + flow_px[:, 1]
    across = (x > -OUTSIDE * width) & (x < (1 + OUTSIDE) * width)
    down = (y > -OUTSIDE * height) & (y < (1 + OUTSIDE) * height)
    near: NDArray[np.bool_] = (across & down)[:, None]
    return near


def build_scene(
    picture: NDArray[np.uint8], train_ids: NDArray[np.uint8], rng: np.random.Generator
) -> Scene:
    """Guess depth from labels; what labels do not say (focal length, horizon) is drawn.

    Args:
        picture: uint8 `(H, W, 3)`.
        train_ids: uint8 `(H, W)`.
        rng: Source of the choices.
    """
    height, width = train_ids.shape
    horizon = _horizon(train_ids, rng)
    focal = width * rng.uniform(0.75, 1.3)
    rows = np.arange(height, dtype=np.float32) + 0.5 - horizon
    ground_of_row = np.where(rows > focal / FARTHEST, focal / np.maximum(rows, 1e-3), FARTHEST)
    objects = _number_objects(train_ids)
    depth = _stand_up(train_ids, objects, ground_of_row.astype(np.float32), rng)
    return Scene(
        picture=picture,
        train_ids=train_ids,
        depth=np.maximum(depth, NEAREST),
        objects=objects,
        focal_px=focal,
        horizon_px=horizon,
    )


def _horizon(train_ids: NDArray[np.uint8], rng: np.random.Generator) -> float:
    """A little above the farthest road."""
    height, width = train_ids.shape
    rows = np.flatnonzero((train_ids == 0).sum(1) > 0.02 * width)
    if len(rows) < height // 10:
        return float(height * rng.uniform(0.35, 0.55))
    return float(rows[0] - height * rng.uniform(0.0, 0.06))


def _number_objects(train_ids: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Connected pieces of object classes; riders go with their bicycles."""
    objects = np.zeros(train_ids.shape, np.int32)
    count = 0
    for classes in ((11,), (12, 17, 18), (13,), (14,), (15,), (16,)):
        number, regions = cv2.connectedComponents(np.isin(train_ids, classes).astype(np.uint8))
        objects = np.where(regions > 0, regions + count, objects)
        count += number
    return objects.astype(np.int32)


def _stand_up(
    train_ids: NDArray[np.uint8],
    objects: NDArray[np.int32],
    ground_of_row: NDArray[np.float32],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    height, width = train_ids.shape
    backdrop = {c: _contact(train_ids, (c,), ground_of_row) for c in BACKDROP}
    anything = _contact(train_ids, BACKDROP, ground_of_row)
    fallback = np.full(width, FARTHEST / 3, np.float32) if anything is None else anything
    depth = np.empty(train_ids.shape, np.float32)
    current = np.full(width, ground_of_row[-1], np.float32)
    below = np.zeros(width, np.uint8)
    is_ground = np.isin(train_ids, GROUND)
    ground_below = np.ones(width, np.bool_)
    for y in range(height - 1, -1, -1):
        ids = train_ids[y]
        current = np.where(is_ground[y], ground_of_row[y], current)
        for c in BACKDROP:
            starts = (ids == c) & (below != c) & ~ground_below
            own = backdrop[c]
            behind = np.maximum(current, fallback if own is None else own)
            current = np.where(starts, behind, current)
        depth[y] = np.where(ids == SKY, AT_INFINITY, current)
        below, ground_below = ids, is_ground[y]
    spread = np.exp(rng.normal(0, 0.08, int(objects.max()) + 1)).astype(np.float32)
    for number in range(1, int(objects.max()) + 1):
        inside = objects == number
        if inside.any():
            foot = int(np.flatnonzero(inside.any(1))[-1])
            depth[inside] = ground_of_row[foot] * spread[number]
    return depth


def _contact(
    train_ids: NDArray[np.uint8], classes: tuple[int, ...], ground_of_row: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """Depth per column of where classes touch the ground, filled between such columns."""
    height, width = train_ids.shape
    member = np.isin(train_ids, classes)
    touches = member[:-1] & np.isin(train_ids[1:], GROUND)
    columns = np.flatnonzero(touches.any(0))
    if len(columns) < 3:
        return None
    rows = height - 2 - np.argmax(touches[::-1], axis=0)[columns]
    nearness = 1 / ground_of_row[rows + 1]  # straight fronts are straight lines in it
    nearness = np.asarray(np.interp(np.arange(width), columns, nearness), np.float32)
    smooth = np.asarray(cv2.medianBlur(nearness[None], 5), np.float32)
    return np.asarray(1 / smooth[0], np.float32)


def move(
    scene: Scene, drive: Drive, velocities: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Drive a camera through a scene.

    Args:
        scene: The still.
        drive: Pose of the camera at each of T later frames.
        velocities: Of the objects, from `draw_velocities`.
        rng: Decides what comes into sight.

    Returns:
        Frames uint8 `(T + 1, H, W, 3)`, and as float16 `(2, T, 2, H/2, W/2)` the exact flows: every
        second pixel of that from frame t to the first, and means of two by two pixels of that from
        the first to frame t.
    """
    height, width = scene.depth.shape
    num_frames = len(drive)
    x, y = np.meshgrid(
        (np.arange(width * FINER, dtype=np.float32) + 0.5) / FINER - 0.5,
        (np.arange(height * FINER, dtype=np.float32) + 0.5) / FINER - 0.5,
    )
    columns, rows = (np.clip(np.rint(v), 0, None).astype(np.intp) for v in (x, y))
    columns, rows = np.minimum(columns, width - 1), np.minimum(rows, height - 1)
    depth, objects = scene.depth[rows, columns], scene.objects[rows, columns]
    points = np.stack(
        [
            (x - width / 2 + 0.5) / scene.focal_px * depth,
            (y + 0.5 - scene.horizon_px) / scene.focal_px * depth,
            depth,
        ]
    )
    velocity = velocities[objects].transpose(2, 0, 1)
    unseen = _other_content(scene.picture, rng)
    frames = [scene.picture]
    teacher = np.empty((2, num_frames, 2, height // 2, width // 2), np.float16)
    for t, (place, heading, pitch) in enumerate(drive):
        seen = points + velocity * (t + 1) - place[:, None, None]
        cos, sin = np.float32(np.cos(heading)), np.float32(np.sin(heading))
        across = cos * seen[0] - sin * seen[2]
        along = sin * seen[0] + cos * seen[2]
        ahead = along > LARGEST * depth  # what comes nearer than that would be all cracks
        near = np.maximum(along, LARGEST * NEAREST)
        new_x = across / near * scene.focal_px + width / 2 - 0.5
        new_y = (seen[1] / near + pitch) * scene.focal_px + scene.horizon_px - 0.5
        forward = np.stack([new_x - x, new_y - y])
        back, visible = _splat(forward, new_x, new_y, np.where(ahead, near, np.inf), height, width)
        grid_x, grid_y = np.meshgrid(np.arange(width), np.arange(height))
        picture = cv2.remap(
            scene.picture,
            (grid_x + back[0]).astype(np.float32),
            (grid_y + back[1]).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        frames.append(np.where(visible[..., None], picture, unseen).astype(np.uint8))
        cell = 2 * FINER
        small = forward.reshape(2, height // 2, cell, width // 2, cell).mean((2, 4))
        limit = 2.0 * width
        teacher[0, t] = np.clip(back, -limit, limit)[:, ::2, ::2]
        teacher[1, t] = np.clip(small, -limit, limit)
    return np.stack(frames), teacher


def _room_ahead(scene: Scene) -> float:
    """How far the camera can drive before it stands in front of something that fills the view."""
    height, width = scene.depth.shape
    middle = np.s_[height // 4 : height // 2, width // 3 : 2 * width // 3]
    static = scene.depth[middle][scene.objects[middle] == 0]
    nearest = float(np.quantile(static, 0.2)) if static.size else FARTHEST
    return (1 - LARGEST) * min(nearest, FARTHEST)


def draw_velocities(scene: Scene, drive: Drive, rng: np.random.Generator) -> NDArray[np.float32]:
    """Own velocity of every object, row 0 for what stands still: right, down, ahead."""
    num_frames, path = len(drive), float(drive[-1][0][2])
    width = scene.depth.shape[1]
    velocity = np.zeros((int(scene.objects.max()) + 1, 3), np.float32)
    for number in range(1, len(velocity)):
        inside = scene.objects == number
        ids = scene.train_ids[inside]
        if not len(ids):
            continue
        vehicle = 13 <= np.bincount(ids).argmax() <= 16
        if not vehicle:
            velocity[number, 0] = rng.normal(0, 0.06)
            velocity[number, 2] = rng.normal(0, 0.06)
            continue
        kind = rng.random()
        middle = abs(float(np.nonzero(inside)[1].mean()) / width - 0.5) < 0.15
        if middle and scene.depth[inside][0] < 2.5 * path:  # it would be run over
            velocity[number, 2] = path / num_frames * rng.uniform(0.8, 1.1)
        elif kind < 0.35:
            velocity[number, 2] = rng.uniform(0.1, 0.8)  # the same way
        elif kind < 0.55:
            velocity[number, 2] = -rng.uniform(0.1, 0.6)  # towards the camera
        elif kind < 0.65:
            velocity[number, 0] = rng.normal(0, 0.25)  # across
    return velocity


def draw_drive(num_frames: int, room: float, rng: np.random.Generator) -> Drive:
    """Place, heading (radians, to the right) and pitch of the camera at every later frame."""
    speed = 0.0 if rng.random() < STANDS else rng.uniform(0.0, 0.85)
    speed = min(speed, room / num_frames * rng.uniform(0.5, 1.0))
    change = rng.normal(0, 0.015)
    turn = rng.normal(0, 0.018 if rng.random() < TURNS else 0.003)
    if speed == 0.0:
        change, turn = 0.0, 0.0
    drift, sway = rng.normal(0, 0.01) * speed, rng.normal(0, 0.0006)
    place, heading, pitch, poses = np.zeros(3), 0.0, 0.0, []
    for _ in range(num_frames):
        heading += turn
        speed = max(speed + change, 0.0)
        step = (np.sin(heading) * speed + drift, 0.0, np.cos(heading) * speed)
        place = place + np.array(step)
        pitch += sway + rng.normal(0, 0.0005)
        poses.append((place.astype(np.float32), heading, pitch))
    return poses


def _splat(
    forward: NDArray[np.float32],
    new_x: NDArray[np.float32],
    new_y: NDArray[np.float32],
    distance: NDArray[np.float32],
    height: int,
    width: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Carry the flow to where its points arrive, the nearest in front.

    Returns:
        Flow `(2, H, W)` from the later frame to the first, and where it is known.
    """
    columns, rows = np.rint(new_x).astype(np.int64), np.rint(new_y).astype(np.int64)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    inside &= np.isfinite(distance)
    # Whole numbers of 16 bits are sorted much faster; steps of a thousandth hide nothing wrongly.
    near = np.clip((np.log(distance[inside]) + DISTANCE_LEVELS[0]) * DISTANCE_LEVELS[1], 0, 65535)
    order = np.argsort(65535 - near.astype(np.uint16), kind="stable")
    places = (rows[inside] * width + columns[inside])[order]
    source = np.full(height * width, -1, np.int64)
    source[places] = np.flatnonzero(inside)[order]  # the last of several stays: the nearest
    known = (source >= 0).reshape(height, width)
    flow: NDArray[np.float32] = np.zeros((2, height, width), np.float32)
    flow[:, known] = -forward.reshape(2, -1)[:, source[source >= 0]]
    # Cracks of single pixels are closed; what is left has come into sight.
    near = cv2.blur(known.astype(np.float32), (3, 3), borderType=cv2.BORDER_CONSTANT)
    crack = ~known & (near > 0.5)
    if crack.any():
        mean = np.stack([cv2.blur(c, (3, 3), borderType=cv2.BORDER_CONSTANT) for c in flow])
        mean = mean / np.maximum(near, 1e-6)
        flow[:, crack] = mean[:, crack]
        known |= crack
    if not known.all() and known.any():
        _, nearest = cv2.distanceTransformWithLabels(
            (~known).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
        )
        table = np.zeros(int(nearest.max()) + 1, np.int64)
        table[nearest[known]] = np.flatnonzero(known)
        flow[:] = flow.reshape(2, -1)[:, table[nearest].ravel()].reshape(2, height, width)
    return flow, known


def _other_content(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What comes into sight: some of the picture from elsewhere, so that no warp brings it."""
    shift = int(rng.integers(picture.shape[1] // 4, 3 * picture.shape[1] // 4))
    other: NDArray[np.uint8] = np.roll(picture[:, ::-1], shift, axis=1)
    return other
