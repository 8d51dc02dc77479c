// Twins of the loads, stores, atomics and asynchronous copies.
#pragma once

namespace twofour {

using ::twofour_emulator::check;
using ::twofour_emulator::check_shared;
using ::twofour_emulator::Site;

template <typename T>
TWOFOUR_DEVICE T checked_load(const void* from, ::twofour_emulator::Access access, Site site) {
  check(from, sizeof(T), alignof(T), access, site);
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <typename T>
TWOFOUR_DEVICE void checked_store(void* to, const T& value, ::twofour_emulator::Access access, Site site) {
  check(to, sizeof(T), alignof(T), access, site);
  std::memcpy(to, &value, sizeof value);
}

template <typename T>
TWOFOUR_DEVICE T load(const T* from, Site site = Site::here()) {
  return checked_load<T>(from, ::twofour_emulator::kLoad, site);
}
template <typename T>
TWOFOUR_DEVICE void store(T* to, T value, Site site = Site::here()) {
  checked_store<T>(to, value, ::twofour_emulator::kStore, site);
}

TWOFOUR_DEVICE u32x4 load_stream_16(const void* from, Site site = Site::here()) {
  return checked_load<u32x4>(from, ::twofour_emulator::kLoadReadOnly, site);
}
TWOFOUR_DEVICE u32x2 load_stream_8(const void* from, Site site = Site::here()) {
  return checked_load<u32x2>(from, ::twofour_emulator::kLoadReadOnly, site);
}
TWOFOUR_DEVICE u32x4 load_16(const void* from, Site site = Site::here()) {
  return checked_load<u32x4>(from, ::twofour_emulator::kLoadReadOnly, site);
}
TWOFOUR_DEVICE u32x2 load_8(const void* from, Site site = Site::here()) {
  return checked_load<u32x2>(from, ::twofour_emulator::kLoadReadOnly, site);
}
TWOFOUR_DEVICE u32 load_4(const void* from, Site site = Site::here()) {
  return checked_load<u32>(from, ::twofour_emulator::kLoadReadOnly, site);
}
TWOFOUR_DEVICE u16 load_2(const void* from, Site site = Site::here()) {
  return checked_load<u16>(from, ::twofour_emulator::kLoadReadOnly, site);
}

TWOFOUR_DEVICE void store_16(void* to, u32x4 value, Site site = Site::here()) {
  checked_store(to, value, ::twofour_emulator::kStoreGlobal, site);
}
TWOFOUR_DEVICE void store_8(void* to, u32x2 value, Site site = Site::here()) {
  checked_store(to, value, ::twofour_emulator::kStoreGlobal, site);
}
TWOFOUR_DEVICE void store_4(void* to, u32 value, Site site = Site::here()) {
  checked_store(to, value, ::twofour_emulator::kStoreGlobal, site);
}
TWOFOUR_DEVICE void store_2(void* to, u16 value, Site site = Site::here()) {
  checked_store(to, value, ::twofour_emulator::kStoreGlobal, site);
}
TWOFOUR_DEVICE void store_stream_16(void* to, u32x4 value, Site site = Site::here()) {
  checked_store(to, value, ::twofour_emulator::kStoreGlobal, site);
}
TWOFOUR_DEVICE void store_stream_8(void* to, u32x2 value, Site site = Site::here()) {
  checked_store(to, value, ::twofour_emulator::kStoreGlobal, site);
}

TWOFOUR_DEVICE u32 atomic_add(u32* to, u32 value, Site site = Site::here()) {
  check(to, sizeof value, alignof(u32), ::twofour_emulator::kStoreGlobal, site);
  return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
TWOFOUR_DEVICE u64 atomic_add(u64* to, u64 value, Site site = Site::here()) {
  check(to, sizeof value, alignof(u64), ::twofour_emulator::kStoreGlobal, site);
  return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

TWOFOUR_DEVICE void thread_fence() { __atomic_thread_fence(__ATOMIC_ACQ_REL); }

// Shared memory's own addresses: dynamic from 1 KiB on, static from 1 MiB on.
TWOFOUR_DEVICE u32 shared_address(const void* shared, Site site = Site::here()) {
  check_shared("shared_address", shared, 0, 1, site);
  const auto* me = twofour_emulator_current;
  const auto address = reinterpret_cast<std::uintptr_t>(shared);
  if (::twofour_emulator::inside(me->dynamic_shared, address, 0))
    return u32(address - me->dynamic_shared.start) + 1024u;
  return u32(address - me->static_shared.start) + (1u << 20);
}

// The data lands when the thread waits for it, or at once, as the schedule has it (src/copies.rs): a kernel must be
// right with both.
TWOFOUR_DEVICE void checked_copy(void* shared, const void* from, u32 bytes, u32 valid, Site site) {
  check_shared("cp.async", shared, bytes, bytes, site);
  check(from, valid < bytes ? valid : bytes, bytes, ::twofour_emulator::kCopySource, site);
  twofour_emulator_copy(twofour_emulator_current, shared, from, bytes, valid);
}
TWOFOUR_DEVICE void cp_async_16(void* shared, const void* from, Site site = Site::here()) {
  checked_copy(shared, from, 16, 16, site);
}
TWOFOUR_DEVICE void cp_async_16(void* shared, const void* from, u32 valid, Site site = Site::here()) {
  checked_copy(shared, from, 16, valid, site);
}
TWOFOUR_DEVICE void cp_async_8(void* shared, const void* from, Site site = Site::here()) {
  checked_copy(shared, from, 8, 8, site);
}
TWOFOUR_DEVICE void cp_async_8(void* shared, const void* from, u32 valid, Site site = Site::here()) {
  checked_copy(shared, from, 8, valid, site);
}
TWOFOUR_DEVICE void cp_async_4(void* shared, const void* from, Site site = Site::here()) {
  checked_copy(shared, from, 4, 4, site);
}
TWOFOUR_DEVICE void cp_async_4(void* shared, const void* from, u32 valid, Site site = Site::here()) {
  checked_copy(shared, from, 4, valid, site);
}
TWOFOUR_DEVICE void cp_async_commit() { twofour_emulator_copy_commit(twofour_emulator_current); }
template <u32 N>
TWOFOUR_DEVICE void cp_async_wait() {
  twofour_emulator_copy_wait(twofour_emulator_current, N);
}
TWOFOUR_DEVICE void cp_async_wait_all() { twofour_emulator_copy_wait_all(twofour_emulator_current); }

}  // namespace twofour
