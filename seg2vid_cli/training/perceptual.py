"""A plain segmentation network that tells the first-frame generator what its pictures look like.

It is trained on real pictures, then frozen. A picture painted from a label map should be read as
that map, and its features should be those of the real picture of the place.

There are two. One knows nothing but the training pictures. The other reads the features of a VGG16
that knows ImageNet and does not learn any more, and it is in these that pictures are compared.

Unlike `seg2vid_cli.networks.segmenter` it has neither shortcuts nor a decoder, and learns nothing
from that one, which later measures painted pictures. Both learn from the same pictures, though, so
what one has been taught to like the other may like too: look at the Frechet distance as well.

Source: "Perceptual Losses for Real-Time Style Transfer and Super-Resolution" (Johnson et al., ECCV
2016) for compared features; "Multi-Scale Context Aggregation by Dilated Convolutions" (Yu and
Koltun, ICLR 2016) for the plain network; "Feature Pyramid Networks for Object Detection" (Lin et
al., CVPR 2017) for how the other one reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seg2vid_cli.label_sets import UNLABELLED
from seg2vid_cli.networks.layers import conv_norm_relu
from seg2vid_cli.training.imagenet import load_vgg
from seg2vid_cli.training.loop import load_trained
from seg2vid_cli.training.losses import compare
from seg2vid_cli.training.vgg import CHANNELS, Vgg16
from seg2vid_cli.weights.load import config_from_dict

NAME = "perceptual"
FEATURE_WEIGHT = 2.5
READ_WEIGHT = 0.15
FAR = 4  # pixels that a distant look makes one of


@dataclass(frozen=True, kw_only=True)
class PerceptualConfig:
    """Widths of the network.

    Args:
        classes: Output planes.
        channels: Feature channels at full size, 1/2, 1/4 and 1/8.
        dilations: Of the last convolutions, all at 1/8.
    """

    classes: int = 19
    channels: tuple[int, ...] = (32, 64, 128, 192)
    dilations: tuple[int, ...] = (1, 2, 4, 8)


class PerceptualNetwork(nn.Module):
    """Convolutions and pooling down to an eighth, then dilated convolutions."""

    def __init__(self, config: PerceptualConfig = PerceptualConfig()) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        stages = [conv_norm_relu(3, widths[0])]
        for before, width in pairwise(widths):
            stages.append(
                nn.Sequential(conv_norm_relu(before, width), conv_norm_relu(width, width))
            )
        self.stages = nn.ModuleList(stages)
        self.context = nn.ModuleList(
            conv_norm_relu(widths[-1], widths[-1], dilation=d) for d in config.dilations
        )
        self.head = nn.Conv2d(widths[-1], config.classes, 1)

    def forward(self, frame: Tensor) -> Tensor:
        """`(B, 3, H, W)` in [0, 1], sides multiples of 8, to logits `(B, classes, H, W)`."""
        logits = self.features(frame)[-1]
        return F.interpolate(logits, scale_factor=8.0, mode="bilinear", align_corners=False)

    def features(self, frame: Tensor) -> list[Tensor]:
        """Features at full size, 1/2, 1/4, 1/8 and behind the context, then logits at 1/8."""
        x, kept = frame - 0.5, []
        for index, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2) if index else x)
            kept.append(x)
        for layer in self.context:
            x = layer(x)
        return [*kept, x, self.head(x)]


@dataclass(frozen=True, kw_only=True)
class VggReaderConfig:
    """Widths of the network.

    Args:
        classes: Output planes.
        width: Feature channels with which it reads, at 1/4 to 1/16.
    """

    classes: int = 19
    width: int = 128


class VggReader(nn.Module):
    """Reads classes in the features of a VGG16 that learns no more, from the coarse to the fine."""

    def __init__(self, config: VggReaderConfig = VggReaderConfig()) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.trunk = Vgg16().requires_grad_(False)
        self.enter = nn.ModuleList(
            nn.Conv2d(channels, width, 1, bias=False) for channels in CHANNELS[2:]
        )
        self.context = nn.Sequential(
            conv_norm_relu(width, width, dilation=2), conv_norm_relu(width, width, dilation=4)
        )
        self.join = nn.ModuleList(conv_norm_relu(width, width) for _ in CHANNELS[2:])
        self.head = nn.Conv2d(width, config.classes, 1)

    def forward(self, frame: Tensor) -> Tensor:
        """`(B, 3, H, W)` in [0, 1], sides multiples of 16, to logits `(B, classes, H, W)`."""
        logits = self.features(frame)[-1]
        return F.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)

    def features(self, frame: Tensor) -> list[Tensor]:
        """Features of VGG16 at full size, 1/2, 1/4, 1/8 and 1/16, then logits at 1/4."""
        kept = self.trunk(frame)
        entered = [layer(x) for layer, x in zip(self.enter, kept[2:], strict=True)]
        x = self.join[-1](entered[-1])
        x = x + self.context(x)
        for fine, join in zip(entered[-2::-1], self.join[-2::-1], strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = join(x + fine)
        return [*kept, self.head(x)]


def begin_with_vgg(path: Path) -> VggReader:
    """A network to train that knows ImageNet.

    Args:
        path: See `load_vgg`.

    Raises:
        InputError: The file is missing or holds something else.
    """
    network = VggReader()
    load_vgg(network.trunk, path)
    return network


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a perceptual network makes of painted and of real pictures of the same places.

    Args:
        made: The painted pictures `(B, 3, H, W)`, then the network's features of them.
        real: The same of the real ones, without gradients.
        logits: `(B, classes, h, w)`, of the painted ones.
    """

    made: Sequence[Tensor]
    real: Sequence[Tensor]
    logits: Tensor


def look_at(network: PerceptualNetwork | VggReader, made: Tensor, real: Tensor) -> Seen:
    """Show painted and real pictures to a network.

    Args:
        network: Frozen.
        made: `(B, 3, H, W)` in [0, 1].
        real: The same places.
    """
    *painted, logits = network.features(made)
    with torch.no_grad():
        *true, _ = network.features(real.to(made.dtype))
    return Seen(made=[made, *painted], real=[real, *true], logits=logits)


def perceptual_losses(
    seen: Seen, ids: Tensor, weights: Tensor, *, planes: Tensor, follows: Tensor
) -> tuple[Tensor, Tensor]:
    """How far painted pictures look from real ones, and from what they should show.

    Args:
        seen: Both, as a perceptual network sees them.
        ids: `(B, H / 2, W / 2)` classes, 0-18 and 19 = unlabelled: only such as the network was
            trained on, since of others it says nothing but that they are not there.
        weights: Of the classes, `(19,)` or more.
        planes: `(B, 20, H, W)` one-hot labels, inside which textures are compared.
        follows: bool `(B,)`; see `seg2vid_cli.training.losses.compare`.

    Returns:
        Mean difference of colours and features, relative to their size in the real pictures;
        weighted cross-entropy.
    """
    # The pictures themselves come first: contrasts and colours of a class are textures, too, and
    # what is left of them at a distance.
    made, real = ([*x, F.avg_pool2d(x[0].float(), FAR)] for x in (seen.made, seen.real))
    apart = [
        compare(a.float(), b.float(), planes, follows).mean() / b.float().mean().clamp_min(1e-3)
        for a, b in zip(made, real, strict=True)
    ]
    logits = F.interpolate(
        seen.logits.float(), size=ids.shape[-2:], mode="bilinear", align_corners=False
    )
    weights = weights[: logits.shape[1]]
    wrong = F.cross_entropy(logits, ids, weights, ignore_index=UNLABELLED, reduction="sum")
    whole = weights[ids[ids != UNLABELLED]].sum()  # 0 where nothing is labelled
    return torch.stack(apart).mean(), wrong / whole.clamp_min(1e-6)


def load_perceptual(runs: Path) -> PerceptualNetwork | VggReader:
    """The network trained in a folder of runs, frozen.

    Raises:
        InputError: There is none.
    """
    state = load_trained(runs, NAME, what="perceptual network", command="segmenter --perceptual")
    network = _build(state["config"])
    network.load_state_dict(state["average"])
    return network.eval().requires_grad_(False)


def _build(config: Mapping[str, Any]) -> PerceptualNetwork | VggReader:
    if "width" in config:
        return VggReader(config_from_dict(VggReaderConfig, config))
    return PerceptualNetwork(config_from_dict(PerceptualConfig, config))
