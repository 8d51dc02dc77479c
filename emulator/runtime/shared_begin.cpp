// The first of the objects that build.rs joins: static shared memory begins behind this variable.
extern "C" __thread char twofour_emulator_shared_begin[64] __attribute__((aligned(64)));
extern "C" __thread char twofour_emulator_shared_begin[64] = {};
