// The twins of cuda/common/ptx.cuh: the same names and contracts, in C++, with every check that an emulator can make.
// Sorted as ptx.cuh is. Included inside the unnamed namespace of a .cu (see emulator.hpp), so no system header here.
#pragma once

#include "twins_math.hpp"
#include "twins_memory.hpp"
#include "twins_tensor.hpp"
#include "twins_warp.hpp"
