"""VGG16 without its classifier, whose features painted pictures are compared in.

Layers are named as in torchvision, so that its weights can be loaded; see
`seg2vid_cli.training.imagenet`.

Source: "Very Deep Convolutional Networks for Large-Scale Image Recognition" (Simonyan and
Zisserman, ICLR 2015), configuration D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTHS = (64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)
CHANNELS = tuple(stage[-1] for stage in WIDTHS)
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pictures, which it expects to be taken off
DEVIATION = (0.229, 0.224, 0.225)


class Vgg16(nn.Module):
    """Picture to features of five sizes: the last of each, behind its ReLU."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for index, stage in enumerate(WIDTHS):
            if index:
                layers.append(nn.MaxPool2d(2))
            for channels in stage:
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
                width = channels
        self.features = nn.Sequential(*layers)
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, frame: Tensor) -> Sequence[Tensor]:
        """`(B, 3, H, W)` in [0, 1] to `(B, CHANNELS[i], H / 2^i, W / 2^i)` for i of 0 to 4."""
        x, kept = (frame - self.mean) / self.deviation, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                kept.append(x)
            x = layer(x)
        return [*kept, x]
