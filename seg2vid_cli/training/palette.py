"""Measure the colours that places have, for a first-frame generator to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.networks.label_unet import LOOKS, SHADES, LabelUNet, Palette, along
from seg2vid_cli.palette import find_places, mean_colours
from seg2vid_cli.pipeline import to_uint8
from seg2vid_cli.sketch import sketch_edges
from seg2vid_cli.training import data

NAME = "palette"
ZOOM = (0.7, 1.0)
CELL_PX = 4  # colours are measured in cells of so many pixels
LEAST_SEEN = 20  # cells or pixels of a class in a picture, to say something of its colour
LEAST_PICTURES = 10
RIDGE = 0.02
SMOOTH = 0.5  # of the way between two points of a curve, a standard deviation
SEEN_ENOUGH = 1.0  # pictures of about the same light, to say something of a class in it


@torch.no_grad()
def measure_palette(palette: Palette, planes: Tensor, colours: Tensor, styles: Tensor) -> None:
    """Measure light, styles and the colours that places have in real pictures.

    Args:
        palette: To be filled.
        planes: `(N, K, H, W)`, shares of the classes.
        colours: `(N, 3, H, W)`, of the places.
        styles: `(N, style_size)`, of the pictures.
    """
    values = palette.measure(colours)
    counts = planes.sum((2, 3))
    there = counts > LEAST_SEEN
    means = torch.einsum("nkhw,nchw->nkc", planes, values) / counts.clamp_min(1)[..., None]
    known = [k for k in range(planes.shape[1]) if there[:, k].sum() >= LEAST_PICTURES]
    shares = there[:, known].float()[..., None]
    means = means[:, known]
    # How light a picture is among all: by how much lighter than usual its classes are.
    usual = (means * shares).sum(0) / shares.sum(0)
    lighter = _in_common(means - usual, shares)
    rank = _ranks(lighter)
    palette.looks.copy_(_curve(rank, styles, LOOKS))
    rest = styles - along(palette.looks, rank)
    palette.around.copy_(_root(rest.T @ rest / len(rest)))
    # Colours along that: what all classes have in common, then each class as far as it was seen.
    lights = _curve(rank, lighter, LOOKS)
    curves = usual + lights[:, None]
    for index in range(len(known)):
        seen = shares[:, index, 0] > 0
        apart = means[seen, index] - usual[index] - along(lights, rank[seen])
        kernel = _kernel(rank[seen], LOOKS)
        curves[:, index] += kernel @ apart / (kernel.sum(1, keepdim=True) + SEEN_ENOUGH)
    palette.usual[:, known] = curves
    gaps = means - along(curves, rank)
    for index, train_id in enumerate(known):  # how colours go with what is left of the styles
        share = counts[:, train_id].sqrt()[:, None] * shares[:, index]
        rows, wanted = rest * share, gaps[:, index] * share
        # Few pictures say little of how style matters.
        ridge = torch.eye(rows.shape[1]) * RIDGE * share.square().sum().clamp_min(1.0)
        solved = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ wanted).T
        palette.by_style[train_id] = solved
        gaps[:, index] -= rest @ solved.T
    in_common = _in_common(gaps, shares)
    palette.common.copy_(_root(in_common.T @ in_common / len(in_common)))
    for index, train_id in enumerate(known):
        apart = values - (means[:, index] - gaps[:, index] + in_common)[:, :, None, None]
        mine = (planes[:, train_id] > 0.5) & there[:, train_id, None, None]
        own = apart.permute(0, 2, 3, 1)[mine]
        if not len(own):
            continue
        rank_within = _ranks(own)
        palette.shades[:, train_id] = _curve(rank_within, own, SHADES)
        own = own - along(palette.shades[:, train_id], rank_within)
        palette.spreads[train_id], palette.known[train_id] = _root(own.T @ own / len(own)), 1
    for like, others in data.LOOKALIKES.items():  # few or none were seen of these
        for train_id in others:
            if palette.known[train_id]:
                continue
            for table in (palette.by_style, palette.spreads, palette.known):
                table[train_id] = table[like]
            for curve in (palette.usual, palette.shades):
                curve[:, train_id] = curve[:, like]


def _in_common(values: Tensor, shares: Tensor) -> Tensor:
    """Mean over the classes of a picture, `(N, K, 3)` to `(N, 3)`."""
    return (values * shares).sum(1) / shares.sum(1).clamp_min(1)


def _ranks(values: Tensor) -> Tensor:
    """How light each of `(N, 3)` is among all, from 0 to 1."""
    places = torch.empty(len(values))
    places[values.mean(1).argsort(stable=True)] = torch.arange(float(len(values)))
    return places / max(len(values) - 1, 1)


def _kernel(rank: Tensor, points: int) -> Tensor:
    """Weights of `(N,)` ranks for points that are evenly spread from 0 to 1, `(points, N)`.

    The nearest has a weight of 1, however far from the point it is.
    """
    steps = (torch.linspace(0, 1, points)[:, None] - rank) * (points - 1) / SMOOTH
    squares = steps.square()
    return (-0.5 * (squares - squares.amin(1, keepdim=True))).exp()


def _curve(rank: Tensor, values: Tensor, points: int) -> Tensor:
    """Smooth mean of `(N, C)` along their ranks, `(points, C)`."""
    kernel = _kernel(rank, points)
    return kernel @ values / kernel.sum(1, keepdim=True)


@torch.no_grad()
def give_palette(
    start: LabelUNet,
    pairs: Sequence[data.Pair],
    *,
    detector: nn.Module | None = None,
    seed: int = 0,
) -> LabelUNet:
    """A trained generator with a palette, measured on real pictures and on its own.

    Which colours places have, and how light pictures are, real ones say. Which style goes with how
    much light, the generator's own pictures say: which style a real picture has is not known any
    more.

    Args:
        start: The generator.
        pairs: Labelled pictures.
        detector: Its edge detector, where it is guided by edges.
        seed: Of the cut-outs and styles.
    """
    network = LabelUNet(replace(start.config, palette=True)).eval()
    network.load_state_dict(start.state_dict(), strict=False)
    network.palette = Palette(start.config.label_planes, start.config.style_size)
    rng, size = np.random.default_rng(seed), start.config.size_hw
    generator = torch.Generator().manual_seed(seed)
    tables: dict[str, list[Tensor]] = {"planes": [], "real": [], "painted": [], "styles": []}
    for pair in pairs:
        picture, ids = data.crop_pair(pair, size, rng, zoom=ZOOM)
        given = data.diversify_classes(ids, rng)
        told = planes = data.to_planes([given])
        style = torch.randn(1, start.config.style_size, generator=generator)
        places, noise = find_places(given, rng), None
        if start.config.edge_planes:
            assert detector is not None
            edges = torch.from_numpy(sketch_edges(given, rng))[None, None].float()
            told = torch.cat([planes, detector(edges)], dim=1)
        else:
            noise = torch.randn(planes[:, :1].shape, generator=generator)
        if start.config.colour_planes:
            told = torch.cat([told, data.to_tensor([mean_colours(picture, places)])], dim=1)
        made = to_uint8(network(told, style, noise)[0])
        for name, shown in (("real", picture), ("painted", made)):
            colours = data.to_tensor([mean_colours(shown, places)])
            tables[name].append(F.avg_pool2d(colours, CELL_PX))
        tables["planes"].append(F.avg_pool2d(planes, CELL_PX))
        tables["styles"].append(style)
    planes, real, painted, styles = (torch.cat(rows) for rows in tables.values())
    measure_palette(network.palette, planes, real, torch.zeros_like(styles))
    # The darkest style belongs to the darkest light, and so on.
    by_style = Palette(planes.shape[1], start.config.style_size)
    measure_palette(by_style, planes, painted, styles)
    for name in ("looks", "around", "by_style"):
        getattr(network.palette, name).copy_(getattr(by_style, name))
    return network


def _root(covariance: Tensor) -> Tensor:
    """What standard normal numbers are multiplied with to have a covariance `(C, C)`."""
    root: Tensor = torch.linalg.cholesky(covariance + 1e-5 * torch.eye(len(covariance)))
    return root
