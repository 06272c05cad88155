"""cas_ext: the class-agnostic segmentation (CAS) loss, fused into one pass over the pixels, for CPU and CUDA."""

from . import ops, reference
from .environment import info
from .functional import RegionMoments, cas_loss, region_moments
from .loss import CASLoss
from .version import __version__

__all__ = ["CASLoss", "RegionMoments", "__version__", "cas_loss", "info", "ops", "reference", "region_moments"]
