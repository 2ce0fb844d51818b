/* The library for x86 processors with AVX-512 (F, VL, BW, DQ): setup.py sets the flags. */
#include "pack.h"
#include "primitives.h"
#include "statistics.h"
