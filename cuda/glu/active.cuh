// The neurons whose rows a block goes over, by rank: all, or those that are on, whose bits are counted in shared memory.
#pragma once

#include "common/ptx.cuh"

namespace twofour {

// As many as numbers of 16 bits tell apart.
constexpr u32 kMaxNeurons = 1 << 16;

// Which neurons.
struct Which {
  const u32* given;  // [tokens, words], those of any token; null: all
  const u8* on;      // [32 words], those with a bit that is set, instead; null: not looked at
  u32 tokens;
  u32 neurons;
  u32 words;
  u32 whole;  // 1: all, whatever is above
};
static_assert(sizeof(Which) == 32, "WhichArgs in src/glu/launch/decode.rs");

// A bit for each of four bytes that is not zero.
TWOFOUR_DEVICE u32 bits_of_bytes(u32 bytes) {
  const u32 high = (((bytes & 0x7f7f7f7fu) + 0x7f7f7f7fu) | bytes) & 0x80808080u;
  return ((high >> 7) * 0x10204080u) >> 28;
}

// And of 32 bytes, which lie on a 16-byte boundary.
TWOFOUR_DEVICE u32 bits_of_bytes(const u8* bytes) {
  u32 bits = 0;
  TWOFOUR_UNROLL
  for (u32 i = 0; i < 2; ++i) {
    const u32x4 some = load_16(bytes + 16 * i);
    bits |=
        (bits_of_bytes(some.x) | bits_of_bytes(some.y) << 4 | bits_of_bytes(some.z) << 8 | bits_of_bytes(some.w) << 12)
        << (16 * i);
  }
  return bits;
}

// Of 32 neurons those that a gate's row is read of.
TWOFOUR_DEVICE u32 given_word(const Which& which, u32 word) {
  const u32 left = which.neurons - 32 * word, there = left < 32 ? (1u << left) - 1 : 0xffffffffu;
  if (!which.given || which.whole) return there;
  u32 bits = 0;
  for (u32 token = 0; token < which.tokens; ++token) bits |= load(which.given + u64(token) * which.words + word);
  return bits & there;
}

// Of 32 neurons those that a row is read of.
TWOFOUR_DEVICE u32 word_of(const Which& which, u32 word) {
  return which.on && !which.whole ? bits_of_bytes(which.on + 32 * word) : given_word(which, word);
}

struct Active {
  u32* bits;    // [words], in shared memory
  u32* before;  // [words], how many neurons there are before each word
  u32 words;
  u32 count;

  // `shared` holds two words for each word.
  TWOFOUR_DEVICE Active(const Which& which, u32* shared)
      : bits(shared), before(shared + which.words), words(which.words), count(which.neurons) {}

  // By all threads; `of_warps` is shared memory too.
  template <u32 threads>
  TWOFOUR_DEVICE void fill(const Which& which, u32* of_warps) {
    const u32 each = (words + threads - 1) / threads, first = thread_index() * each;
    const u32 end = first + each < words ? first + each : words;
    u32 mine = 0;
    for (u32 word = first; word < end; ++word) {
      const u32 of_word = word_of(which, word);
      bits[word] = of_word;
      before[word] = mine;
      mine += popcount(of_word);
    }
    u32 sum = mine;
    TWOFOUR_UNROLL
    for (u32 delta = 1; delta < kWarpSize; delta *= 2) {
      const u32 other = shuffle_index(sum, (lane() - delta) % kWarpSize);
      if (lane() >= delta) sum += other;
    }
    if (lane() == kWarpSize - 1) of_warps[warp()] = sum;
    sync_threads();
    u32 base = sum - mine;
    count = 0;
    for (u32 other = 0; other < threads / kWarpSize; ++other) {
      if (other < warp()) base += of_warps[other];
      count += of_warps[other];
    }
    for (u32 word = first; word < end; ++word) before[word] += base;
    sync_threads();
  }

  // The neuron of a rank, below count.
  TWOFOUR_DEVICE u32 select(u32 rank) const {
    u32 word = 0, beyond = words;
    while (beyond - word > 1) {
      const u32 middle = (word + beyond) / 2;
      if (before[middle] <= rank) word = middle;
      else beyond = middle;
    }
    u32 left = rank - before[word], at = 0;
    TWOFOUR_UNROLL
    for (u32 half = 16; half > 0; half /= 2) {
      const u32 here = popcount(bits[word] >> at & ((1u << half) - 1));
      if (left >= here) left -= here, at += half;
    }
    return 32 * word + at;
  }

  // The neurons of the ranks from `first` on, as many as there are and the list holds, by all threads.
  TWOFOUR_DEVICE void write(u32 first, u32 holds, u16* list) const {
    for (u32 word = thread_index(); word < words; word += block_size()) {
      u32 rank = before[word];
      for (u32 left = bits[word]; left != 0; left &= left - 1, ++rank) {
        if (rank >= first && rank - first < holds)
          list[rank - first] = u16(32 * word + 31 - leading_zeros(left & -left));
      }
    }
  }
};

}  // namespace twofour
