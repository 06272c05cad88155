// Stands in for CUDA's header of this name, so that a host compiler takes kernels unchanged.
#pragma once

#include "simt/math.h"
#include "simt/memory.h"
#include "simt/types.h"
#include "simt/warp.h"
