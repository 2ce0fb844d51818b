/* The library for x86 processors with AVX-512 (F, VL, BW, DQ): setup.py sets the flags. */
#include "layer.h"
#include "normal.h"
#include "pack.h"
#include "statistics.h"
