"""Turn one semantic label map into a video.

Shape letters used in every docstring: `B` batch, `T` future frames of one pass, `K` class planes,
`C` channels, `H W` height and width. Pictures are RGB, float32, [0, 1], channels first, unless a
docstring says `uint8 (H, W, 3)`.
"""

__version__ = "0.1.0"
