"""Structure from motion: the camera of a clip, and how near everything is, out of a classical flow.

A network that is only told how well its own depth explains a flow has to find camera and depth
together, a little a step. Given one of them the other is a matter of least squares, so a few turns
of that, from what the network says, give a depth to learn from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.camera import FOCAL, camera_flow, camera_growth, slopes
from seg2vid_cli.networks.ego_flow import Scene, steer
from seg2vid_cli.networks.layout import GROUND, LEAST_NEARNESS, among
from seg2vid_cli.training.clips import MotionBatch

FIT_STEPS = 3
FIT_PX = 0.5  # errors above count less and less
RIDGE = 3e-7
TURNS = 2  # from depth to camera and back
UNSEEN_PX = 0.8  # a place whose depth moves it so little in a clip says nothing about its depth
FARTHER = 0.4  # natural logarithm of how much depth changes at most in one turn
NUDGE = 0.01  # of nearness, to see where it moves things


@dataclass(frozen=True, kw_only=True)
class Found:
    """The cameras of some clips, at the size of the teacher's flows.

    Args:
        nearness: `(B, 1, H/2, W/2)`; gradients do not go to its unit.
        objects: `(B, 1, H/2, W/2)`, 1 where there may be one.
        still: `(B, T, 1, H/2, W/2)`, 1 where the teacher is believed and only the camera moves.
        path: `(B, T, 4)`, see `steer`; no gradient goes through it.
        camera: `(B, T, 6)`, see `Plan`; gradients go to `Scene.focus` alone.
        flow_px: `(B, T, 2, H/2, W/2)` in pixels of the full size, due to the camera alone.
        explained: `(B, 1, H/2, W/2)`, nearness that explains the teacher best, without gradients.
        sure: `(B, 1, H/2, W/2)` in [0, 1], how much the teacher says about that.
    """

    nearness: Tensor
    objects: Tensor
    still: Tensor
    path: Tensor
    camera: Tensor
    flow_px: Tensor
    explained: Tensor
    sure: Tensor


def find_camera(scene: Scene, batch: MotionBatch) -> Found:
    """Find cameras and depth of clips by their teacher, given what is seen in their first frames.

    Flows say nothing of the unit of distance: it stays the network's.
    """
    nearness = without_unit(F.avg_pool2d(scene.nearness, 2))
    objects = F.max_pool2d(scene.objects, 2)
    still = batch.known * (1 - objects[:, None])
    path, explained, sure = explain(nearness.detach(), batch.flow_px, still, scene.focus.detach())
    camera = steer(path, scene.focus)
    ground = among(scene.classes, GROUND).float()
    return Found(
        nearness=nearness,
        objects=objects,
        still=still,
        path=path,
        camera=camera,
        flow_px=to_px(camera_flow(nearness, camera)),
        explained=explained,
        sure=sure * (1 - F.max_pool2d(ground, 2)),
    )


def without_unit(nearness: Tensor) -> Tensor:
    """`(B, 1, H, W)` as it is, with no gradient to what all pixels of a picture have in common.

    Errors of depth make flows look as if everything were farther, step by step without end.
    """
    near = nearness.clamp_min(LEAST_NEARNESS)
    apart = (nearness > LEAST_NEARNESS).to(near.dtype)  # what is farther takes no part in gradients
    mean = (near.log() * apart).sum((1, 2, 3), keepdim=True)
    unit = (mean / apart.sum((1, 2, 3), keepdim=True).clamp_min(1)).exp()
    return nearness / unit * unit.detach()


def explain(
    nearness: Tensor, flow_px: Tensor, weight: Tensor, focus: Tensor, *, turns: int = TURNS
) -> tuple[Tensor, Tensor, Tensor]:
    """Camera and depth that explain flows best together, in turns, by least squares.

    Depth stays near what it is at first where flows say little about it, and so does its unit.

    Args:
        nearness: `(B, 1, H/2, W/2)`, above 0: a first guess.
        flow_px: As for `fit_path`.
        weight: As for `fit_path`.
        focus: As for `fit_path`.
        turns: How often depth is corrected.

    Returns:
        The path, see `fit_path`; nearness `(B, 1, H/2, W/2)`; and how far flows decide it, in
        [0, 1], `(B, 1, H/2, W/2)`.
    """
    width = flow_px.shape[-1]
    guess = nearness.clamp_min(LEAST_NEARNESS).log()
    deeper, sure = torch.zeros_like(guess), torch.zeros_like(guess)
    near = guess.exp()
    path = fit_path(near, flow_px, weight, focus)
    doubt = (UNSEEN_PX / (FOCAL * width)) ** 2
    for _ in range(turns):
        camera = steer(path, focus)
        found = camera_flow(near, camera)
        left_over = flow_px / (FOCAL * width) - found
        moves = (camera_flow(near * (1 + NUDGE), camera) - found) / NUDGE
        share = _forgiving(left_over, weight)
        says, wants = (
            F.avg_pool2d((share * moves * value).sum((1, 2))[:, None], 3, 1, 1)
            for value in (moves, left_over)
        )
        step = (wants - doubt * deeper) / (says + doubt)
        deeper = deeper + step.clamp(-FARTHER, FARTHER)
        sure = says / (says + doubt)
        # Least squares find a camera too slow as long as depth is wrong, and depth then makes up
        # for it; but the unit of distance is for the guess to say. The median, since what learns
        # from that is as often pulled one way as the other then.
        nearer = weighted_median(deeper, sure)
        deeper = deeper - nearer.view(-1, 1, 1, 1)
        ahead = path[..., :1] * nearer.exp().view(-1, 1, 1)
        path = torch.cat([ahead, path[..., 1:]], dim=-1)
        near = (guess + deeper).exp()
        path = fit_path(near, flow_px, weight, focus, start=path)
    return path, near, sure


def weighted_median(values: Tensor, weight: Tensor) -> Tensor:
    """The weighted median of each row of two `(B, 1, H, W)`: `(B,)`."""
    rows, order = values.flatten(1).sort(1)
    below = weight.flatten(1).gather(1, order).cumsum(1)
    place = (below < below[:, -1:] / 2).sum(1, keepdim=True).clamp(max=rows.shape[1] - 1)
    return rows.gather(1, place)[:, 0]


def to_px(flow: Tensor) -> Tensor:
    """Slopes `(B, T, 2, H/2, W/2)` to pixels of the full size, as teachers count."""
    return flow * (FOCAL * flow.shape[-1])


def fit_path(
    nearness: Tensor,
    flow_px: Tensor,
    weight: Tensor,
    focus: Tensor,
    *,
    start: Tensor | None = None,
) -> Tensor:
    """The path that explains flows best, by least squares that forgive outliers.

    Args:
        nearness: `(B, 1, H/2, W/2)`.
        flow_px: `(B, T, 2, H/2, W/2)`, where the first frame's places go.
        weight: `(B, T, 1, H/2, W/2)`, 0 where that is not known or not due to the camera.
        focus: `(B, 2)`, see `Scene`.
        start: A path that is nearly right, which then takes one step.

    Returns:
        `(B, T, 4)`, see `steer`.
    """
    height, width = flow_px.shape[-2:]
    flow = flow_px / (FOCAL * width)
    path = flow.new_zeros(*flow.shape[:2], 4) if start is None else start
    for step in range(FIT_STEPS if start is None else 1):
        if start is None and not step:
            # To first order in the turns, shifts are exact at the place that the teacher sees.
            seen_at, share, left_over = slopes(height, width, flow.device) + flow, weight, flow
            near = nearness.expand(*flow.shape[:2], height, width)
        else:
            camera = steer(path, focus)
            found = camera_flow(nearness, camera)
            left_over = flow - found
            share = _forgiving(left_over, weight)
            seen_at = slopes(height, width, flow.device) + found
            near = nearness * camera_growth(nearness, camera)[:, :, 0]
        adds = _adds(near, seen_at) @ _steers(path, focus)
        scaled = (adds * share.expand_as(flow).flatten(2)[..., None]).transpose(-1, -2)
        ridge = RIDGE * share.flatten(2).sum(-1)[..., None, None].clamp_min(1.0)
        normal = scaled @ adds + ridge * torch.eye(4, device=flow.device)
        more = torch.linalg.solve(normal, scaled @ left_over.flatten(2)[..., None])
        path = path + more[..., 0]
    return path


def _forgiving(left_over: Tensor, weight: Tensor) -> Tensor:
    """`weight`, less where slopes `left_over` `(B, T, 2, H/2, W/2)` are many pixels long."""
    return weight * FIT_PX / (to_px(length(left_over)) + FIT_PX / 4)


def _steers(path: Tensor, focus: Tensor) -> Tensor:
    """What each of a path's four adds to a camera's six, at paths `(B, T, 4)`: `(B, T, 6, 4)`."""
    out = path.new_zeros(*path.shape[:2], 6, 4)
    out[:, :, 2:] = torch.eye(4, device=path.device)
    out[:, :, 0, 0] = focus[:, None, 0] + path[..., 1] / 2
    out[:, :, 0, 1] = path[..., 0] / 2
    out[:, :, 1, 0] = focus[:, None, 1]
    return out


def _adds(nearness: Tensor, seen_at: Tensor) -> Tensor:
    """What each of a camera's six adds to the flow of places seen at slopes `seen_at`."""
    x, y = seen_at.unbind(2)
    zero = torch.zeros_like(x)
    right = torch.stack([-nearness, zero, nearness * x, -(1 + x * x), -x * y, y], dim=-1)
    down = torch.stack([zero, -nearness, nearness * y, -x * y, -(1 + y * y), -x], dim=-1)
    return torch.stack([right, down], dim=2).flatten(2, 4)


def mean_speed(path: Tensor) -> Tensor:
    """Paths `(B, T, 4)`, see `steer`, to speeds ahead `(B, 1)` per frame, by least squares."""
    return _per_frame(path[:, :, 0])


def mean_turn(path: Tensor) -> Tensor:
    """As `mean_speed`: turns to the right, in radians per frame."""
    return _per_frame(path[:, :, 1])


def _per_frame(values: Tensor) -> Tensor:
    frames = torch.arange(1, values.shape[1] + 1, device=values.device)
    out: Tensor = (values * frames).sum(1, keepdim=True) / (frames * frames).sum()
    return out


def length(vectors: Tensor) -> Tensor:
    """`(B, T, 2, H, W)` to `(B, T, 1, H, W)`; differentiable at 0 too."""
    x, y = vectors.unbind(2)
    return (x * x + y * y + 1e-12).sqrt()[:, :, None]
