"""Measure the colours that places have, for a first-frame generator to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.networks.label_unet import LabelUNet, Palette
from seg2vid_cli.palette import find_places, mean_colours
from seg2vid_cli.pipeline import to_uint8
from seg2vid_cli.sketch import sketch_edges
from seg2vid_cli.training import data

NAME = "palette"
ZOOM = (0.7, 1.0)
CELL_PX = 4  # colours are measured in cells of so many pixels
LEAST_SEEN = 60  # cells or pixels of a class in a picture, to say something of its colour
LEAST_PICTURES = 10
RIDGE = 0.02


@torch.no_grad()
def measure_palette(palette: Palette, planes: Tensor, colours: Tensor, styles: Tensor) -> None:
    """Measure the colours that places have in real pictures, given their styles.

    Args:
        palette: To be filled.
        planes: `(N, K, H, W)` one-hot.
        colours: `(N, 3, H, W)`, of the places.
        styles: `(N, style_size)`, as they will be drawn.
    """
    values = palette.measure(colours)
    counts = planes.sum((2, 3))
    there = counts > LEAST_SEEN
    means = torch.einsum("nkhw,nchw->nkc", planes, values) / counts.clamp_min(1)[..., None]
    ones = torch.cat([torch.ones(len(styles), 1), styles.float()], dim=1)
    known = [k for k in range(planes.shape[1]) if there[:, k].sum() >= LEAST_PICTURES]
    for train_id in known:
        share = (counts[:, train_id].sqrt() * there[:, train_id])[:, None]
        rows, wanted = ones * share, means[:, train_id] * share
        # Few pictures say little of how style matters.
        ridge = torch.eye(ones.shape[1]) * RIDGE * share.square().sum().clamp_min(1.0)
        ridge[0, 0] = 1e-6
        solved = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ wanted).T
        palette.means[train_id], palette.by_style[train_id] = solved[:, 0], solved[:, 1:]
    usual = palette.means + torch.einsum("kcs,ns->nkc", palette.by_style, styles.float())
    in_common = (there[..., None] * (means - usual))[:, known]
    in_common = in_common.sum(1) / there[:, known].sum(1).clamp_min(1)[:, None]
    palette.common.copy_(_root(in_common.T @ in_common / len(in_common)))
    for train_id in known:
        mean = usual[:, train_id] + in_common
        apart = values - mean[:, :, None, None]
        weight = planes[:, train_id] * there[:, train_id, None, None]
        spread = torch.einsum("nhw,nchw,ndhw->cd", weight, apart, apart) / weight.sum()
        palette.spreads[train_id], palette.known[train_id] = _root(spread), 1
    for like, others in data.LOOKALIKES.items():  # few or none were seen of these
        for train_id in others:
            if palette.known[train_id]:
                continue
            for table in (palette.means, palette.by_style, palette.spreads, palette.known):
                table[train_id] = table[like]


@torch.no_grad()
def give_palette(
    start: LabelUNet,
    pairs: Sequence[data.Pair],
    *,
    detector: nn.Module | None = None,
    seed: int = 0,
) -> LabelUNet:
    """A trained generator with a palette, measured on real pictures and on its own.

    How places of a class differ inside one picture, and how bright each class is, real pictures
    say. How light and colours go with the style, the generator's own pictures say: which style a
    real picture has is not known any more.

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
    by_style = Palette(planes.shape[1], start.config.style_size)
    measure_palette(by_style, planes, painted, styles)
    network.palette.by_style.copy_(by_style.by_style)
    network.palette.common.zero_()  # pictures differ in light, which is the style's
    return network


def _root(covariance: Tensor) -> Tensor:
    """What standard normal numbers are multiplied with to have a covariance `(3, 3)`."""
    root: Tensor = torch.linalg.cholesky(covariance + 1e-5 * torch.eye(3))
    return root
