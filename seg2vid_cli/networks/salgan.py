"""Picture to saliency map: SalGAN's generator, and SalEMA, which is the same with a memory.

VGG-16's thirteen convolutions in five groups with a max pooling between two groups, and back again
in five groups with a nearest-neighbour enlargement between two, a 1x1 convolution and a sigmoid.
Layers have one running number, with ReLUs, poolings and enlargements counted, as in the published
checkpoints: convolution 30 is the first of the way back.

SalEMA replaces the output of one convolution, before its ReLU, by an exponential moving average
over time. Its published inference code also leaves a random dropout of channels before that layer
on (p = 0.5, drawn anew for every frame); here there is none, and a clip always gives the same maps.

Source: "SalGAN: Visual Saliency Prediction with Generative Adversarial Networks" (Pan et al.,
2017), imatge-upc/salgan, scripts/models/generator.py; "Simple vs complex temporal recurrences for
video saliency prediction" (Linardos et al., BMVC 2019), Linardos/SalEMA, src/model/SalEMA.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

ENCODER_CONVS = (2, 2, 3, 3, 3)  # in each group
DECODER_CONVS = (3, 3, 3, 2, 2)
MULTIPLE = 16  # of height and width: four poolings


@dataclass(frozen=True, kw_only=True)
class SalganConfig:
    """Widths of the generator.

    Args:
        size_hw: Height and width of the pictures it reads, multiples of 16 (published: 192, 256).
        encoder_channels: Width of each of the five groups on the way down (published: 64, 128,
            256, 512, 512).
        decoder_channels: Width of each of the five groups on the way up (published: 512, 512, 256,
            128, 64).
    """

    size_hw: tuple[int, int]
    encoder_channels: tuple[int, ...]
    decoder_channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SalemaConfig(SalganConfig):
    """The same with a memory.

    Args:
        ema_layer: Number of the convolution whose output is averaged (published: 30).
        ema_weight: Weight of the new frame in the average, above 0 and up to 1; the older frames
            keep the rest (published: sigmoid(0.1), which is 0.525).
    """

    ema_layer: int
    ema_weight: float


def conv_numbers() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Running numbers of the convolutions, on the way down and on the way up with the last 1x1."""
    parts, number = [], 0
    for groups in (ENCODER_CONVS, DECODER_CONVS):
        numbers = []
        for place, count in enumerate(groups):
            number += place > 0  # a pooling or an enlargement
            numbers += [number + 2 * i for i in range(count)]
            number += 2 * count  # each with its ReLU
        parts.append(tuple(numbers))
    return parts[0], (*parts[1], number)


def _layers(config: SalganConfig) -> nn.Sequential:
    height, width = config.size_hw
    if not height or not width or height % MULTIPLE or width % MULTIPLE:
        raise ValueError(f"size {width}x{height} is no multiple of {MULTIPLE}")
    layers: list[nn.Module] = []
    channels = 3
    ways: tuple[tuple[tuple[int, ...], tuple[int, ...], nn.Module], ...] = (
        (config.encoder_channels, ENCODER_CONVS, nn.MaxPool2d(2)),
        (config.decoder_channels, DECODER_CONVS, nn.Upsample(scale_factor=2, mode="nearest")),
    )
    for widths, counts, between in ways:
        for place, (wide, count) in enumerate(zip(widths, counts, strict=True)):
            if place:
                layers.append(between)
            for _ in range(count):
                layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU()]
                channels = wide
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 1), nn.Sigmoid())


def _to_map(last: nn.Module, x: Tensor) -> Tensor:
    """Run the last convolution and the sigmoid in float32: bf16 would leave some dozen levels."""
    with torch.autocast(x.device.type, enabled=False):
        saliency: Tensor = last(x.float())
    return saliency


class Salgan(nn.Module):
    """Say how likely a viewer looks at each place of a picture."""

    def __init__(self, config: SalganConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = _layers(config)

    def forward(self, pictures: Tensor) -> Tensor:
        """Read pictures, each on its own.

        Args:
            pictures: `(B, 3, H, W)`, channels blue, green, red from 0 to 255, less the mean of each
                channel; H and W multiples of 16.

        Returns:
            `(B, 1, H, W)` in [0, 1].
        """
        return _to_map(self.layers[-2:], self.layers[:-2](pictures))


class Salema(nn.Module):
    """Say where a viewer looks in the frames of a clip, with a memory of the frames before."""

    def __init__(self, config: SalemaConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = _layers(config)
        down, up = conv_numbers()
        if config.ema_layer not in (*down, *up[:-1]):
            raise ValueError(f"layer {config.ema_layer} is no convolution before the last one")
        if not 0 < config.ema_weight <= 1:
            raise ValueError(f"ema_weight {config.ema_weight} is not above 0 and up to 1")

    def forward(self, frames: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read the next frames of a clip, in order.

        Args:
            frames: `(T, 3, H, W)` as in `Salgan.forward`.
            memory: What the call before returned; None at the start of a clip, where the first
                frame's own value is the average.

        Returns:
            Maps, `(T, 1, H, W)` in [0, 1], and the memory after the last frame, float32
            `(1, C, H', W')`.
        """
        split = self.config.ema_layer + 1
        averages = []
        for new in self.layers[:split](frames).float().split(1):
            memory = new if memory is None else torch.lerp(memory, new, self.config.ema_weight)
            averages.append(memory)
        features = self.layers[split:-2](torch.cat(averages))
        return _to_map(self.layers[-2:], features), averages[-1]
