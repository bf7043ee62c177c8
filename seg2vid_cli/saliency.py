"""Where would a viewer look? Frames to saliency maps, overlays, and shares of attention by class.

Pictures are stretched to the network's own size, as its authors do, and the map back to the
picture's. What is done to a map on the way is an option of the weights: SalGAN's are blurred a
little, SalEMA's stretched so that every frame's least and greatest value are 0 and 1.

Source: imatge-upc/salgan, scripts/utils.py, `predict`; Linardos/SalEMA, src/data_loader.py and
src/inference.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from seg2vid_cli.device import Compute, Precision, resolve_compute
from seg2vid_cli.errors import ShapeError
from seg2vid_cli.label_sets import NUM_CLASSES
from seg2vid_cli.labels import LabelMap
from seg2vid_cli.networks.salgan import Salema, Salgan
from seg2vid_cli.weights.load import Bundle, open_bundle
from seg2vid_cli.weights.registry import WeightSpec

DEFAULT_WEIGHTS = "salema-dhf1k"
CHUNK = 4  # frames that go through the network together
BGR_MEAN = (103.939, 116.779, 123.68)  # of ImageNet, as VGG-16 was trained
_BLUR = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # what OpenCV takes for a 5x5 Gaussian

# Low to high: blue, cyan, yellow, red. What is not salient shows the picture as it is.
_HEAT_PLACES = (0.0, 0.35, 0.65, 1.0)
_HEAT: NDArray[np.float64] = np.array([(20, 40, 200), (0, 190, 230), (255, 220, 0), (225, 0, 0)])
_HEAT_OPACITY = 0.75  # at the most salient place


@dataclass(frozen=True, kw_only=True)
class SalientFrame:
    """A frame and where people look in it.

    Args:
        index: Number, from 0.
        frame: uint8 `(H, W, 3)` RGB.
        saliency: float32 `(H, W)` in [0, 1]; 1 = most salient.
    """

    index: int
    frame: NDArray[np.uint8]
    saliency: NDArray[np.float32]


class SaliencyModel:
    """A saliency network on one device.

    Args:
        network: SalGAN's generator, or SalEMA.
        compute: Where to run.
        normalise: Stretch each map so that its least value is 0 and its greatest 1; a map that is
            the same everywhere becomes 0.
        blur: Blur each map with a 5x5 binomial kernel at the picture's size.
        name: For reports.
    """

    def __init__(
        self,
        network: Salgan | Salema,
        *,
        compute: Compute,
        normalise: bool,
        blur: bool,
        name: str = "",
    ) -> None:
        self.network = network.to(compute.device)
        self.compute = compute
        self.normalise = normalise
        self.blur = blur
        self.name = name

    @classmethod
    def open(
        cls,
        weights: str = DEFAULT_WEIGHTS,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        before_pull: Callable[[WeightSpec], None] | None = None,
    ) -> SaliencyModel:
        """Open weights by name or folder.

        Args:
            weights: A name of the registry, or a bundle's folder.
            device: `auto`, `cpu`, `cuda` or `mps`.
            precision: `auto`, `fp32`, `bf16` or `fp16`.
            before_pull: Told which weights are about to be downloaded.

        Raises:
            InputError: Unknown weights or device, or weights without a saliency network.
            WeightsError: The files are damaged, or only their authors have them; says how to come
                by them.
        """
        compute = resolve_compute(device, precision)
        return cls.of_bundle(open_bundle(weights, before_pull=before_pull), compute)

    @classmethod
    def of_bundle(cls, bundle: Bundle, compute: Compute) -> SaliencyModel:
        """Load a bundle's saliency network.

        Raises:
            InputError: It has none.
            CheckpointError: The file is damaged or is not what the configuration needs.
        """
        bundle.require("saliency")
        network = bundle.network("saliency")
        assert isinstance(network, (Salgan, Salema))
        options = bundle.stages["saliency"].options
        return cls(
            network,
            compute=compute,
            normalise=options.get("normalise", False),
            blur=options.get("blur", False),
            name=bundle.name,
        )

    @property
    def remembers(self) -> bool:
        """Whether a frame's map depends on the frames before it."""
        return isinstance(self.network, Salema)

    def look(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Find out where people look in one picture.

        Args:
            picture: uint8 `(H, W, 3)` RGB, any size.

        Returns:
            float32 `(H, W)` in [0, 1]; 1 = most salient.
        """
        (seen,) = self.watch([picture])
        return seen.saliency

    def watch(
        self, frames: Iterable[NDArray[np.uint8]], *, remember: bool = True
    ) -> Iterator[SalientFrame]:
        """Find out where people look in every frame, while the frames are read.

        Memory does not grow with their number.

        Args:
            frames: uint8 `(H, W, 3)` RGB, in order.
            remember: False takes every frame on its own; makes a difference to SalEMA only.

        Yields:
            Every frame with its map, in order.
        """
        reader, memory, index = iter(frames), None, 0
        while chunk := list(islice(reader, CHUNK)):
            maps, memory = self.look_on(chunk, memory, remember=remember)
            for frame, saliency in zip(chunk, maps, strict=True):
                yield SalientFrame(index=index, frame=frame, saliency=saliency)
                index += 1

    def look_on(
        self, frames: Sequence[NDArray[np.uint8]], memory: Tensor | None, *, remember: bool = True
    ) -> tuple[list[NDArray[np.float32]], Tensor | None]:
        """Find out where people look in the next frames of a clip, all of them at once.

        Args:
            frames: uint8 `(H, W, 3)` RGB, in order; at least one.
            memory: What the call before returned; None at the start of a clip.
            remember: As in `watch`.

        Returns:
            For each frame float32 `(H, W)` in [0, 1], 1 = most salient; and the memory after the
            last one, None from a network without.

        Raises:
            ShapeError: A frame is not uint8 `(H, W, 3)`.
        """
        size = self.network.config.size_hw
        pictures = [resize_area(_to_tensor(frame), size) for frame in frames]
        inputs = to_network_units(torch.stack(pictures)).to(self.compute.device)
        with self.compute.run():
            raw, memory = self._run(inputs, memory if remember else None, remember)
        maps = [
            self._finish(one[0], (frame.shape[0], frame.shape[1]))
            for frame, one in zip(frames, raw.float().cpu(), strict=True)
        ]
        return maps, memory

    def _run(
        self, inputs: Tensor, memory: Tensor | None, remember: bool
    ) -> tuple[Tensor, Tensor | None]:
        maps: Tensor
        if isinstance(self.network, Salgan):
            maps = self.network(inputs)
            return maps, None
        if not remember:
            return torch.cat([self.network(picture)[0] for picture in inputs.split(1)]), None
        maps, memory = self.network(inputs, memory)
        return maps, memory

    def _finish(self, raw: Tensor, size_hw: tuple[int, int]) -> NDArray[np.float32]:
        """The network's `(h, w)` to a map of the picture's size."""
        if self.normalise:
            raw = stretch(raw)
        saliency = F.interpolate(raw[None, None], size_hw, mode="bicubic", align_corners=False)
        if self.blur:
            saliency = blur5(saliency)
        return saliency[0, 0].clamp(0, 1).numpy()


class Viewer:
    """Watches one clip while it is made: frames are handed over one by one.

    Clips that are made together need a viewer each, whose memory is its own; all may share a model.

    Args:
        model: The network.
    """

    def __init__(self, model: SaliencyModel) -> None:
        self._model = model
        self._memory: Tensor | None = None
        self._count = 0

    def see(self, frame: NDArray[np.uint8]) -> SalientFrame:
        """Find out where people look in the next frame.

        Args:
            frame: uint8 `(H, W, 3)` RGB.

        Returns:
            The frame with its map.

        Raises:
            ShapeError: The frame is not uint8 `(H, W, 3)`.
        """
        (saliency,), self._memory = self._model.look_on([frame], self._memory)
        self._count += 1
        return SalientFrame(index=self._count - 1, frame=frame, saliency=saliency)


# ---- pictures and maps ---------------------------------------------------------------------------


def _to_tensor(frame: NDArray[np.uint8]) -> Tensor:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ShapeError(f"expected a uint8 frame (H, W, 3), got {frame.dtype} {frame.shape}")
    return torch.from_numpy(frame.copy()).permute(2, 0, 1).float() / 255


def to_network_units(pictures: Tensor) -> Tensor:
    """Turn pictures into what VGG-16 was trained on.

    Args:
        pictures: `(B, 3, H, W)` RGB in [0, 1].

    Returns:
        The same shape; channels blue, green, red from 0 to 255, less ImageNet's mean.
    """
    mean = torch.tensor(BGR_MEAN, dtype=pictures.dtype, device=pictures.device)
    return pictures.flip(1) * 255 - mean[:, None, None]


def resize_area(picture: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Make a picture smaller: each pixel is the mean of the area it covers, OpenCV's `INTER_AREA`.

    Where a side grows, both are interpolated linearly.

    Args:
        picture: `(C, H, W)`.
        size_hw: Height and width to return.

    Returns:
        `(C, h, w)`.
    """
    (height, width), (new_height, new_width) = picture.shape[-2:], size_hw
    if new_height > height or new_width > width:
        return F.interpolate(picture[None], size_hw, mode="bilinear", align_corners=False)[0]
    return _overlaps(height, new_height) @ picture @ _overlaps(width, new_width).T


@lru_cache(maxsize=8)
def _overlaps(length: int, new_length: int) -> Tensor:
    """`(new, old)` shares of each old pixel in each new one; every row sums to 1."""
    edges = torch.arange(new_length + 1, dtype=torch.float64) * (length / new_length)
    pixels = torch.arange(length, dtype=torch.float64)
    until = torch.minimum(edges[1:, None], pixels + 1)
    covered = (until - torch.maximum(edges[:-1, None], pixels)).clamp_min(0)
    return (covered * (new_length / length)).float()


def stretch(saliency: Tensor) -> Tensor:
    """Stretch a map so that its least value is 0 and its greatest 1; a constant one becomes 0."""
    low, high = saliency.min(), saliency.max()
    return (saliency - low) / (high - low) if high > low else torch.zeros_like(saliency)


def blur5(saliency: Tensor) -> Tensor:
    """Blur `(1, 1, H, W)` with the 5x5 kernel of OpenCV's `GaussianBlur`, borders mirrored."""
    kernel = torch.tensor(_BLUR)
    for shape in ((1, 1, 5, 1), (1, 1, 1, 5)):
        pad = (0, 0, 2, 2) if shape[2] == 5 else (2, 2, 0, 0)
        saliency = F.conv2d(F.pad(saliency, pad, mode="reflect"), kernel.view(shape))
    return saliency


def resize_map(saliency: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Bring a map to another size, as `resize_area` does."""
    if saliency.shape == size_hw:
        return saliency
    return resize_area(torch.from_numpy(saliency)[None], size_hw)[0].numpy()


def saliency_to_grey(saliency: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Paint a map.

    Args:
        saliency: `(H, W)` in [0, 1].

    Returns:
        `uint8 (H, W)`; 255 (white) = most salient.
    """
    grey: NDArray[np.uint8] = np.rint(np.clip(saliency, 0, 1) * 255).astype(np.uint8)
    return grey


def overlay(frame: NDArray[np.uint8], saliency: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Paint a map over its frame: blue, cyan, yellow, red, and the denser the more salient.

    Args:
        frame: `uint8 (H, W, 3)` RGB.
        saliency: `(H, W)` in [0, 1]; where it is 0 the frame is unchanged.

    Returns:
        `uint8 (H, W, 3)` RGB.

    Raises:
        ShapeError: The sizes differ.
    """
    if frame.shape != (*saliency.shape, 3):
        raise ShapeError(
            f"expected a frame and a map of one size, got {frame.shape}, {saliency.shape}"
        )
    levels = saliency_to_grey(saliency)
    scale = np.linspace(0, 1, 256)
    heat = np.stack([np.interp(scale, _HEAT_PLACES, channel) for channel in _HEAT.T], axis=1)
    weight = (_HEAT_OPACITY * scale)[:, None]
    mixed = (1 - weight[levels]) * frame + (weight * heat)[levels]
    painted: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return painted


# ---- shares of attention -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ClassAttention:
    """One class's part in a clip.

    Args:
        train_id: The class, 0..19.
        attention: Its share of all saliency, in [0, 1].
        area: Its share of all pixels, in [0, 1].
    """

    train_id: int
    attention: float
    area: float


class AttentionByClass:
    """Shares of attention by class, over frames that all count the same.

    A frame's share for a class is the sum of the map over the pixels of that class, divided by the
    sum over all pixels. So it depends on how the weights scale their maps (see `SaliencyModel`):
    where the least value is not 0, a floor under the map goes to each class by its area.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.blank = 0  # frames whose map is 0 everywhere; they have no shares
        self._attention = np.zeros(NUM_CLASSES)
        self._area = np.zeros(NUM_CLASSES)

    def add(self, saliency: NDArray[np.float32], labels: LabelMap) -> None:
        """Add a frame.

        Args:
            saliency: `(H, W)` in [0, 1].
            labels: The scene's classes, of any size; the map is brought to it.
        """
        at_labels = resize_map(saliency, labels.size_hw).astype(np.float64)
        total = at_labels.sum()
        if total <= 0:
            self.blank += 1
            return
        ids = labels.train_ids.ravel()
        sums = np.bincount(ids, weights=at_labels.ravel(), minlength=NUM_CLASSES)
        self._attention += sums / total
        self._area += np.bincount(ids, minlength=NUM_CLASSES) / ids.size
        self.frames += 1

    def shares(self) -> list[ClassAttention]:
        """Every class that occurs, the one with the largest share of attention first."""
        found = [
            ClassAttention(
                train_id=train_id,
                attention=float(self._attention[train_id] / self.frames),
                area=float(self._area[train_id] / self.frames),
            )
            for train_id in range(NUM_CLASSES)
            if self._area[train_id] > 0
        ]
        return sorted(found, key=lambda share: (-share.attention, share.train_id))
