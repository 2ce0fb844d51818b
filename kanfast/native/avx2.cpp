/* The library for x86 processors with AVX2 and FMA: setup.py sets the flags. */
#include "pack.h"
#include "primitives.h"
#include "statistics.h"
