// What every kernel stands on: plain types, the kernel macro, shared memory and thread indices.
//
// A kernel includes no toolkit and no system header, so the same file compiles with nvcc, with NVRTC (which
// has no <stdint.h>) and with a host C++17 compiler for the emulator. Whatever differs between them is here
// and in ptx.cuh; a kernel itself has no #if.
//
// Headers include each other as "common/<name>.cuh": cuda/ is on the include path, and NVRTC is handed them
// under that very name.
//
//     #include "common/ptx.cuh"
//     namespace twofour {
//     struct DoubleArgs { const float* in; float* out; u64 count; };
//     TWOFOUR_KERNEL(twofour_double_f32, DoubleArgs, 256, 2) {
//       const u64 i = u64(block_index()) * block_size() + thread_index();
//       if (i < args.count) store(args.out + i, 2.0f * load(args.in + i));
//     }
//     }  // namespace twofour
#pragma once

#ifndef TWOFOUR_EMULATED
#define TWOFOUR_EMULATED 0
#endif

#if TWOFOUR_EMULATED
#include "emulator.hpp"
#endif

namespace twofour {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i8 = signed char;
using i16 = short;
using i32 = int;
using i64 = long long;

static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(u64) == 8 && sizeof(void*) == 8, "a 64-bit target");

// Storage only: arithmetic is done in float, conversions are in ptx.cuh.
struct f16 {
  u16 bits;
};
struct bf16 {
  u16 bits;
};

// What one vector load or store moves.
struct alignas(8) u32x2 {
  u32 x, y;
};
struct alignas(16) u32x4 {
  u32 x, y, z, w;
};

constexpr u32 kWarpSize = 32;
constexpr u32 kFullWarp = 0xffffffffu;

}  // namespace twofour

// ---------------------------------------------------------------------------------------------------------
// TWOFOUR_DEVICE           before a function or method that runs on the device.
// TWOFOUR_KERNEL(symbol, Args, max_threads, min_blocks) { ... uses `args` ... }
//                          A kernel takes exactly one trivially copyable struct by value, so a launch is:
//                          symbol, grid, block, dynamic shared bytes, the bytes of `args`.
//                          Compiled with TWOFOUR_ONLY=1, a file has only those kernels whose TWOFOUR_WANTED_<symbol>
//                          is 1: so NVRTC compiles the one that is about to be launched.
// TWOFOUR_SHARED T x[N];   static shared memory, in a function body.
// TWOFOUR_DYNAMIC_SHARED(T, name)  declares `T* name`, the start of the dynamic shared memory, 16-byte aligned.
// TWOFOUR_TABLE T x[N] = {...};    constants in global memory, 16-byte aligned, at namespace scope.
// TWOFOUR_UNROLL           before a loop with a constant trip count.
// TWOFOUR_NO_UNROLL        before a loop that is to stay one: where code size matters and speed does not.
//
// Shared memory starts out undefined on a GPU. The emulator fills it with 0xFF bytes before each block.

#if TWOFOUR_EMULATED

#define TWOFOUR_DEVICE inline
#define TWOFOUR_UNROLL
#define TWOFOUR_NO_UNROLL
#define TWOFOUR_TABLE alignas(16) static const
#define TWOFOUR_SHARED TWOFOUR_EMULATOR_SHARED
#define TWOFOUR_DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(::twofour_emulator::dynamic_shared())
#define TWOFOUR_KERNEL(symbol, Args, max_threads, min_blocks) \
  TWOFOUR_EMULATOR_KERNEL(symbol, Args, max_threads, min_blocks)

#else

#define TWOFOUR_DEVICE __device__ __forceinline__
#define TWOFOUR_UNROLL _Pragma("unroll")
#define TWOFOUR_NO_UNROLL _Pragma("unroll 1")
#define TWOFOUR_TABLE alignas(16) static __device__ const
#define TWOFOUR_SHARED __shared__
#define TWOFOUR_DYNAMIC_SHARED(T, name)                                  \
  extern __shared__ __align__(16)::twofour::u8 twofour_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(twofour_dynamic_shared)
#define TWOFOUR_GLOBAL(symbol, Args, max_threads, min_blocks)                       \
  static_assert(__is_trivially_copyable(Args), "kernel arguments travel as bytes"); \
  extern "C" __global__ void __launch_bounds__(max_threads, min_blocks) symbol(const __grid_constant__ Args args)

#ifndef TWOFOUR_ONLY

#define TWOFOUR_KERNEL TWOFOUR_GLOBAL

#else

// What serves the other kernels of the file is, rightly, not referenced.
#pragma nv_diag_suppress 177

// A template that nobody instantiates costs no more than its parsing, nor do the templates it would call.
#define TWOFOUR_DROPPED(symbol, Args, max_threads, min_blocks) \
  template <typename>                                          \
  __device__ void symbol(const Args& args)

#define TWOFOUR_KERNEL(symbol, Args, max_threads, min_blocks)              \
  TWOFOUR_IF_ONE(TWOFOUR_WANTED_##symbol, TWOFOUR_GLOBAL, TWOFOUR_DROPPED) \
  (symbol, Args, max_threads, min_blocks)

// `then` if the macro x is defined as 1, else `otherwise`: TWOFOUR_COMMA_IF_1 alone expands, to a comma that puts
// `then` into second place. Each step lets the step before it expand.
#define TWOFOUR_IF_ONE(x, then, otherwise) TWOFOUR_IF_ONE_PASTE(x, then, otherwise)
#define TWOFOUR_IF_ONE_PASTE(x, then, otherwise) TWOFOUR_IF_ONE_PLACE(TWOFOUR_COMMA_IF_##x, then, otherwise)
#define TWOFOUR_IF_ONE_PLACE(comma, then, otherwise) TWOFOUR_SECOND(comma then, otherwise, )
#define TWOFOUR_SECOND(first, second, ...) second
#define TWOFOUR_COMMA_IF_1 ,

#endif

#endif

namespace twofour {

// ---------------------------------------------------------------------------------------------------------
// Where a thread is. lane() and warp() count along x: a block with y or z needs x to be a multiple of 32.

#if TWOFOUR_EMULATED

TWOFOUR_DEVICE u32 thread_index() { return twofour_emulator_current->thread[0]; }
TWOFOUR_DEVICE u32 thread_index_y() { return twofour_emulator_current->thread[1]; }
TWOFOUR_DEVICE u32 thread_index_z() { return twofour_emulator_current->thread[2]; }
TWOFOUR_DEVICE u32 block_size() { return twofour_emulator_current->block_size[0]; }
TWOFOUR_DEVICE u32 block_size_y() { return twofour_emulator_current->block_size[1]; }
TWOFOUR_DEVICE u32 block_size_z() { return twofour_emulator_current->block_size[2]; }
TWOFOUR_DEVICE u32 block_index() { return twofour_emulator_current->block[0]; }
TWOFOUR_DEVICE u32 block_index_y() { return twofour_emulator_current->block[1]; }
TWOFOUR_DEVICE u32 block_index_z() { return twofour_emulator_current->block[2]; }
TWOFOUR_DEVICE u32 block_count() { return twofour_emulator_current->block_count[0]; }
TWOFOUR_DEVICE u32 block_count_y() { return twofour_emulator_current->block_count[1]; }
TWOFOUR_DEVICE u32 block_count_z() { return twofour_emulator_current->block_count[2]; }

#else

TWOFOUR_DEVICE u32 thread_index() { return threadIdx.x; }
TWOFOUR_DEVICE u32 thread_index_y() { return threadIdx.y; }
TWOFOUR_DEVICE u32 thread_index_z() { return threadIdx.z; }
TWOFOUR_DEVICE u32 block_size() { return blockDim.x; }
TWOFOUR_DEVICE u32 block_size_y() { return blockDim.y; }
TWOFOUR_DEVICE u32 block_size_z() { return blockDim.z; }
TWOFOUR_DEVICE u32 block_index() { return blockIdx.x; }
TWOFOUR_DEVICE u32 block_index_y() { return blockIdx.y; }
TWOFOUR_DEVICE u32 block_index_z() { return blockIdx.z; }
TWOFOUR_DEVICE u32 block_count() { return gridDim.x; }
TWOFOUR_DEVICE u32 block_count_y() { return gridDim.y; }
TWOFOUR_DEVICE u32 block_count_z() { return gridDim.z; }

#endif

TWOFOUR_DEVICE u32 lane() { return thread_index() % kWarpSize; }
TWOFOUR_DEVICE u32 warp() { return thread_index() / kWarpSize; }

}  // namespace twofour
