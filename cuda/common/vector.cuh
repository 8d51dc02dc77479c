// Runs of consecutive elements between global memory and registers, always as float in registers: 16 bytes an access
// where the run allows it, one element an access for a tail.
#pragma once

#include "common/ptx.cuh"

namespace twofour {

using f32 = float;

// The two elements in a word.
TWOFOUR_DEVICE void unpack(u32 word, float& lo, float& hi, f16) {
  lo = to_float(f16{u16(word)});
  hi = to_float(f16{u16(word >> 16)});
}
TWOFOUR_DEVICE void unpack(u32 word, float& lo, float& hi, bf16) {
  lo = float_of(word << 16);
  hi = float_of(word & 0xffff0000u);
}
TWOFOUR_DEVICE u32 pack(float lo, float hi, f16) { return pack_f16x2(lo, hi); }
TWOFOUR_DEVICE u32 pack(float lo, float hi, bf16) { return pack_bf16x2(lo, hi); }

// The elements of an access.
TWOFOUR_DEVICE void unpack(u32x4 v, float* x, f32) {
  x[0] = float_of(v.x), x[1] = float_of(v.y), x[2] = float_of(v.z), x[3] = float_of(v.w);
}
template <typename T>
TWOFOUR_DEVICE void unpack(u32x4 v, float* x, T) {
  unpack(v.x, x[0], x[1], T{}), unpack(v.y, x[2], x[3], T{}), unpack(v.z, x[4], x[5], T{});
  unpack(v.w, x[6], x[7], T{});
}

// Reads n elements from 16-byte aligned memory that nothing writes meanwhile; n elements must fill whole 16 bytes.
// A run of one access is not kept in L1; the others are, for a thread's accesses share cache lines.
template <typename T, int n>
TWOFOUR_DEVICE void load_run(const T* from, float (&x)[n]) {
  constexpr int per_access = 16 / sizeof(T);
  static_assert(n % per_access == 0, "whole 16-byte accesses");
  TWOFOUR_UNROLL
  for (int a = 0; a < n; a += per_access) {
    unpack(n == per_access ? load_stream_16(from + a) : load_16(from + a), x + a, T{});
  }
}

// Reads n elements from 16-byte aligned memory that this thread writes later.
template <typename T, int n>
TWOFOUR_DEVICE void load_own_run(const T* from, float (&x)[n]) {
  constexpr int per_access = 16 / sizeof(T);
  static_assert(n % per_access == 0, "whole 16-byte accesses");
  TWOFOUR_UNROLL
  for (int a = 0; a < n; a += per_access) unpack(load(reinterpret_cast<const u32x4*>(from + a)), x + a, T{});
}

// Writes n elements, rounded once each, to 16-byte aligned memory.
template <typename T, int n>
TWOFOUR_DEVICE void store_run(T* to, const float (&x)[n]) {
  constexpr int per_access = 16 / sizeof(T);
  static_assert(n % per_access == 0, "whole 16-byte accesses");
  TWOFOUR_UNROLL
  for (int a = 0; a < n; a += per_access) {
    if constexpr (sizeof(T) == 4) {
      store_16(to + a, {bits_of(x[a]), bits_of(x[a + 1]), bits_of(x[a + 2]), bits_of(x[a + 3])});
    } else {
      store_16(to + a, {pack(x[a], x[a + 1], T{}), pack(x[a + 2], x[a + 3], T{}), pack(x[a + 4], x[a + 5], T{}),
                        pack(x[a + 6], x[a + 7], T{})});
    }
  }
}

// The same for a tail: any n, any alignment of the element's own.
template <typename T, int n>
TWOFOUR_DEVICE void load_each(const T* from, float (&x)[n]) {
  TWOFOUR_UNROLL
  for (int i = 0; i < n; ++i) x[i] = to_float(load(from + i));
}
template <typename T, int n>
TWOFOUR_DEVICE void store_each(T* to, const float (&x)[n]) {
  TWOFOUR_UNROLL
  for (int i = 0; i < n; ++i) store(to + i, from_float<T>(x[i]));
}

// Reads and writes n elements from `element` on: 16 bytes at a time where they are `whole` accesses, else one by one.
template <bool whole, typename T, int n>
TWOFOUR_DEVICE void read(const void* base, u64 element, float (&x)[n]) {
  const T* from = static_cast<const T*>(base) + element;
  if constexpr (whole) load_run(from, x);
  else load_each(from, x);
}
template <bool whole, typename T, int n>
TWOFOUR_DEVICE void write(void* base, u64 element, const float (&x)[n]) {
  T* to = static_cast<T*>(base) + element;
  if constexpr (whole) store_run(to, x);
  else store_each(to, x);
}

// Reads n elements that this thread writes later.
template <bool whole, typename T, int n>
TWOFOUR_DEVICE void read_own(const void* base, u64 element, float (&x)[n]) {
  const T* from = static_cast<const T*>(base) + element;
  if constexpr (whole) load_own_run(from, x);
  else load_each(from, x);
}

// Adds the n floats that this thread will write from `element` on.
template <bool whole, int n>
TWOFOUR_DEVICE void add_own(const float* base, u64 element, float (&x)[n]) {
  float before[n];
  read_own<whole, f32>(base, element, before);
  TWOFOUR_UNROLL
  for (int i = 0; i < n; ++i) x[i] += before[i];
}

}  // namespace twofour
