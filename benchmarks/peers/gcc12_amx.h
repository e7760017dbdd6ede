// Put before every file of llama.cpp (see the Makefile). GCC before 13 does not know that these two AMX instructions
// read memory: it leaves out the stores to the tiles' configuration, and llama.cpp ends with a segmentation fault in
// ggml_backend_amx_mul_mat on every prompt of quantized weights.
#if defined(__x86_64__) && !defined(__clang__) && __GNUC__ < 13
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" : : "m"(*(const char(*)[64])(config)) : "memory")
#undef _tile_loadd_internal
#define _tile_loadd_internal(dst, base, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #dst : : "r"((const void*)(base)), "r"((long)(stride)) : "memory")
#endif
