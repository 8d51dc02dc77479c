// The few things that have to be C++: the current thread, the entry into a kernel, and where static shared memory is.
#include "emulator.hpp"

#if defined(__linux__)
#include <link.h>
#endif

using twofour_emulator::Kernel;
using twofour_emulator::Thread;

extern "C" {

__thread Thread* twofour_emulator_current = nullptr;

// Runs one thread of a kernel.
void twofour_emulator_enter(const Kernel* kernel, const void* args, Thread* thread) {
  twofour_emulator_current = thread;
  kernel->entry(args);
  twofour_emulator_current = nullptr;
}

// For the test that src/thread.rs says the same.
std::size_t twofour_emulator_thread_size() { return sizeof(Thread); }

#if defined(__linux__)

// The linker's names for both ends of the section of static shared memory (build.rs); none if no kernel has any.
extern char __start_twofour_shared[] __attribute__((weak));
extern char __stop_twofour_shared[] __attribute__((weak));

struct StaticShared {
  void* start;
  std::size_t bytes;
};

// The section as the linker placed it is the image of a thread's own copy, which is at the same distance from the start
// of the thread's block.
static int find_static_shared(dl_phdr_info* module, std::size_t, void* found) {
  const auto section = reinterpret_cast<std::uintptr_t>(__start_twofour_shared);
  for (int i = 0; i < module->dlpi_phnum; ++i) {
    const auto& segment = module->dlpi_phdr[i];
    const auto start = module->dlpi_addr + segment.p_vaddr;
    if (segment.p_type != PT_TLS || section < start || section >= start + segment.p_memsz) continue;
    if (module->dlpi_tls_data == nullptr) return 1;
    auto* shared = static_cast<StaticShared*>(found);
    shared->start = static_cast<char*>(module->dlpi_tls_data) + (section - start);
    shared->bytes = static_cast<std::size_t>(__stop_twofour_shared - __start_twofour_shared);
    return 1;
  }
  return 0;
}

// The calling OS thread's static shared memory, of all kernels together.
void twofour_emulator_static_shared(void** start, std::size_t* bytes) {
  StaticShared shared{nullptr, 0};
  if (&__start_twofour_shared[0] != &__stop_twofour_shared[0]) dl_iterate_phdr(find_static_shared, &shared);
  *start = shared.start;
  *bytes = shared.bytes;
}

// Mirrors `Image` in src/access.rs.
struct Image {
  std::uintptr_t start, end;
  std::uintptr_t base;
};

struct ImageSearch {
  std::uintptr_t address;
  Image* image;
};

static int find_image(dl_phdr_info* module, std::size_t, void* context) {
  const auto* search = static_cast<const ImageSearch*>(context);
  for (int i = 0; i < module->dlpi_phnum; ++i) {
    const auto& segment = module->dlpi_phdr[i];
    const auto start = module->dlpi_addr + segment.p_vaddr;
    if (segment.p_type != PT_LOAD || search->address < start || search->address >= start + segment.p_memsz) continue;
    *search->image = Image{start, start + segment.p_memsz, module->dlpi_addr};
    return 1;
  }
  return 0;
}

// The part of a loaded program or library that holds an address: code, or a kernel's tables.
bool twofour_emulator_in_image(std::uintptr_t address, Image* image) {
  ImageSearch search{address, image};
  return dl_iterate_phdr(find_image, &search) != 0;
}

#else

void twofour_emulator_static_shared(void** start, std::size_t* bytes) {
  *start = nullptr;
  *bytes = 0;
}

// Not known: tables are then out of bounds for load().
bool twofour_emulator_in_image(std::uintptr_t, void*) { return false; }

#endif
}
