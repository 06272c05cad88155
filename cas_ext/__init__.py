"""cas_ext: the class-agnostic segmentation (CAS) loss, fused into one pass over the pixels, for CPU and CUDA."""

from . import exported as exported  # so that the operators have their derivatives
from . import ops, reference, saliency
from .environment import info
from .functional import RegionMoments, cas_loss, region_moments
from .loss import CASLoss
from .regions import compact_regions
from .version import __version__

__all__ = [
    "CASLoss",
    "RegionMoments",
    "__version__",
    "cas_loss",
    "compact_regions",
    "info",
    "ops",
    "reference",
    "region_moments",
    "saliency",
]
