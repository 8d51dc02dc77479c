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

// The calling OS thread's static shared memory, of all kernels together.
#if TWOFOUR_EMULATOR_JOINED

extern __thread char twofour_emulator_shared_begin[64];
extern __thread char twofour_emulator_shared_end[64];

void twofour_emulator_static_shared(char** start, std::size_t* bytes) {
  *start = twofour_emulator_shared_begin + sizeof twofour_emulator_shared_begin;
  *bytes = static_cast<std::size_t>(twofour_emulator_shared_end - *start);
}

#else

void twofour_emulator_static_shared(char** start, std::size_t* bytes) {
  *start = nullptr;
  *bytes = 0;
}

#endif

#if defined(__linux__)

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

// Not known: tables are then out of bounds for load().
bool twofour_emulator_in_image(std::uintptr_t, void*) { return false; }

#endif
}
