// Sums over a block.
#pragma once

#include "common/ptx.cuh"

namespace twofour {

// Adds what the block's threads hold, in pairs, so that the order is that of the threads' numbers alone. By all threads
// of the block, a power of two; thread 0 has the sum.
template <u32 threads, typename T>
TWOFOUR_DEVICE T sum_of_threads(const T& own) {
  TWOFOUR_SHARED T of_threads[threads];
  of_threads[thread_index()] = own;
  TWOFOUR_NO_UNROLL
  for (u32 half = threads / 2; half > 0; half /= 2) {
    sync_threads();
    if (thread_index() < half) of_threads[thread_index()].add(of_threads[thread_index() + half]);
  }
  // Its own: another's may be written still.
  return of_threads[thread_index()];
}

}  // namespace twofour
