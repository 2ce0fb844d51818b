/* The library for processors that are not x86, at the compiler's defaults: setup.py sets the flags. */
#include "layer.h"
#include "normal.h"
#include "pack.h"
#include "statistics.h"
