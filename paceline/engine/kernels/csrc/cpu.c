#define _GNU_SOURCE
#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* See arch_prctl(2) of Linux: the system keeps a process's tiles only if it asked for them. */
enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };

/* A bit of a CPUID leaf's register: those that __builtin_cpu_supports does not know everywhere. */
typedef enum { EAX, EBX, ECX, EDX } cpuid_register;

static bool cpuid_bit(unsigned leaf, unsigned subleaf, cpuid_register which, int bit) {
    unsigned r[4];
    if (!__get_cpuid_count(leaf, subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX])) return false;
    return r[which] >> bit & 1;
}

bool cpu_has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           cpuid_bit(1, 0, ECX, 29);
}

bool cpu_has_avxvnni(void) { return cpu_has_avx2() && cpuid_bit(7, 1, EAX, 4); }

bool cpu_has_avx512(void) { return cpu_has_avx2() && __builtin_cpu_supports("avx512f"); }

bool cpu_has_avx512vnni(void) {
    return cpu_has_avx512() && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

static bool tiles_permitted(void) {
#if defined(__linux__)
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

bool cpu_has_amx(void) {
    return cpu_has_avx512vnni() && cpuid_bit(7, 0, EDX, 24) && cpuid_bit(7, 0, EDX, 25) &&
           tiles_permitted();
}
#endif
