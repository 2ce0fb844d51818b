/* The library for x86 processors with AVX2 and FMA: setup.py sets the flags. */
#include "layer.h"
#include "normal.h"
#include "pack.h"
#include "statistics.h"
