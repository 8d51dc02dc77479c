// The last of the objects that build.rs joins: static shared memory ends in front of this variable.
extern "C" __thread char twofour_emulator_shared_end[64] __attribute__((aligned(64)));
extern "C" __thread char twofour_emulator_shared_end[64] = {};
