"""Many pictures of the world on one device, drawn once; every time one is taken its grain is new."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from miniature.scenes import TRAINING, Renderer, Scenes, grain, join, random_scenes

AT_ONCE = 256  # scenes drawn together


class Pool:
    """`count` pictures and their scenes.

    scenes: all of them. pictures: count 3 64 64 uint8, without grain. visible: count 3 64 64 uint8, 255 where a thing
    is seen, if `masks`. share: count 3, the visible share of each thing. All tensors are on `device`.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        device: torch.device,
        among: Sequence[str] | None = None,
        layouts: range = TRAINING,
        masks: bool = False,
        draw: Callable[[np.random.Generator, int], Scenes] | None = None,
    ) -> None:
        """draw: gives scenes; by default `random_scenes` of the objects `among`."""
        renderer, parts, pictures, visible, share = Renderer(device, layouts), [], [], [], []
        draw = draw or (lambda rng, n: random_scenes(rng, n, among, layouts))
        for start in range(0, count, AT_ONCE):
            scenes = draw(np.random.default_rng([seed, 7, start]), min(AT_ONCE, count - start))
            drawn = renderer(scenes)
            parts.append(scenes)
            pictures.append((drawn.pictures * 255).round().byte())
            share.append(drawn.share)
            if masks:
                visible.append((drawn.visible * 255).round().byte())
        self.scenes, self.device = join(parts), device
        self.pictures, self.share = torch.cat(pictures), torch.cat(share)
        self.visible = torch.cat(visible) if masks else None

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, chosen: np.ndarray, generator: torch.Generator) -> Tensor:
        """The chosen pictures, n 3 64 64 in [0, 1], with grain."""
        clean = self.pictures[torch.from_numpy(chosen).to(self.device)].float() / 255
        return (clean + grain(len(chosen), generator).to(self.device)).clamp(0, 1)
