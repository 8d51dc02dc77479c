// The C++ side of the emulator: what a kernel's twins (twins_*.hpp) call. The other side is Rust, src/.
//
// Each .cu becomes one object, compiled as `#include "emulator.hpp"  namespace { #include "x.cu" }` (build.rs). The
// unnamed namespace keeps the constants and helpers of different .cu files apart, as they are on a GPU.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace twofour_emulator {

// Where in a kernel's source something was called, for messages. As a default argument, here() is the caller's line.
struct Site {
  const char* file;
  unsigned line;
  static constexpr Site here(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
    return Site{file, line};
  }
};

// What a memory access is, for the rules that hold for it. Mirrors `Access` in src/access.rs.
enum Access : unsigned {
  kLoad,          // plain, from anywhere
  kLoadReadOnly,  // ld.global.nc: global memory that nothing writes during the kernel
  kStore,         // plain, to anywhere
  kStoreGlobal,   // st.global, atom.global
  kCopySource,    // cp.async: global memory
  kAccessCount,
};

struct Range {
  std::uintptr_t start, end;
};

// One CUDA thread. Mirrors `Thread` in src/thread.rs field by field.
struct alignas(64) Thread {
  unsigned thread[3];
  unsigned index;
  const void* host;
  const void* yielder;
  unsigned block[3];
  unsigned block_size[3];
  unsigned block_count[3];
  unsigned arithmetic;  // how tensor cores add, Arithmetic in src/tensor/arithmetic.rs; 0 is in order
  const char* kernel;
  Range dynamic_shared;
  Range static_shared;
  Range allowed[kAccessCount];  // the memory that the last access of each kind hit: the same again needs no look-up
};

// A kernel of the running program, and the list of one .cu.
struct Kernel {
  const char* symbol;
  unsigned args_size;
  unsigned max_threads;
  void (*entry)(const void* args);
  const Kernel* next;
};
static const Kernel* unit_kernels = nullptr;

struct Registered : Kernel {
  Registered(const char* symbol, unsigned args_size, unsigned max_threads, void (*entry)(const void*))
      : Kernel{symbol, args_size, max_threads, entry, unit_kernels} {
    unit_kernels = this;
  }
};

using Combine = void (*)(void* const* lanes);

}  // namespace twofour_emulator

extern "C" {

// The thread that runs now; for debuggers too: `print *twofour_emulator_current`.
extern __thread twofour_emulator::Thread* twofour_emulator_current;

// In Rust (src/calls.rs). A call that finds a fault does not return.
void twofour_emulator_barrier(twofour_emulator::Thread*, twofour_emulator::Site);
void twofour_emulator_collective(twofour_emulator::Thread*, const char* what, void* mine, twofour_emulator::Combine,
                                 twofour_emulator::Site);
void twofour_emulator_access(twofour_emulator::Thread*, std::uintptr_t, unsigned bytes, unsigned align,
                             twofour_emulator::Access, twofour_emulator::Site);
void twofour_emulator_not_shared(twofour_emulator::Thread*, const char* what, std::uintptr_t, unsigned bytes,
                                 unsigned align, twofour_emulator::Site);
void twofour_emulator_copy(twofour_emulator::Thread*, void* shared, const void* from, unsigned bytes, unsigned valid);
void twofour_emulator_copy_commit(twofour_emulator::Thread*);
void twofour_emulator_copy_wait(twofour_emulator::Thread*, unsigned newest);
void twofour_emulator_copy_wait_all(twofour_emulator::Thread*);
void twofour_emulator_multiply(twofour_emulator::Thread*, unsigned element, const float* a, unsigned terms,
                               const void* b, const unsigned char* columns, void* sums);
void twofour_emulator_unordered(twofour_emulator::Thread*, unsigned metadata, twofour_emulator::Site);
}

namespace twofour_emulator {

// Waits for all threads of the block. Other fibers run meanwhile, so the current thread is put back.
inline void barrier(Site site) {
  Thread* const me = twofour_emulator_current;
  twofour_emulator_barrier(me, site);
  twofour_emulator_current = me;
}

// Waits for all lanes of the warp. The last to come calls combine(lanes), which reads and writes what the 32 lanes
// brought as `mine`.
template <typename Lane>
inline void collective(const char* what, Lane& mine, Combine combine, Site site) {
  Thread* const me = twofour_emulator_current;
  twofour_emulator_collective(me, what, &mine, combine, site);
  twofour_emulator_current = me;
}

inline bool inside(const Range& range, std::uintptr_t address, unsigned bytes) {
  return address >= range.start && address + bytes <= range.end;
}

// Is this access allowed? If not, this does not return.
inline void check(const void* pointer, unsigned bytes, unsigned align, Access access, Site site) {
  Thread* const me = twofour_emulator_current;
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  if (inside(me->allowed[access], address, bytes) && address % align == 0) return;
  twofour_emulator_access(me, address, bytes, align, access, site);
}

// Are these bytes in the block's shared memory? If not, this does not return.
inline void check_shared(const char* what, const void* pointer, unsigned bytes, unsigned align, Site site) {
  Thread* const me = twofour_emulator_current;
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  const bool in = inside(me->dynamic_shared, address, bytes) || inside(me->static_shared, address, bytes);
  if (!in || address % align != 0) twofour_emulator_not_shared(me, what, address, bytes, align, site);
}

inline void* dynamic_shared() { return reinterpret_cast<void*>(twofour_emulator_current->dynamic_shared.start); }

}  // namespace twofour_emulator

// One per OS thread, and an OS thread runs one block at a time. build.rs lays all of them side by side, so that the
// emulator can fill them with 0xFF before each block.
#define TWOFOUR_EMULATOR_SHARED static thread_local

#define TWOFOUR_EMULATOR_KERNEL(symbol, Args, max_threads, min_blocks)                                        \
  static_assert(std::is_trivially_copyable<Args>::value, "kernel arguments travel as bytes");                 \
  static_assert((max_threads) >= 1 && (max_threads) <= 1024 && (min_blocks) >= 1, "launch bounds");           \
  extern "C" void symbol(const Args& args);                                                                   \
  static const ::twofour_emulator::Registered symbol##_registered{                                            \
      #symbol, sizeof(Args), max_threads, [](const void* args) { symbol(*static_cast<const Args*>(args)); }}; \
  extern "C" __attribute__((noinline)) void symbol(const Args& args)
