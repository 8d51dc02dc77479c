// Gated activations and their gradients, a block a row (src/glu/mod.rs is the contract).
//
// Symbols: twofour_glu_forward_{T} and _backward_{T} of gate and up that lie apart, or one behind the other in a row;
// twofour_glu_forward_pairs_{T} and _backward_pairs_{T} of pairs.
//
// A thread takes 8 neurons at a time: 16 bytes of a 16-bit type, and a byte of the mask.

#include "common/vector.cuh"
#include "glu/neuron.cuh"

namespace twofour {

constexpr u32 kThreads = 256;
constexpr u32 kWarps = kThreads / kWarpSize;
constexpr u32 kRun = 8;

struct GluArgs {
  const void* gate;  // of pairs both
  const void* up;
  const void* dh;  // [rows, neurons]
  void* to_gate;   // the gradient; of the forward pass null
  void* to_up;     // the gradient, or h
  u8* mask;        // [rows, 4 words]; null: none. The forward pass writes, the backward pass reads it
  u32* active;     // [rows]; null: not wanted
  u32* lost;       // [rows]; null: not wanted
  u64 rows;
  u64 stride;     // elements from a row of gate, and of up, to the next
  u64 to_stride;  // and of what is written
  u32 neurons;
  u32 words;  // of a row's mask
  Bounds bounds;
  float l1;
};
static_assert(sizeof(GluArgs) == 120, "GluArgs in src/glu/launch.rs");

// ---- reading and writing 8 neurons of a row, `count` of which there are -----------------------------------------------
// Whole runs are of whole accesses; elements that are not there are left as they are. All memory may be written later by
// the thread that reads it.

template <typename T>
TWOFOUR_DEVICE void read_neurons(const void* base, u64 element, u32 count, bool whole, float (&x)[kRun]) {
  const T* from = static_cast<const T*>(base) + element;
  if (whole) return load_own_run(from, x);
  TWOFOUR_UNROLL
  for (u32 i = 0; i < kRun; ++i) {
    if (i < count) x[i] = to_float(load(from + i));
  }
}

template <typename T>
TWOFOUR_DEVICE void write_neurons(void* base, u64 element, u32 count, bool whole, const float (&x)[kRun]) {
  T* to = static_cast<T*>(base) + element;
  if (whole) return store_run(to, x);
  TWOFOUR_UNROLL
  for (u32 i = 0; i < kRun; ++i) {
    if (i < count) store(to + i, from_float<T>(x[i]));
  }
}

// Halves of the pairs.
TWOFOUR_DEVICE void split(const float (&pairs)[2 * kRun], float (&gate)[kRun], float (&up)[kRun]) {
  TWOFOUR_UNROLL
  for (u32 i = 0; i < kRun; ++i) gate[i] = pairs[2 * i], up[i] = pairs[2 * i + 1];
}

template <typename T>
TWOFOUR_DEVICE void read_pairs(const void* base, u64 element, u32 count, bool whole, float (&gate)[kRun],
                               float (&up)[kRun]) {
  const T* from = static_cast<const T*>(base) + element;
  if (whole) {
    float pairs[2 * kRun];
    load_own_run(from, pairs);
    return split(pairs, gate, up);
  }
  TWOFOUR_UNROLL
  for (u32 i = 0; i < kRun; ++i) {
    if (i < count) gate[i] = to_float(load(from + 2 * i)), up[i] = to_float(load(from + 2 * i + 1));
  }
}

template <typename T>
TWOFOUR_DEVICE void write_pairs(void* base, u64 element, u32 count, bool whole, const float (&gate)[kRun],
                                const float (&up)[kRun]) {
  T* to = static_cast<T*>(base) + element;
  if (whole) {
    float pairs[2 * kRun];
    TWOFOUR_UNROLL
    for (u32 i = 0; i < kRun; ++i) pairs[2 * i] = gate[i], pairs[2 * i + 1] = up[i];
    return store_run(to, pairs);
  }
  TWOFOUR_UNROLL
  for (u32 i = 0; i < kRun; ++i) {
    if (i < count) store(to + 2 * i, from_float<T>(gate[i])), store(to + 2 * i + 1, from_float<T>(up[i]));
  }
}

template <typename T, bool pairs>
TWOFOUR_DEVICE void read_both(const GluArgs& args, u64 row, u32 first, u32 count, bool whole, float (&gate)[kRun],
                              float (&up)[kRun]) {
  if constexpr (pairs) {
    read_pairs<T>(args.gate, row * args.stride + 2 * u64(first), count, whole, gate, up);
  } else {
    read_neurons<T>(args.gate, row * args.stride + first, count, whole, gate);
    read_neurons<T>(args.up, row * args.stride + first, count, whole, up);
  }
}

// ---- the kernels --------------------------------------------------------------------------------------------------------

// The block's sums of two counts, by all of its threads; thread 0 has them. A barrier before and after.
TWOFOUR_DEVICE void add_up(u32& active, u32& lost) {
  TWOFOUR_SHARED u32 of_warps[2][kWarps];
  TWOFOUR_UNROLL
  for (u32 delta = kWarpSize / 2; delta > 0; delta /= 2) {
    active += shuffle_down(active, delta);
    lost += shuffle_down(lost, delta);
  }
  sync_threads();
  if (lane() == 0) of_warps[0][warp()] = active, of_warps[1][warp()] = lost;
  sync_threads();
  if (thread_index() != 0) return;
  for (u32 other = 1; other < kWarps; ++other) active += of_warps[0][other], lost += of_warps[1][other];
}

template <typename T, bool pairs>
TWOFOUR_DEVICE void forward_kernel(const GluArgs& args) {
  const bool whole = args.neurons % kRun == 0;
  for (u64 row = block_index(); row < args.rows; row += block_count()) {
    u32 active = 0, lost = 0;
    for (u32 run = thread_index(); run < 4 * args.words; run += kThreads) {
      const u32 first = run * kRun;
      u32 bits = 0;
      if (first < args.neurons) {
        const u32 count = args.neurons - first < kRun ? args.neurons - first : kRun;
        // Of those that are not there: neither on nor lost.
        float gate[kRun], h[kRun];
        TWOFOUR_UNROLL
        for (u32 i = 0; i < kRun; ++i) gate[i] = -infinity(), h[i] = -1.0f;
        read_both<T, pairs>(args, row, first, count, whole, gate, h);
        TWOFOUR_UNROLL
        for (u32 i = 0; i < kRun; ++i) {
          const bool on = is_on(args.bounds, gate[i], h[i]) && i < count;
          bits |= u32(on) << i;
          lost += is_unordered(gate[i] * h[i]);
          h[i] = on ? (args.bounds.smooth ? Silu(gate[i]).value : gate[i]) * h[i] : 0.0f;
        }
        active += popcount(bits);
        write_neurons<T>(args.to_up, row * args.to_stride + first, count, whole, h);
      }
      if (args.mask) store(args.mask + row * args.words * 4 + run, u8(bits));
    }
    if (args.active || args.lost) {
      add_up(active, lost);
      if (thread_index() == 0 && args.active) store(args.active + row, active);
      if (thread_index() == 0 && args.lost) store(args.lost + row, lost);
    }
  }
}

// lambda sign(a up)
TWOFOUR_DEVICE float slope_of_l1(float l1, float a, float up) {
  const float signed_l1 = float_of(bits_of(l1) ^ ((bits_of(a) ^ bits_of(up)) & 0x80000000u));
  return a == 0.0f || up == 0.0f ? 0.0f : signed_l1;
}

template <typename T, bool pairs>
TWOFOUR_DEVICE void backward_kernel(const GluArgs& args) {
  const bool whole = args.neurons % kRun == 0;
  const u32 runs = (args.neurons + kRun - 1) / kRun;
  for (u64 row = block_index(); row < args.rows; row += block_count()) {
    for (u32 run = thread_index(); run < runs; run += kThreads) {
      const u32 first = run * kRun, count = args.neurons - first < kRun ? args.neurons - first : kRun;
      const u32 bits = args.mask ? u32(load(args.mask + row * args.words * 4 + run)) : 0xffu;
      float gate[kRun], up[kRun], dh[kRun];
      TWOFOUR_UNROLL
      for (u32 i = 0; i < kRun; ++i) gate[i] = 0.0f, up[i] = 0.0f, dh[i] = 0.0f;
      if (bits != 0) {
        read_both<T, pairs>(args, row, first, count, whole, gate, up);
        read_neurons<T>(args.dh, row * args.neurons + first, count, whole, dh);
      }
      TWOFOUR_UNROLL
      for (u32 i = 0; i < kRun; ++i) {
        const bool on = args.mask ? bits >> i & 1 : is_on(args.bounds, gate[i], up[i]);
        const Silu silu(gate[i]);
        const float a = args.bounds.smooth ? silu.value : gate[i], slope = args.bounds.smooth ? silu.slope : 1.0f;
        const float d = dh[i] + slope_of_l1(args.l1, a, up[i]);
        gate[i] = on ? d * slope * up[i] : 0.0f;
        up[i] = on ? d * a : 0.0f;
      }
      if constexpr (pairs) {
        write_pairs<T>(args.to_gate, row * args.to_stride + 2 * u64(first), count, whole, gate, up);
      } else {
        write_neurons<T>(args.to_gate, row * args.to_stride + first, count, whole, gate);
        write_neurons<T>(args.to_up, row * args.to_stride + first, count, whole, up);
      }
    }
  }
}

#define TWOFOUR_GLU(T)                                                                                   \
  TWOFOUR_KERNEL(twofour_glu_forward_##T, GluArgs, kThreads, 5) { forward_kernel<T, false>(args); }      \
  TWOFOUR_KERNEL(twofour_glu_forward_pairs_##T, GluArgs, kThreads, 5) { forward_kernel<T, true>(args); } \
  TWOFOUR_KERNEL(twofour_glu_backward_##T, GluArgs, kThreads, 5) { backward_kernel<T, false>(args); }    \
  TWOFOUR_KERNEL(twofour_glu_backward_pairs_##T, GluArgs, kThreads, 5) { backward_kernel<T, true>(args); }

TWOFOUR_GLU(f32)
TWOFOUR_GLU(f16)
TWOFOUR_GLU(bf16)

}  // namespace twofour
